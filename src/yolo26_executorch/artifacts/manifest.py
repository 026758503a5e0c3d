"""What an artifact says of itself: the manifest, its JSON form, and the strict reading of it.

A manifest comes from a file that anybody may have written, so every field is checked, for its type and beside the
others, before anything else looks at it.
"""

from __future__ import annotations

import json
import re
import reprlib
import types
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin, get_type_hints

from ..errors import ArtifactError, Yolo26Error, first_line
from ..models.options import BACKENDS, ExportOptions
from ..models.tasks import TASKS, TensorSpec
from ..models.variants import VARIANTS

if TYPE_CHECKING:
    from typing_extensions import Self

PROGRAM = "model.pte"
WEIGHTS = "aoti_cuda_blob.ptd"
MANIFEST = "manifest.json"
CARD = "README.md"

SCHEMA = 1
"""Version of the manifest's fields: another number, other fields."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Names that are safe as a file's or a folder's, on every system."""

LARGEST_MANIFEST = 16_000_000
"""Bytes; one of 20 000 classes has 1 MB."""
_LARGEST_NUMBER = 10**15
"""No size, count or time comes near; from 10**308 on, what formats or divides them fails."""
_DEEPEST = 50
"""Levels in a test's figures; an export writes fewer than ten."""

_CAPABILITY = re.compile(r"(\d{1,3})\.(\d{1,3})(a?)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TENSOR_DTYPES = ("float32", "uint8")


def computed_precision(backend: str, named: str) -> str:
    """Return the precision that a model computes in: XNNPACK's is float32 whatever name it goes by."""
    return named if backend == "cuda" else "fp32"


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Platform:
    """Where an artifact can run; XNNPACK artifacts hold no native code and say "any" for system and machine."""

    system: str
    """`platform.system()`, such as "Linux"."""
    machine: str
    """`platform.machine()`, such as "x86_64"."""
    gpu_binaries: tuple[str, ...]
    """Compute capabilities whose machine code is inside: "8.6", or "10.0a" for code that no other capability runs."""
    gpu_ptx: tuple[str, ...]
    """Capabilities whose PTX is inside; the driver compiles it for these and all newer GPUs."""

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of a compute capability (major, minor) runs what is inside.

        By NVIDIA's rule machine code runs on its own major capability from its minor upwards ("a": on that one alone),
        and PTX on its capability and everything newer.
        """
        return any(_runs_binary(name, capability) for name in self.gpu_binaries) or any(
            _numbers(name) <= capability for name in self.gpu_ptx
        )


@dataclass(frozen=True)
class _Checkpoint:
    """The fields of `Manifest.checkpoint`."""

    origin: str
    file: str | None
    sha256: str | None
    seed: int | None
    folder: str | None


@dataclass(frozen=True)
class _Delegate:
    """The fields of `Manifest.delegate`."""

    name: str
    delegated: int
    outside: dict[str, int]


@dataclass(frozen=True)
class Manifest:
    """Everything that an artifact says of itself."""

    name: str
    variant: str | None
    """The published variant; None for a checkpoint of the user's own."""
    task: str
    backend: str
    options: ExportOptions
    checkpoint: dict[str, Any]
    """{"origin": "published" | "user" | "random", "file": str | None, "sha256": str | None, "seed": int | None,
    "folder": str | None}; the last folders of the path that the file was loaded from, where that was the user's own."""
    classes: dict[int, str]
    keypoint_shape: tuple[int, int] | None
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    delegate: dict[str, Any]
    """{"name": "CudaBackend" | "XnnpackBackend", "delegated": operators inside, "outside": {operator: count}}."""
    platform: Platform
    versions: dict[str, str]
    command: str
    """The command that made it."""
    created: str
    """ISO 8601, UTC."""
    seconds: dict[str, float]
    """Time of each stage."""
    files: dict[str, FileRecord]
    """Every file of the folder but the manifest."""
    test: dict[str, Any] | None
    """The inference test's figures; None where the test was left out."""
    licence: str = "AGPL-3.0-or-later"
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the file."""
        return {**asdict(self), "classes": {str(index): name for index, name in self.classes.items()}}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read back what `to_json` wrote.

        Every field must be there, of its type, and make sense beside the others; fields of other names are refused.

        Raises:
            ArtifactError: anything else, naming the first field that is wrong; never another class.
        """
        try:
            # Through text and back, so that lists, keys, NaN and broken Unicode are what a file could hold.
            data = json.loads(json.dumps(data, ensure_ascii=False, allow_nan=False).encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise ArtifactError(f"it is not plain JSON data ({first_line(error)})") from error
        if isinstance(data, dict) and data.get("schema") != SCHEMA:
            raise ArtifactError(
                f"schema: expected {SCHEMA}, given {reprlib.repr(data.get('schema'))}; read it with the version of "
                "yolo26-executorch that wrote it"
            )
        manifest = cast("Self", typed(data, cls, ""))
        _check(manifest)
        return manifest


def typed(value: object, hint: Any, where: str) -> Any:
    """Return JSON data as the type that an annotation names; raises ArtifactError where it is something else."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return _bounded(value, where, _DEEPEST)
    if origin is types.UnionType:
        return None if value is None else typed(value, inner[0], where)
    if is_dataclass(hint) and isinstance(value, dict):
        names = [field.name for field in fields(hint)]
        if wrong := [name for name in names if name not in value] + [key for key in value if key not in names]:
            state = "missing" if wrong[0] in names else "not a field of this version"
            raise ArtifactError(f"{_join(where, reprlib.repr(wrong[0])[1:-1])}: {state}")
        hints = get_type_hints(hint)
        values = {name: typed(value[name], hints[name], _join(where, name)) for name in names}
        try:
            return cast(type, hint)(**values)
        except Yolo26Error as error:
            raise ArtifactError(f"{where}: {first_line(error)}") from error
    if origin is tuple and isinstance(value, list):
        item_hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(item_hints) == len(value):
            return tuple(typed(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, item_hints, strict=True)))
    if origin is dict and isinstance(value, dict) and (inner[0] is str or all(map(_is_index, value))):
        return {inner[0](key): typed(v, inner[1], f"{where}[{reprlib.repr(key)}]") for key, v in value.items()}
    if hint is float and type(value) in (int, float) and abs(cast(float, value)) < _LARGEST_NUMBER:
        return float(cast(float, value))
    # `type`, not `isinstance`: True is no number.
    if origin is None and type(value) is hint and not (hint is int and abs(cast(int, value)) >= _LARGEST_NUMBER):
        return value
    name = hint.__name__ if isinstance(hint, type) and origin is None else str(hint)
    raise ArtifactError(f"{where or 'manifest'}: expected {name}, given {reprlib.repr(value)}")


def _bounded(value: object, where: str, levels: int) -> object:
    """Return data of any form, if nothing that formats it or walks through it can choke on it."""
    if levels == 0:
        raise ArtifactError(f"{where}: nested more than {_DEEPEST} levels deep")
    if isinstance(value, int) and abs(value) >= _LARGEST_NUMBER:
        raise ArtifactError(f"{where}: expected a number below {_LARGEST_NUMBER:g}, given {reprlib.repr(value)}")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _bounded(inner, where, levels - 1)
    return value


def _check(manifest: Manifest) -> None:
    """Refuse values of the right type that make no sense; raises ArtifactError naming the field."""
    checkpoint: _Checkpoint = typed({"folder": None, **manifest.checkpoint}, _Checkpoint, "checkpoint")
    delegate: _Delegate = typed(manifest.delegate, _Delegate, "delegate")
    variant = VARIANTS.get(manifest.variant) if manifest.variant else None
    specs = (manifest.input, *manifest.outputs)
    platform = manifest.platform
    hashes = [record.sha256 for record in manifest.files.values()]
    counts = [record.bytes for record in manifest.files.values()] + [delegate.delegated, *delegate.outside.values()]
    needed = {"cuda": (PROGRAM, WEIGHTS), "xnnpack": (PROGRAM,)}.get(manifest.backend, ())
    rules = {
        "name": PLAIN_NAME.fullmatch(manifest.name),
        "task": manifest.task in TASKS,
        "variant": manifest.variant is None or (variant is not None and variant.task.name == manifest.task),
        "backend": manifest.backend in BACKENDS,
        "options.backend": manifest.options.backend == manifest.backend,
        "options.imgsz": manifest.options.imgsz is not None,
        "checkpoint.origin": checkpoint.origin in ("published", "user", "random"),
        "checkpoint.file": checkpoint.file is None or _is_file_name(checkpoint.file),
        "checkpoint.sha256": (
            checkpoint.sha256 is None if checkpoint.origin == "random" else _SHA256.fullmatch(checkpoint.sha256 or "")
        ),
        "checkpoint.seed": (checkpoint.seed is not None) == (checkpoint.origin == "random"),
        "classes": sorted(manifest.classes) == list(range(len(manifest.classes))) and manifest.classes,
        "keypoint_shape": min(manifest.keypoint_shape or (1,)) > 0,
        "outputs": manifest.outputs,
        "shape": all(spec.shape and min(spec.shape) > 0 for spec in specs),
        "dtype": all(spec.dtype in _TENSOR_DTYPES for spec in specs),
        "platform": all(PLAIN_NAME.fullmatch(name) for name in (platform.system, platform.machine)),
        "platform.gpu_binaries": all(_CAPABILITY.fullmatch(name) for name in platform.gpu_binaries),
        "platform.gpu_ptx": all(_CAPABILITY.fullmatch(name) for name in platform.gpu_ptx),
        "files (names)": all(PLAIN_NAME.fullmatch(name) and name != MANIFEST for name in manifest.files),
        "files (SHA-256)": all(_SHA256.fullmatch(digest) for digest in hashes),
        "files (sizes) or delegate (counts)": min(counts) >= 0,
        "files": all(name in manifest.files for name in needed),
        "created": _is_time(manifest.created),
    }
    for field, holds in rules.items():
        if not holds:
            raise ArtifactError(f"{field}: the value is not one that an export writes")


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 10


def _is_file_name(text: str) -> bool:
    """Whether a text is a file's name, whatever letters its owner likes, and no path to elsewhere."""
    return 0 < len(text.encode()) < 256 and not set(text) & set("/\0") and text not in (".", "..")


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() is not None
    except ValueError:
        return False


def _numbers(capability: str) -> tuple[int, int]:
    match = _CAPABILITY.fullmatch(capability)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _runs_binary(name: str, capability: tuple[int, int]) -> bool:
    major, minor = _numbers(name)
    return capability == (major, minor) or (
        not name.endswith("a") and capability[0] == major and capability[1] >= minor
    )


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
