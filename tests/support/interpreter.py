"""Run the project's Triton kernels on the CPU, by Triton's interpreter.

Triton decides when it is imported whether it interprets, so that takes a process of its own: `Interpreter` starts one
and runs this module's functions in it. They take and return NumPy arrays.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class Interpreter:
    """A process in which Triton interprets: `with Interpreter() as run: run(topk, scores, 3)`."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=_interpret)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def __call__(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Run one of this module's functions there."""
        return self._pool.submit(function, *arguments, **more).result()


def topk(scores: Any, k: int, block: int | None = None) -> tuple[Any, Any]:
    """Values and indices of `topk`'s kernels; `block` replaces the number of elements that are filtered at once."""
    import torch

    from yolo26_executorch.lowering.kernels import topk as module

    usual = module.BLOCK
    module.BLOCK = block or usual
    _call_directly(module)
    try:
        values, indices = module.topk._init_fn(torch.from_numpy(scores), k)  # type: ignore[attr-defined]
    finally:
        module.BLOCK = usual
    return values.numpy(), indices.numpy()


def sieve(scores: Any, k: int) -> Any:
    """The candidates that `topk`'s first kernel leaves: positions in a row."""
    import torch

    from yolo26_executorch.lowering.kernels.topk import sieve_kernel

    n = scores.shape[1]
    candidates, counts = torch.empty((1, n), dtype=torch.int32), torch.empty((1,), dtype=torch.int32)
    sieve_kernel[(1,)](torch.from_numpy(scores), candidates, counts, n, k, GROUPS=1024, BLOCK=4096, PDL=False)
    return candidates[0, : int(counts)].numpy()


def depthwise(images: Any, weight: Any, bias: Any, channels_last: bool, *settings: Any) -> Any:
    """The result of `depthwise_conv2d`'s kernel; images (N, C, H, W)."""
    import torch

    from yolo26_executorch.lowering.kernels import depthwise as module

    _call_directly(module)
    batch = torch.from_numpy(images)
    if channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)
    arguments = (batch, torch.from_numpy(weight), torch.from_numpy(bias), *settings)
    return module.depthwise_conv2d._init_fn(*arguments).numpy()  # type: ignore[attr-defined]


def conv(inputs: Any, weight: Any, bias: Any, residual: Any, *settings: Any) -> Any:
    """The result of `conv2d`'s kernels; inputs and residual (N, H, W, C), result (N, C, H, W)."""
    import torch

    from yolo26_executorch.lowering.kernels import conv as module

    _call_directly(module)
    images = [torch.from_numpy(value).permute(0, 3, 1, 2) for value in inputs]
    other = None if residual is None else torch.from_numpy(residual).permute(0, 3, 1, 2)
    tensors = torch.from_numpy(weight), torch.from_numpy(bias), other
    return module.conv2d._init_fn(images, *tensors, *settings, []).numpy()  # type: ignore[attr-defined]


def stem(images: Any, bytes_last: bool, weight: Any, bias: Any, *settings: Any) -> Any:
    """The result of `stem`'s kernel; images (N, C, H, W), or (N, H, W, C) with `bytes_last`."""
    import torch

    from yolo26_executorch.lowering.kernels import stem as module

    _call_directly(module)
    batch = torch.from_numpy(images)
    batch = batch.permute(0, 3, 1, 2) if bytes_last else batch
    return module.stem._init_fn(batch, torch.from_numpy(weight), torch.from_numpy(bias), *settings).numpy()  # type: ignore[attr-defined]


def attention(qkv: Any, taps: Any, bias: Any, *settings: Any) -> Any:
    """The result of `attention`'s kernel; qkv (N, H, W, C), result (N, C, H, W)."""
    import torch

    from yolo26_executorch.lowering.kernels import attention as module

    _call_directly(module)
    arguments = (torch.from_numpy(qkv).permute(0, 3, 1, 2), torch.from_numpy(taps), torch.from_numpy(bias), *settings)
    return module.attention._init_fn(*arguments).numpy()  # type: ignore[attr-defined]


def max_pools(images: Any, radius: int, count: int) -> Any:
    """The result of `max_pools`' kernel; images (N, H, W, C), result (N, C, H, W)."""
    import torch

    from yolo26_executorch.lowering.kernels import pool as module

    _call_directly(module)
    return module.max_pools._init_fn(torch.from_numpy(images).permute(0, 3, 1, 2), radius, count).numpy()  # type: ignore[attr-defined]


def masks(coefficients: Any, protos: Any, boxes: Any, precision: str) -> Any:
    """The result of `masks`' kernel; protos (N, H, W, C)."""
    import torch

    from yolo26_executorch.lowering.kernels import masks as module

    _call_directly(module)
    arguments = (torch.from_numpy(coefficients), torch.from_numpy(protos).permute(0, 3, 1, 2), torch.from_numpy(boxes))
    return module.masks._init_fn(*arguments, precision).numpy()  # type: ignore[attr-defined]


def group(kind: str, images: Any, weights: Any, biases: Any, *settings: Any) -> Any:
    """The results of `conv2d_group`'s or `depthwise_group`'s kernel; images (N, H, W, C), results (N, C, H, W)."""
    import torch

    from yolo26_executorch.lowering.kernels import conv, depthwise

    module, operator = {
        "conv": (conv, conv.conv2d_group),
        "depthwise": (depthwise, depthwise.depthwise_group),
    }[kind]
    _call_directly(module)
    batches = [torch.from_numpy(value).permute(0, 3, 1, 2) for value in images]
    factors, sums = ([torch.from_numpy(value) for value in values] for values in (weights, biases))
    return [out.numpy() for out in operator._init_fn(batches, factors, sums, *settings)]  # type: ignore[attr-defined]


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    torch.set_num_threads(1)


def _call_directly(module: Any) -> None:
    """Launch the kernels themselves: PyTorch's wrapper for tracing takes none that are interpreted."""
    module.wrap_triton = lambda kernel: kernel
