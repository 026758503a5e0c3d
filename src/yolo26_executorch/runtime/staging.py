"""Copies between a caller's memory and a CUDA graph's tensors, by way of memory that the GPU itself can reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Staging:
    """Pinned memory beside a graph's input and outputs.

    What CUDA copies from or to ordinary memory goes through a small buffer of the driver's, by one thread; staged here,
    all threads copy, the GPU fetches by itself, and one wait does for all outputs. It costs the memory of one input and
    of the outputs that were ever wanted here. Callers are given memory of their own, which may be kept: pinned memory
    is scarce.
    """

    def __init__(self, batch: Tensor, outputs: Sequence[Tensor]) -> None:
        self._batch, self._outputs = batch, outputs
        self._held = _beside(batch)
        self._results: dict[int, Tensor] = {}
        """Beside the outputs, by index; each made when it is first wanted here."""
        self._uploaded: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def upload(self, images: Tensor) -> None:
        """Copy a batch, wherever it is, into the graph's input, on the current stream."""
        if images.is_cuda:
            self._batch.copy_(images)
            return
        self._uploaded.synchronize()  # what was staged before has left
        self._held.copy_(images)
        self._batch.copy_(self._held, non_blocking=True)
        self._uploaded.record()

    def download(self, chosen: Sequence[int]) -> list[Tensor]:
        """Wait for the current stream and return the graph's outputs of these indices on the host."""
        for index in chosen:
            if index not in self._results:
                self._results[index] = _beside(self._outputs[index])
            self._results[index].copy_(self._outputs[index], non_blocking=True)
        torch.cuda.current_stream(self._batch.device).synchronize()
        return [self._results[index].clone() for index in chosen]


def _beside(tensor: Tensor) -> Tensor:
    """Return host memory for a tensor's content; where no more can be pinned, the usual, which is slower."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    except RuntimeError:
        return torch.empty_like(tensor, device="cpu")
