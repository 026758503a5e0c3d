"""What runners ask of a GPU, in one place, so that tests on machines without one can put something else here.

Everything takes the device that it is about. PyTorch's own defaults do not: `torch.cuda.graph` captures on a stream of
the device that captured first, and events are recorded on the current device's stream.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.tasks import TensorSpec

_WARM_UP_CALLS = 3
"""Calls before a capture: compilers and cuDNN's search for algorithms are done after the first."""
_capturing = threading.Lock()
"""Waiting for a device is forbidden while any of its streams captures, and a capture begins with such a wait."""


@dataclass(frozen=True)
class Captured:
    """One call of a model as a CUDA graph."""

    batch: Tensor
    """What `replay` reads: the model's input, on the GPU."""
    outputs: Sequence[Tensor]
    """What `replay` writes."""
    replay: Callable[[], object]
    """Start the call on the current stream."""


def using(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make a GPU the current one in this thread, for as long as the context lasts."""
    return torch.cuda.device(device)


def event() -> Any:
    """Return an event for streams of the current GPU; one that was never recorded counts as reached."""
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def is_capturing() -> bool:
    """Whether the caller is capturing the current stream of the current GPU in a graph."""
    return torch.cuda.is_current_stream_capturing()


def is_pinned(tensor: Tensor) -> bool:
    """Whether a tensor lies in host memory that a GPU can read by itself."""
    return tensor.is_pinned()


def wait_for_stream() -> None:
    """Wait for the current stream of the current GPU."""
    torch.cuda.current_stream().synchronize()


def wait_for_device(device: torch.device) -> None:
    """Wait for all work on a GPU."""
    with _capturing:
        torch.cuda.synchronize(device)


def zeros(spec: TensorSpec, device: torch.device) -> Tensor:
    """Return a tensor of zeros as a specification has it, to be written to inside and outside of inference mode."""
    with torch.inference_mode(False):
        return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device=device)


def capture(run: Callable[[Tensor], Sequence[Tensor]], spec: TensorSpec, device: torch.device) -> Captured:
    """Capture a call in a CUDA graph, on a stream of its own on its GPU.

    Args:
        run: computes outputs from a batch on the current stream; called several times, with zeros.
        spec: the batch.
        device: the GPU.
    """
    with _capturing, using(device):
        batch = zeros(spec, device)
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_CALLS):
                run(batch)
        graph = torch.cuda.CUDAGraph()
        # Other threads may do what a capture forbids: a data loader that pins memory, for one.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            outputs = run(batch)
        current.wait_stream(side)
    return Captured(batch, outputs, graph.replay)
