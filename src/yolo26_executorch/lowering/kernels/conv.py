"""Convolution with everything that surrounds it in YOLO26 in one launch: concat, upsampling, bias, SiLU, residual.

The operators here launch the kernels of `conv_kernels`, and beside each stands its eager reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .conv_kernels import conv_kernel, group_kernel, pointwise_kernel, sum_kernel
from .layout import as_nchw, group_arguments, to_nhwc, unit_of, unspecialized
from .pdl import pdl_enabled, prefetch_arguments
from .tf32 import round_tf32
from .tile import Tile

MAX_INPUTS = 4
"""Most concatenated tensors that one launch reads."""
MAX_KERNEL_SIZE = 7
"""Pixels; every tap has a bit."""


@triton_op("yolo26_et::conv2d", mutates_args={})
def conv2d(
    inputs: Sequence[Tensor], weight: Tensor, bias: Tensor, residual: Tensor | None,
    kernel: int, stride: int, padding: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int],
    next_weights: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Convolve concatenated tensors, add the bias, apply SiLU, add another tensor.

    Sums in float32 whatever the tensors' dtype, so it differs from cuDNN by rounding alone.

    Args:
        inputs: (N, Cᵢ, H, W) each, channels last, slices of wider tensors among them (copied if they are not); with a
            1×1 kernel up to four, those of half the height and width read as if upsampled 2× (nearest).
        weight: (O, K * K * ΣC): taps before channels.
        bias: (O,), or longer: the rest is not read.
        residual: (N, O, H', W'), channels last, added after SiLU; or None.
        kernel: K, at most `MAX_KERNEL_SIZE` pixels.
        stride: of both axes, pixels.
        padding: zeros around the image, pixels.
        silu: whether to apply `y * sigmoid(y)`.
        tf32: whether to round the result to tf32's 10 bits, for the matrix product that reads it.
        precision: how float32 operands are multiplied: "tf32" or "ieee".
        tile: the numbers of a `Tile`. Split-K is for kernels of more than one tap alone.
        next_weights: up to three constants that a later launch reads, for `pdl.prefetch`; they change nothing here.

    Returns:
        (N, O, H', W'), channels last, of the inputs' dtype.
    """
    inputs, steps = zip(*[to_nhwc(value) for value in inputs], strict=True)
    batch = inputs[0].shape[0]
    height, width = max(value.shape[2] for value in inputs), max(value.shape[3] for value in inputs)
    out_channels = weight.shape[0]
    size = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
    out = inputs[0].new_empty((batch, *size, out_channels))
    pixels = batch * size[0] * size[1]
    # What a kernel never reads is given the bias: a tensor given twice, and written, would be copied first.
    other, step = (bias, 0) if residual is None else to_nhwc(residual)
    shape = Tile(*tile)
    grid: tuple[int, ...] = (-(-pixels // shape.m), -(-out_channels // shape.n))
    epilogue: dict[str, Any] = {"SILU": silu, "RESIDUAL": residual is not None, "TF32": tf32}
    unit = unit_of(*[value.shape[1] for value in inputs], *steps)
    out_unit = unit_of(out_channels, step)
    units: dict[str, Any] = {"UNIT": unit, "OUT_UNIT": out_unit}
    constants = constants_of(shape, precision)
    constants |= even_blocks(shape, [value.shape[1] for value in inputs], out_channels)
    if kernel == 1 and stride == 1 and padding == 0:

        def four(values: Sequence[Any]) -> list[Any]:
            return [*values, *[values[0]] * (MAX_INPUTS - len(values))]

        tensors = four(inputs)
        upsampled = sum((value.shape[2] != height) << index for index, value in enumerate(inputs))
        wrap_triton(pointwise_kernel)[grid](
            *tensors, weight, bias, other, out,
            *unspecialized(*[value.shape[1] // unit for value in tensors], *[each // unit for each in four(steps)]),
            *unspecialized(height, width, pixels, out_channels // out_unit, step // out_unit),
            *prefetch_arguments(next_weights, grid),
            INPUTS=len(inputs), UPSAMPLED=upsampled, **units, **epilogue, **constants, **launch_options(shape),
        )  # fmt: skip
        return as_nchw(out)
    (images,) = inputs
    partial = bias
    if shape.split_k > 1:
        partial = out.new_empty((shape.split_k, pixels, out_channels), dtype=torch.float32)
    grid = (*grid, shape.split_k)
    wrap_triton(conv_kernel)[grid](
        images, weight, bias, other, out, partial,
        *unspecialized(images.shape[1] // unit, height, width, *size, pixels),
        *unspecialized(out_channels // out_unit, steps[0] // unit, step // out_unit),
        *prefetch_arguments(next_weights, grid),
        **units,
        KERNEL=kernel, STRIDE=stride, PADDING=padding, **epilogue, **constants, SPLIT_K=shape.split_k,
        **launch_options(shape),
    )  # fmt: skip
    if shape.split_k > 1:
        block_n = min(64, triton.next_power_of_2(out_channels))
        block_m = 1024 // block_n
        wrap_triton(sum_kernel)[(-(-pixels // block_m), -(-out_channels // block_n))](
            partial, bias, other, out, *unspecialized(pixels, out_channels // out_unit, step // out_unit),
            OUT_UNIT=out_unit, **epilogue, SPLIT_K=shape.split_k, BLOCK_M=block_m, BLOCK_N=block_n,
            PDL=pdl_enabled(), num_warps=4,
        )  # fmt: skip
    return as_nchw(out)


@conv2d.register_kernel("cpu")
def conv2d_reference(
    inputs: Sequence[Tensor], weight: Tensor, bias: Tensor, residual: Tensor | None,
    kernel: int, stride: int, padding: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int],
    next_weights: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Eager form of `conv2d`, and what it computes on the CPU."""
    largest = max(value.shape[2] for value in inputs)
    whole = [
        value if value.shape[2] == largest else torch.nn.functional.interpolate(value, scale_factor=2.0)
        for value in inputs
    ]
    images = torch.cat(whole, 1)
    square = weight.view(-1, kernel, kernel, images.shape[1]).permute(0, 3, 1, 2)
    out = torch.nn.functional.conv2d(
        images.float(), square.float(), bias[: len(weight)].float(), stride=stride, padding=padding
    )
    out = torch.nn.functional.silu(out) if silu else out
    out = out if residual is None else out + residual.float()
    return (round_tf32(out) if tf32 else out).to(images.dtype).contiguous(memory_format=torch.channels_last)


@triton_op("yolo26_et::conv2d_group", mutates_args={})
def conv2d_group(
    images: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor],
    kernel: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int], next_weights: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    """Convolve several batches, each with its own weight, in one launch; sizes are kept.

    Args:
        images: up to three (N, Cᵢ, Hᵢ, Wᵢ), channels last.
        weights: (O, K * K * Cᵢ) each; see `conv2d`.
        biases: (O,) each, or longer.
        kernel: K, odd, at most `MAX_KERNEL_SIZE`.
        silu: see `conv2d`.
        tf32: see `conv2d`.
        precision: see `conv2d`.
        tile: the numbers of a `Tile`, which all share; split-K is not done.
        next_weights: see `conv2d`.

    Returns:
        (N, O, Hᵢ, Wᵢ) each, channels last.
    """
    images, steps = zip(*[to_nhwc(value) for value in images], strict=True)
    out_channels = weights[0].shape[0]
    outs = [value.new_empty((value.shape[0], *value.shape[2:], out_channels)) for value in images]
    pixels = [value.shape[0] * value.shape[2] * value.shape[3] for value in images]
    shape = Tile(*tile)
    tiles = [-(-count // shape.m) for count in pixels]
    constants = constants_of(shape, precision)
    constants |= even_blocks(shape, [value.shape[1] for value in images], out_channels)
    unit, out_unit = unit_of(*[value.shape[1] for value in images], *steps), unit_of(out_channels)
    grid = (sum(tiles), -(-out_channels // shape.n))
    wrap_triton(group_kernel)[grid](
        *group_arguments(images, weights, biases, outs, steps, tiles, unit), *unspecialized(out_channels // out_unit),
        *prefetch_arguments(next_weights, grid),
        UNIT=unit, OUT_UNIT=out_unit, KERNEL=kernel, SILU=silu, TF32=tf32, **constants, **launch_options(shape),
    )  # fmt: skip
    return [as_nchw(out) for out in outs]


@conv2d_group.register_kernel("cpu")
def conv2d_group_reference(
    images: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor],
    kernel: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int], next_weights: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    """Eager form of `conv2d_group`, and what it computes on the CPU."""
    return [
        conv2d_reference([value], weight, bias, None, kernel, 1, kernel // 2, silu, tf32, precision, tile, ())
        for value, weight, bias in zip(images, weights, biases, strict=True)
    ]


def even_blocks(tile: Tile, channels: Sequence[int], out_channels: int) -> dict[str, bool]:
    """Return which masks a kernel is compiled without: whether all inputs' channels, and the output's, fill blocks."""
    return {"EVEN_K": all(count % tile.k == 0 for count in channels), "EVEN_N": out_channels % tile.n == 0}


def launch_options(tile: Tile) -> dict[str, int]:
    """Return what Triton is told of a launch."""
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def constants_of(tile: Tile, precision: str) -> dict[str, Any]:
    """Return what a convolution is compiled for; warps and stages so that launches which differ there do here."""
    return {
        "PRECISION": precision,
        "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "WARPS": tile.warps, "STAGES": tile.stages,
        "PDL": pdl_enabled(),
    }  # fmt: skip
