"""Calls of a CUDA graph from and to a caller's memory, by way of memory that the GPU itself can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.tasks import TensorSpec
from . import gpu
from .gpu import Captured
from .runner import check_range

_CHUNK_BYTES = 1 << 20
"""What is copied into pinned memory before the GPU fetches it: it fetches while the next chunk is copied."""


class StagedCalls:
    """A captured call with pinned memory beside its input and outputs. One call at a time, on the current GPU.

    What CUDA copies from or to pageable memory goes through a small buffer of the driver's; staged here, the GPU
    fetches by itself, and one wait does for all outputs. It costs the memory of one input and of the outputs that were
    ever asked for. Callers are given memory of their own, which they may keep: pinned memory is scarce. Input that is
    pinned already is fetched from where it is.

    Args:
        captured: the call.
        spec: its input. Values beyond the range of a float input are found on the GPU, after the call: looking at them
            on the host takes longer than copying them.
    """

    def __init__(self, captured: Captured, spec: TensorSpec) -> None:
        self._captured = captured
        self._spec = spec
        self._staged_chunks: list[tuple[Tensor, Tensor]] = []
        """Pinned memory beside the input, and the input, in chunks; made when it is first needed."""
        self._results: dict[int, Tensor] = {}
        """Pinned memory beside the outputs, by index, made when one is first asked for."""
        with torch.inference_mode(False):
            self._bounds = torch.empty(2, dtype=torch.float32, device=captured.batch.device)
            self._found_bounds = _pinned_like(self._bounds)
        """The input's least and greatest value, on the GPU and on the host."""
        self._uploaded = gpu.event()
        """Reached when the input has left the host."""
        self._idle = gpu.event()
        """Reached when nothing uses the graph's tensors any more, on whatever stream."""

    def __call__(self, images: Tensor, chosen: Sequence[int], *, to_host: bool) -> list[Tensor]:
        """Run one batch.

        Args:
            images: contiguous, of the captured input's shape and dtype, on any device.
            chosen: the indices of the outputs to return; others are not copied.
            to_host: return them in host memory, all computed; otherwise on the GPU, in the current stream's order, and
                values are not looked at.

        Raises:
            InputError: values beyond the input's range, with `to_host`.
        """
        # What is kept must not be an inference tensor, which may only be written to in that mode.
        with torch.inference_mode(False):
            return self._run(images, chosen, to_host)

    def _run(self, images: Tensor, chosen: Sequence[int], to_host: bool) -> list[Tensor]:
        outputs = self._captured.outputs
        self._idle.wait()
        try:
            self._upload(images)
            self._captured.replay()
            if to_host:
                return self._download(chosen)
            results = [outputs[index].clone() for index in chosen]
            self._uploaded.synchronize()  # the caller may write into the images from now on
            return results
        finally:
            self._idle.record()

    def _upload(self, images: Tensor) -> None:
        batch = self._captured.batch
        if images.device.type != "cpu":
            batch.copy_(images)
        elif gpu.is_pinned(images):
            batch.copy_(images, non_blocking=True)
            self._uploaded.record()
        else:
            if not self._staged_chunks:
                self._staged_chunks = [(_pinned_like(chunk), chunk) for chunk in _chunks(batch)]
            self._uploaded.synchronize()  # what was staged before has left
            for part, (pinned, chunk) in zip(_chunks(images), self._staged_chunks, strict=True):
                pinned.copy_(part)
                chunk.copy_(pinned, non_blocking=True)
            self._uploaded.record()

    def _download(self, chosen: Sequence[int]) -> list[Tensor]:
        batch, outputs = self._captured.batch, self._captured.outputs
        checked = batch.is_floating_point()
        if checked:
            torch.aminmax(batch, out=(self._bounds[0], self._bounds[1]))
            self._found_bounds.copy_(self._bounds, non_blocking=True)
        for index in chosen:
            if index not in self._results:
                self._results[index] = _pinned_like(outputs[index])
            self._results[index].copy_(outputs[index], non_blocking=True)
        gpu.wait_for_stream()
        if checked:
            low, high = self._found_bounds.tolist()
            check_range(low, high, self._spec)
        return [self._results[index].clone() for index in chosen]


def _chunks(tensor: Tensor) -> Sequence[Tensor]:
    """Return views of a contiguous tensor, a chunk each."""
    flat = tensor.view(-1)
    chunks: Sequence[Tensor] = flat.split(_CHUNK_BYTES // flat.itemsize)  # type: ignore[no-untyped-call]
    return chunks


def _pinned_like(tensor: Tensor) -> Tensor:
    """Return pinned host memory for a tensor's content; pageable, which is slower, where no more can be pinned."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    except RuntimeError:
        return torch.empty_like(tensor, device="cpu")
