"""The protocol of runners, and what they share: one call at a time, in one process, and the check of their input."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, UsageError, first_line
from ..models.tasks import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from typing_extensions import Self

    Images = torch.Tensor | NDArray[np.generic]


class Runner(Protocol):
    """Runs one model. Used as a context manager, or closed by hand.

    Any number of threads may call a runner; it takes them one at a time, and each gets the outputs of its own images.
    A runner belongs to the process that opened it: in a forked child every call raises UsageError, and the child opens
    one of its own.

    Examples:
        >>> import torch
        >>> run = open_runner("yolo26_cuda_exports/yolo26n")
        >>> [*run(torch.rand(run.input.shape), outputs=["detections"])]
        ['detections']
        >>> run.close()
    """

    name: str
    """"executorch", "aoti" or "eager"."""
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    device: torch.device
    """Where it computes, and where outputs are that stay on the device."""

    def __call__(
        self, images: Images, *, outputs: Sequence[str] | None = None, on_device: bool = False
    ) -> dict[str, torch.Tensor]:
        """Run one batch.

        Args:
            images: as `input` says; made contiguous, and cast from other floating dtypes, where needed.
            outputs: names of the outputs wanted; others are neither returned nor copied. None: all.
            on_device: leave the outputs on the device that computed them, where the runtime can; they are there when
                what its current stream holds is done.

        Returns:
            Each output by name, in the order of `self.outputs` and in memory of the caller's own; on the CPU unless
            `on_device` or the artifact was made with `--io device`.

        Raises:
            InputError: a shape, dtype or range that is not the model's, or an output that it does not have.
            UsageError: the runner was closed, or this process is a forked child of the one that opened it.
        """

    def close(self) -> None:
        """Give back what the model holds; the runner is of no use afterwards. Calls that run are waited for."""

    def __enter__(self) -> Self:
        """Return the runner."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the runner."""


class Owner:
    """The process that made something which is of no use in a child that it forks."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def is_here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Refuse to go on in another process; raises UsageError."""
        if not self.is_here():
            raise UsageError(
                f"this model was opened in process {self._process}, and process {os.getpid()} is a fork of it, without "
                "its threads and its GPU; open the model in the child, start children with "
                'multiprocessing.get_context("spawn"), or call it from threads'
            )


class BaseRunner:
    """What all runners share: one call at a time, in the process that opened it, until it is closed."""

    def __init__(self) -> None:
        self._owner = Owner()
        self._lock = threading.RLock()
        self._closed = False

    def close(self) -> None:
        """Give back what the model holds, after the calls that run; a forked child has nothing to give back."""
        if self._owner.is_here():
            with self._lock:
                if not self._closed:
                    self._closed = True
                    self._release()

    def _release(self) -> None:
        """Give back what the model holds; called once."""

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other threads out.

        Raises:
            UsageError: the runner was closed, or this is a forked child. The lock is not looked at then: whoever held
                it is not in this process.
        """
        self._owner.check()
        with self._lock:
            if self._closed:
                raise UsageError("the runner was closed; open the artifact again")
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose(specs: Sequence[TensorSpec], names: Sequence[str] | None) -> list[int]:
    """Return the indices of the outputs of these names, in the model's order; of all where `names` is None.

    Raises:
        InputError: the model has no such output.
    """
    known = [spec.name for spec in specs]
    if names is None:
        return list(range(len(known)))
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"expected outputs among {', '.join(known)}, given {', '.join(unknown)}")
    return [index for index, name in enumerate(known) if name in names]


def prepare(images: Any, spec: TensorSpec, *, check_values: bool = True) -> torch.Tensor:
    """Return a batch as the contiguous tensor that a model takes.

    The official runtime reads memory as if it were contiguous, whatever the strides say, and so computes wrong
    numbers from a permuted image without an error; nothing strided ever reaches it from here.

    Args:
        images: a tensor or array of the spec's shape; any floating dtype where the spec says float32.
        spec: the model's input.
        check_values: whether values in host memory are looked at; who says no calls `check_range` later on.

    Raises:
        InputError: naming what was expected, what was given and, where it can be told, what to do.
    """
    import torch

    tensor = images if isinstance(images, torch.Tensor) else _from_array(images, spec)
    wanted = getattr(torch, spec.dtype)
    if tuple(tensor.shape) != spec.shape:
        raise InputError(
            f"expected {spec.name} of shape {spec.shape}, given {tuple(tensor.shape)}{_shape_hint(tensor, spec)}"
        )
    if tensor.dtype != wanted:
        if not (tensor.dtype.is_floating_point and wanted.is_floating_point):
            hint = (
                "divide by 255 and convert, or export with --input uint8"
                if wanted.is_floating_point
                else "give the image's bytes, or export with --input float32"
            )
            raise InputError(f"expected {spec.name} of {spec.dtype}, given {str(tensor.dtype)[6:]}: {hint}")
        tensor = tensor.to(wanted)
    if check_values and wanted.is_floating_point and not tensor.is_cuda:
        low, high = (float(x) for x in torch.aminmax(tensor.detach()))
        check_range(low, high, spec)
    return tensor.detach().contiguous()


def check_range(low: float, high: float, spec: TensorSpec) -> None:
    """Refuse a batch by its least and greatest value, either of which is NaN where the batch holds one.

    Raises:
        InputError: a value beyond 0..1, but for rounding, or none at all.
    """
    if not math.isfinite(low) or not math.isfinite(high):
        raise InputError(
            f"expected {spec.name} in 0..1, given NaN or infinite values: what made them divided by zero, or overflowed"
        )
    if low < -0.01 or high > 1.01:
        raise InputError(f"expected {spec.name} in 0..1, given {low:.4g}..{high:.4g}: divide pixel values by 255")


def _from_array(images: Any, spec: TensorSpec) -> torch.Tensor:
    """Return an array as a tensor; flipped (`image[..., ::-1]`) and read-only ones cannot become one without a copy."""
    import numpy as np
    import torch

    try:
        array = np.asarray(images)
        if not (array.flags.c_contiguous and array.flags.writeable):
            array = np.array(array, order="C")
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {spec.name} as a tensor or an array of numbers: {first_line(error)}") from None


def _shape_hint(tensor: torch.Tensor, spec: TensorSpec) -> str:
    shape = tuple(tensor.shape)
    if len(shape) == 4:
        batch, a, b, c = shape
        if (batch, b, c, a) == spec.shape:
            return ": channels last is expected; use images.permute(0, 2, 3, 1)"
        if (batch, c, a, b) == spec.shape:
            return ": channels first is expected; use images.permute(0, 3, 1, 2)"
        if shape[1:] == spec.shape[1:]:
            return f": this model was exported for batches of {spec.shape[0]}; export with --batch {batch} for this"
    if shape == spec.shape[1:]:
        return ": add the batch's axis with images[None]"
    return ""
