"""What an artifact says of itself: the manifest, its JSON form, and the strict reading of it.

A manifest comes from a file that anybody may have written, so every field is checked, for its type and beside the
others, before anything else looks at it. Fields may be added without a new schema: they have a default, and who does
not know them passes them over.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

from msgspec import Meta

from ..errors import ArtifactError, Yolo26Error, first_line
from ..models.checkpoints import CheckpointRecord
from ..models.options import BACKENDS, ExportOptions
from ..models.tasks import TASKS, TensorSpec
from ..models.variants import ALL_VARIANTS
from ..system.plain import decode, to_plain

if TYPE_CHECKING:
    from typing_extensions import Self

PROGRAM = "model.pte"
WEIGHTS = "aoti_cuda_blob.ptd"
MANIFEST = "manifest.json"
CARD = "README.md"

SCHEMA = 2
"""Version of the manifest's fields: another number, other meanings."""
_READABLE = (1, SCHEMA)
"""Schema 1 lacks fields that have a default now."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Names that are safe as a file's or a folder's, on every system."""

LARGEST_MANIFEST = 16_000_000
"""Bytes; one of 20 000 classes has 1 MB."""
_LARGEST_NUMBER = 10**15
"""No size, count or time comes near; from 10**308 on, what formats or divides them fails."""
_DEEPEST = 50
"""Levels in a test's figures; an export writes fewer than ten."""

_CAPABILITY = re.compile(r"(\d{1,3})\.(\d{1,3})(a?)")
_TENSOR_DTYPES = ("float32", "uint8", "int32")
_FIRST_OPTIONS = (
    "backend",
    "precision",
    "imgsz",
    "batch",
    "outputs",
    "input",
    "io",
    "random_weights",
    "seed",
    "autotune",
)
"""Options that every manifest has; those added later may be missing."""

Name = Annotated[str, Meta(pattern=rf"\A{PLAIN_NAME.pattern}\Z")]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, lt=_LARGEST_NUMBER)]
Seconds = Annotated[float, Meta(gt=-_LARGEST_NUMBER, lt=_LARGEST_NUMBER)]
Capability = Annotated[str, Meta(pattern=rf"\A{_CAPABILITY.pattern}\Z")]


FIRST_WITH_TF32 = (8, 0)
"""The lowest compute capability that multiplies in TF32: Ampere."""


def computed_precision(backend: str, named: str, capabilities: Iterable[str] = ()) -> str:
    """Return the precision that a model computes in: TF32 is float32 on a CPU, and on GPUs that have none.

    Args:
        backend: "cuda" or "xnnpack".
        named: the precision that was asked for.
        capabilities: compute capabilities of the GPUs that it is for, such as "8.6" or "10.0a", as far as known.
    """
    if named != "tf32":
        return named
    gpus = [_numbers(name) for name in capabilities]
    return "fp32" if backend != "cuda" or (gpus and max(gpus) < FIRST_WITH_TF32) else named


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact."""

    sha256: Digest
    bytes: Count


@dataclass(frozen=True)
class Platform:
    """Where an artifact can run; XNNPACK artifacts hold no native code and say "any" for system and machine."""

    system: Name
    """`platform.system()`, such as "Linux"."""
    machine: Name
    """`platform.machine()`, such as "x86_64"."""
    gpu_binaries: tuple[Capability, ...]
    """Compute capabilities whose machine code is inside: "8.6", or "10.0a" for code that no other capability runs."""
    gpu_ptx: tuple[Capability, ...]
    """Capabilities whose PTX is inside; the driver compiles it for these and all newer GPUs."""
    architectures: tuple[Capability, ...] = ()
    """Compute capabilities that were asked for; none for XNNPACK, and in manifests of schema 1."""
    glibc: Annotated[str, Meta(pattern=r"\A\d{1,3}\.\d{1,3}\Z")] | None = None
    """The oldest version of the C library that the native code runs with, such as "2.28"; None: not known, or none."""
    glibcxx: Annotated[str, Meta(pattern=r"\A\d{1,3}(\.\d{1,3}){1,2}\Z")] | None = None
    """The newest version of libstdc++'s symbols that it needs, such as "3.4.22"."""
    driver: Annotated[str, Meta(pattern=r"\A\d{1,4}(\.\d{1,4}){0,2}\Z")] | None = None
    """The oldest NVIDIA driver that it runs with, such as "525.60.13"."""

    @property
    def capabilities(self) -> list[str]:
        """The compute capabilities that it runs on, in words, such as "9.0" and "8.6 and newer"."""
        exact = [name.removesuffix("a") for name in self.gpu_binaries if name not in self.gpu_ptx]
        return [*exact, *(f"{name} and newer" for name in self.gpu_ptx)]

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of a compute capability (major, minor) runs what is inside.

        By NVIDIA's rule machine code runs on its own major capability from its minor upwards ("a": on that one alone),
        and PTX on its capability and everything newer.
        """
        return any(_runs_binary(name, capability) for name in self.gpu_binaries) or any(
            _numbers(name) <= capability for name in self.gpu_ptx
        )


@dataclass(frozen=True)
class DelegateRecord:
    """What runs the model, and how much of it."""

    name: str
    """"CudaBackend" or "XnnpackBackend"."""
    delegated: Count
    """Operators inside."""
    outside: dict[str, Count]
    """Operators that were left outside, by name."""


@dataclass(frozen=True)
class _Head:
    """What is looked at before anything else."""

    schema: Any
    options: Any
    licence: Any


@dataclass(frozen=True)
class Manifest:
    """Everything that an artifact says of itself.

    Examples:
        >>> manifest = load_manifest("yolo26_cuda_exports/yolo26n")
        >>> manifest.name, manifest.task, manifest.backend, manifest.precision
        ('yolo26n...', 'detect', ...)
        >>> Manifest.from_json(manifest.to_json()) == manifest
        True
        >>> Manifest.decode(Path("yolo26_cuda_exports/yolo26n/manifest.json").read_bytes()) == manifest
        True
    """

    name: Name
    variant: str | None
    """The published variant; None for a checkpoint of the user's own."""
    task: str
    backend: str
    options: ExportOptions
    checkpoint: CheckpointRecord
    classes: dict[int, str]
    keypoint_shape: tuple[int, int] | None
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    delegate: DelegateRecord
    platform: Platform
    versions: dict[str, str]
    command: str
    """The command that made it."""
    created: str
    """ISO 8601, UTC."""
    seconds: dict[str, Seconds]
    """Time of each stage."""
    files: dict[Name, FileRecord]
    """Every file of the folder but the manifest."""
    test: dict[str, Any] | None
    """The inference test's figures; None where the test was left out."""
    licence: str = "AGPL-3.0-or-later"
    schema: int = SCHEMA

    @property
    def precision(self) -> str:
        """The precision that it computes in; `options.precision` is what was asked for."""
        gpus = (*self.platform.gpu_binaries, *self.platform.gpu_ptx)
        return computed_precision(self.backend, self.options.precision, gpus)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the file."""
        return cast("dict[str, Any]", to_plain(self))

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read back what `to_json` wrote; errors are those of `decode`."""
        try:
            # Through text, so that lists, keys, NaN and broken Unicode are what a file could hold.
            text = json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArtifactError(f"it is not plain JSON data ({first_line(error)})") from error
        return cls.decode(text)

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """Read a manifest's JSON, of this schema or of one before it.

        Every field that has no default must be there; all must be of their type, and make sense beside the others.

        Raises:
            ArtifactError: anything else, naming the first field that is wrong; never another class.
        """
        try:
            head = decode(text, _Head)
            if type(head.schema) is not int or head.schema not in _READABLE:
                raise ArtifactError(
                    f"schema: expected {' or '.join(map(str, _READABLE))}, given {reprlib.repr(head.schema)}; read it "
                    "with the version of yolo26-executorch that wrote it"
                )
            options = head.options if isinstance(head.options, dict) else {}
            if missing := [name for name in _FIRST_OPTIONS if name not in options]:
                raise ArtifactError(f"options.{missing[0]}: missing")
            manifest = replace(decode(text, cls), schema=SCHEMA)
        except ValueError as error:
            raise ArtifactError(first_line(error)) from error
        except ArtifactError:
            raise
        except Yolo26Error as error:
            raise ArtifactError(f"options: {first_line(error)}") from error
        _check(manifest)
        return manifest


