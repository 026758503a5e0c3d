"""What a user can choose about an export, in one dataclass that is checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..errors import OptionError
from ..system.plain import from_plain, to_plain
from .tasks import OUTPUT_FORMATS, Task

BACKENDS = ("cuda", "xnnpack")
PRECISIONS = ("tf32", "fp32", "fp16", "bf16")
INPUT_FORMATS = ("float32", "uint8")
IO_PLACES = ("host", "device")
RUNNERS = ("auto", "executorch", "aoti")
AUTOTUNE = ("off", "fast", "full")

STRIDE = 32
"""The largest stride, in pixels, of all published models but p6."""
SMALLEST_IMGSZ = 320
LARGEST_IMGSZ = 8192


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported; every field lands in the artifact's manifest.

    `imgsz` is (height, width) in pixels, or None for the model's native size; `resolve` settles it.

    Examples:
        >>> options = ExportOptions("cuda", precision="fp16", imgsz=None)
        >>> options.resolve(TASKS["obb"]).size
        (1024, 1024)
        >>> ExportOptions.from_json(options.to_json()) == options
        True
    """

    backend: str = "xnnpack"
    precision: str = "tf32"
    imgsz: tuple[int, int] | None = (640, 640)
    batch: int = 1
    outputs: str = "named"
    input: str = "float32"
    io: str = "host"
    random_weights: bool = False
    seed: int = 0
    autotune: str = "off"
    words: tuple[str, ...] = ()
    """The classes of an open-vocabulary model."""

    def __post_init__(self) -> None:
        """Refuse every value that is illegal whatever the task; raises OptionError."""
        _one_of("--backend", self.backend, BACKENDS)
        _one_of("--precision", self.precision, PRECISIONS)
        _one_of("--outputs", self.outputs, OUTPUT_FORMATS)
        _one_of("--input", self.input, INPUT_FORMATS)
        _one_of("--io", self.io, IO_PLACES)
        _one_of("--autotune", self.autotune, AUTOTUNE)
        for word in self.words:
            if not word.strip() or self.words.count(word) > 1:
                raise OptionError(f"--words {word!r}: expected names of classes, each once")
        if self.batch < 1:
            raise OptionError(f"--batch {self.batch}: expected a whole number from 1 up; try --batch 1")
        if self.backend == "xnnpack" and self.io == "device":
            raise OptionError("--io device keeps tensors in GPU memory and needs --backend cuda; try --io host")
        if self.backend == "xnnpack" and self.autotune != "off":
            raise OptionError(f"--autotune {self.autotune} measures GPU kernels and needs --backend cuda; leave it out")
        if self.backend == "xnnpack" and self.precision in ("fp16", "bf16"):
            raise OptionError(
                f"--precision {self.precision} needs --backend cuda; XNNPACK models compute in float32: "
                "try --precision fp32"
            )

    def resolve(self, task: Task, stride: int = STRIDE, native: tuple[int, int] | None = None) -> ExportOptions:
        """Return the options with the input's size settled for a task and a model's largest stride.

        `native` is the variant's native size, where the model is one; otherwise the task's is taken.

        Raises:
            OptionError: the size is illegal for the task; the message names the nearest legal one.
        """
        height, width = self.imgsz or native or task.native
        check_imgsz(height, width, task, stride)
        return replace(self, imgsz=(height, width))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, once `resolve` has settled it."""
        if self.imgsz is None:
            raise ValueError("options were not resolved for a task")
        return self.imgsz

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the manifest."""
        return cast("dict[str, Any]", to_plain(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExportOptions:
        """Read back what `to_json` wrote; raises OptionError, or ValueError on malformed data."""
        return from_plain(data, cls)


def parse_imgsz(words: Sequence[str]) -> tuple[int, int] | None:
    """Read `--imgsz`'s words: one number, two (height, width), or `native` (None).

    Raises:
        OptionError: anything else.
    """
    if list(words) == ["native"]:
        return None
    if len(words) in (1, 2) and all(word.isdigit() for word in words):
        numbers = [int(word) for word in words]
        return numbers[0], numbers[-1]
    raise OptionError(
        f"--imgsz {' '.join(words)}: expected one number, two (height, width), or native; try --imgsz 640"
    )


def check_imgsz(height: int, width: int, task: Task, stride: int = STRIDE) -> None:
    """Refuse a size that the task, or a model of that largest stride, cannot take.

    Legal is a multiple of the stride from 320 to 8192 pixels each way, and the native size of a task that has a
    smaller one (classify: 224).

    Raises:
        OptionError: naming the nearest legal sizes.
    """
    smaller = task.native[0] if min(task.native) < SMALLEST_IMGSZ else None
    if (height, width) == task.native or (_legal_side(height, stride) and _legal_side(width, stride)):
        return
    near = _nearest_sides(height, stride), _nearest_sides(width, stride)
    choices = [f"--imgsz {a}" if a == b else f"--imgsz {a} {b}" for a, b in zip(*_padded(*near), strict=True)]
    if smaller and f"--imgsz {smaller}" not in choices:
        choices.append(f"--imgsz {smaller}")
    given = f"{height}" if height == width else f"{height} {width}"
    raise OptionError(
        f"--imgsz {given}: {task.name} takes multiples of {stride} from {SMALLEST_IMGSZ} to {LARGEST_IMGSZ} pixels"
        + (f", or {smaller}" if smaller else "")
        + f"; nearest: {' or '.join(dict.fromkeys(choices))}"
    )


def _legal_side(side: int, stride: int) -> bool:
    return side % stride == 0 and SMALLEST_IMGSZ <= side <= LARGEST_IMGSZ


def _nearest_sides(side: int, stride: int) -> list[int]:
    """Return the legal sides just below and above, one where they coincide."""
    clamped = min(max(side, SMALLEST_IMGSZ), LARGEST_IMGSZ)
    below = clamped // stride * stride
    above = -(-clamped // stride) * stride
    return [below] if below == above else [below, above]


def _padded(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    length = max(len(first), len(second))
    return (first * length)[:length], (second * length)[:length]


def _one_of(flag: str, given: str, legal: Sequence[str]) -> None:
    if given not in legal:
        raise OptionError(f"{flag} {given}: expected one of {', '.join(legal)}")
