"""What a model has to compute and to move, and what this machine was measured to do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ..models.export_model import DTYPES, ExportModel, float32_precision, products
from .records import Ceilings, Work
from .timing import percentile

if TYPE_CHECKING:
    from ..models.checkpoints import Checkpoint
    from ..models.options import ExportOptions

_SIDE = {"cuda": 8192, "cpu": 1024}
"""Of the square matrices that are multiplied."""
_COPIED_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}
"""Many times the caches' size."""
_REPEATS = {"cuda": 20, "cpu": 5}


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that convolutions and matrix products read and write, each once an operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, given)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return given


def count_work(checkpoint: Checkpoint, options: ExportOptions, precision: str) -> Work:
    """Count what one call of a model has to do, on the eager model with fused layers; nothing is computed.

    Args:
        checkpoint: the weights, which are used up.
        options: as in the manifest.
        precision: what is computed in; it settles how many bytes a value takes.
    """
    model = ExportModel(checkpoint, replace(options, precision=precision))
    example = model.example_input.to("meta")
    model.to("meta")
    model.move_anchors("meta")
    traffic, flops = _Traffic(), FlopCounterMode(display=False)
    # In inference mode convolutions would not be taken apart into what the registry names.
    with torch.no_grad(), flops, traffic:
        model(example)
    return Work(flops.get_total_flops() / 1e9, traffic.bytes / 1e9, None)


def measure_ceilings(device: str, precision: str) -> Ceilings:
    """Measure a large matrix product and a large copy, in random data; the median of some repetitions of each."""
    side, count, repeats = _SIDE[device], _COPIED_BYTES[device] // 4, _REPEATS[device]
    first, second = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    product = torch.empty_like(first)
    source, target = torch.rand(count, device=device), torch.empty(count, device=device)
    with torch.inference_mode(), float32_precision(products(precision)):
        product_s = _seconds(lambda: torch.mm(first, second, out=product), device, repeats)
        copy_s = _seconds(lambda: target.copy_(source), device, repeats)
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    return Ceilings(
        device=device,
        precision=precision,
        gflop_s=2 * side**3 / product_s / 1e9,
        gb_s=2 * 4 * count / copy_s / 1e9,
        method=f"torch.mm of {side}x{side} matrices of random numbers; a copy of {4 * count / 1e9:.2f} GB, read and "
        f"written; medians of {repeats}{threads}",
    )


def _seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Return the median time of a call."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            event: Any = torch.cuda.Event
            start, end = event(enable_timing=True), event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        else:
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return percentile(times, 50)
