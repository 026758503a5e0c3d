"""Calls of a CUDA graph from and to a caller's memory, by way of memory that the GPU itself can reach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import gpu
from .gpu import Captured


class StagedCalls:
    """A captured call with pinned memory beside its input and outputs. One call at a time, on the current GPU.

    What CUDA copies from or to pageable memory goes through a small buffer of the driver's, by one thread; staged here,
    all threads copy, the GPU fetches by itself, and one wait does for all outputs. It costs the memory of one input and
    of the outputs that were ever asked for. Callers are given memory of their own, which they may keep: pinned memory
    is scarce.
    """

    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._input: Tensor | None = None
        """Pinned memory beside the input, made when it is first needed; likewise the outputs', by index."""
        self._results: dict[int, Tensor] = {}
        self._uploaded = gpu.event()
        """Reached when the staged input has left."""
        self._idle = gpu.event()
        """Reached when nothing uses the graph's tensors any more, on whatever stream."""

    def __call__(self, images: Tensor, chosen: Sequence[int], *, to_host: bool) -> list[Tensor]:
        """Run one batch.

        Args:
            images: contiguous, of the captured input's shape and dtype, on any device.
            chosen: the indices of the outputs to return; others are not copied.
            to_host: return them in host memory, all computed; otherwise on the GPU, in the current stream's order.
        """
        captured = self._captured
        self._idle.wait()
        try:
            self._upload(images)
            captured.replay()
            if to_host:
                return self._download(chosen)
            return [captured.outputs[index].clone() for index in chosen]
        finally:
            self._idle.record()

    def _upload(self, images: Tensor) -> None:
        batch = self._captured.batch
        if images.device.type != "cpu":
            batch.copy_(images)
            return
        if self._input is None:
            self._input = _pinned_like(batch)
        self._uploaded.synchronize()
        self._input.copy_(images)
        batch.copy_(self._input, non_blocking=True)
        self._uploaded.record()

    def _download(self, chosen: Sequence[int]) -> list[Tensor]:
        outputs = self._captured.outputs
        for index in chosen:
            if index not in self._results:
                self._results[index] = _pinned_like(outputs[index])
            self._results[index].copy_(outputs[index], non_blocking=True)
        gpu.wait_for_stream()
        return [self._results[index].clone() for index in chosen]


def _pinned_like(tensor: Tensor) -> Tensor:
    """Return pinned host memory for a tensor's content; pageable, which is slower, where no more can be pinned."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    except RuntimeError:
        return torch.empty_like(tensor, device="cpu")