def _check_bounds(value: object, where: str, levels: int = _DEEPEST) -> None:
    """Refuse data of any form that something which formats it, or walks through it, could choke on."""
    if levels == 0:
        raise ArtifactError(f"{where}: nested more than {_DEEPEST} levels deep")
    if isinstance(value, int) and abs(value) >= _LARGEST_NUMBER:
        raise ArtifactError(f"{where}: expected a number below {_LARGEST_NUMBER:g}, given {reprlib.repr(value)}")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_bounds(inner, where, levels - 1)


def _check(manifest: Manifest) -> None:
    """Refuse values of the right type that make no sense; raises ArtifactError naming the field."""
    checkpoint = manifest.checkpoint
    variant = ALL_VARIANTS.get(manifest.variant) if manifest.variant else None
    specs = (manifest.input, *manifest.outputs)
    needed = {"cuda": (PROGRAM, WEIGHTS), "xnnpack": (PROGRAM,)}.get(manifest.backend, ())
    rules = {
        "task": manifest.task in TASKS,
        "variant": manifest.variant is None or (variant is not None and variant.task.name == manifest.task),
        "backend": manifest.backend in BACKENDS,
        "options.backend": manifest.options.backend == manifest.backend,
        "options.imgsz": manifest.options.imgsz is not None,
        "checkpoint.origin": checkpoint.origin in ("published", "user", "random"),
        "checkpoint.file": checkpoint.file is None or _is_file_name(checkpoint.file),
        "checkpoint.sha256": (checkpoint.sha256 is None) == (checkpoint.origin == "random"),
        "checkpoint.seed": (checkpoint.seed is not None) == (checkpoint.origin == "random"),
        "classes": sorted(manifest.classes) == list(range(len(manifest.classes))) and manifest.classes,
        "keypoint_shape": min(manifest.keypoint_shape or (1,)) > 0,
        "outputs": manifest.outputs,
        "shape": all(spec.shape and min(spec.shape) > 0 for spec in specs),
        "dtype": all(spec.dtype in _TENSOR_DTYPES for spec in specs),
        "files": all(name in manifest.files for name in needed) and MANIFEST not in manifest.files,
        "created": _is_time(manifest.created),
    }
    for field, holds in rules.items():
        if not holds:
            raise ArtifactError(f"{field}: the value is not one that an export writes")
    numbers = (*manifest.options.size, manifest.options.batch, manifest.options.seed, checkpoint.seed)
    _check_bounds(
        [*numbers, *(list(spec.shape) for spec in specs), list(manifest.keypoint_shape or ())],
        "shape, options or keypoint_shape",
    )
    _check_bounds(manifest.test, "test")


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
