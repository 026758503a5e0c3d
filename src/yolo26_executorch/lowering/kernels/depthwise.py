"""Depthwise convolution on the plain units: a few multiply-adds a value loaded, no matrix product a channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .device import group_member, of_member, size_of, to_tf32
from .layout import as_nchw, group_arguments, to_nhwc, unit_of, unspecialized
from .pdl import pdl_enabled, wait_for_previous
from .tf32 import round_tf32


@triton.jit
def _depthwise_tile(  # type: ignore[no-untyped-def]
    images, weight, bias, out, pixel, channel,
    channels, height, width, out_height, out_width, pixels, stride,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, SILU: tl.constexpr, TF32: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_P output pixels of BLOCK_C channels; see `depthwise_kernel`."""
    x = pixel % out_width
    y = (pixel // out_width) % out_height
    image = (pixel // (out_width * out_height)).to(tl.int64) * (height * width)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    wait_for_previous(PDL)
    total = tl.zeros((BLOCK_P, BLOCK_C), dtype=tl.float32)
    for tap in tl.static_range(KERNEL * KERNEL):
        row = y * STRIDE - PADDING + tap // KERNEL
        column = x * STRIDE - PADDING + tap % KERNEL
        seen = inside & ((row >= 0) & (row < height) & (column >= 0) & (column < width))[:, None]
        place = (image + row * width + column) * stride
        value = tl.load(images + place[:, None] + channel[None, :], mask=seen, other=0.0).to(tl.float32)
        factor = tl.load(weight + tap * channels + channel, mask=channel < channels, other=0.0).to(tl.float32)
        total += value * factor[None, :]
    total += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    if SILU:
        total = total * tl.sigmoid(total)
    if TF32:
        total = to_tf32(total)
    place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def depthwise_kernel(  # type: ignore[no-untyped-def]
    images, weight, bias, out,
    channels, height, width, out_height, out_width, pixels, stride,
    UNIT: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, SILU: tl.constexpr,
    TF32: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_P output pixels of BLOCK_C channels; channels are adjacent in memory everywhere.

    images (N, H, W, C) with `stride` elements from pixel to pixel, sizes as in `conv_kernels.pointwise_kernel`; weight
    (KERNEL * KERNEL, C), bias (C), out (N * OH * OW, C).
    """
    channels, stride = size_of(channels) * UNIT, size_of(stride) * UNIT
    height, width, out_height, out_width = size_of(height), size_of(width), size_of(out_height), size_of(out_width)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    _depthwise_tile(
        images, weight, bias, out, pixel, channel,
        channels, height, width, out_height, out_width, size_of(pixels), stride,
        KERNEL, STRIDE, PADDING, SILU, TF32, BLOCK_P, BLOCK_C, PDL,
    )  # fmt: skip


@triton.jit
def depthwise_group_kernel(  # type: ignore[no-untyped-def]
    x0, x1, x2, weight0, weight1, weight2, bias0, bias1, bias2, out0, out1, out2,
    channels0, channels1, channels2, height0, height1, height2, width0, width1, width2,
    pixels0, pixels1, pixels2, stride0, stride1, stride2, first1, first2,
    UNIT: tl.constexpr, KERNEL: tl.constexpr, SILU: tl.constexpr, TF32: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Convolve up to three batches of images as `depthwise_kernel` would; sizes are kept, strides are of pixels."""
    member, tile = group_member(first1, first2)
    images, weight = of_member(member, x0, x1, x2), of_member(member, weight0, weight1, weight2)
    bias, out = of_member(member, bias0, bias1, bias2), of_member(member, out0, out1, out2)
    channels = size_of(of_member(member, channels0, channels1, channels2)) * UNIT
    stride = size_of(of_member(member, stride0, stride1, stride2)) * UNIT
    height, width = of_member(member, height0, height1, height2), of_member(member, width0, width1, width2)
    height, width, pixels = size_of(height), size_of(width), size_of(of_member(member, pixels0, pixels1, pixels2))
    across = tl.cdiv(channels, BLOCK_C)
    pixel = tile // across * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tile % across * BLOCK_C + tl.arange(0, BLOCK_C)
    _depthwise_tile(
        images, weight, bias, out, pixel, channel,
        channels, height, width, height, width, pixels, stride,
        KERNEL, 1, KERNEL // 2, SILU, TF32, BLOCK_P, BLOCK_C, PDL,
    )  # fmt: skip


@triton_op("yolo26_et::depthwise_conv2d", mutates_args={})
def depthwise_conv2d(
    images: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, silu: bool, tf32: bool
) -> Tensor:
    """Convolve each channel with its own square kernel, add the bias and optionally apply SiLU.

    Sums in float32 whatever the tensors' dtype, so it differs from cuDNN by rounding alone.

    Args:
        images: (N, C, H, W), channels last (copied if it is not).
        weight: (K * K, C) contiguous: the usual (C, 1, K, K) weight, taps first.
        bias: (C,).
        stride: of both axes, pixels.
        padding: zeros around the image, pixels.
        silu: whether to return `y * sigmoid(y)`.
        tf32: whether to round the result to tf32's 10 bits, for the matrix product that reads it.

    Returns:
        (N, C, H', W'), channels last, of the images' dtype.
    """
    batch, channels, height, width = images.shape
    kernel = _side(weight)
    out_height = (height + 2 * padding - kernel) // stride + 1
    out_width = (width + 2 * padding - kernel) // stride + 1
    images, step = to_nhwc(images)
    unit = unit_of(channels, step)
    out = images.new_empty((batch, out_height, out_width, channels))
    pixels = batch * out_height * out_width
    block_c = min(64, triton.next_power_of_2(channels))
    block_p = 1024 // block_c
    wrap_triton(depthwise_kernel)[(-(-pixels // block_p), -(-channels // block_c))](
        images, weight, bias, out,
        *unspecialized(channels // unit, height, width, out_height, out_width, pixels, step // unit),
        UNIT=unit, KERNEL=kernel, STRIDE=stride, PADDING=padding, SILU=silu, TF32=tf32,
        BLOCK_P=block_p, BLOCK_C=block_c, PDL=pdl_enabled(), num_warps=4,
    )  # fmt: skip
    return as_nchw(out)


@depthwise_conv2d.register_kernel("cpu")
def depthwise_reference(
    images: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, silu: bool, tf32: bool
) -> Tensor:
    """Eager form of `depthwise_conv2d`, and what it computes on the CPU."""
    channels = images.shape[1]
    kernel = _side(weight)
    square = weight.t().reshape(channels, 1, kernel, kernel)
    out = torch.nn.functional.conv2d(
        images.float(), square.float(), bias.float(), stride=stride, padding=padding, groups=channels
    )
    out = torch.nn.functional.silu(out) if silu else out
    if tf32:
        out = round_tf32(out)
    return out.to(images.dtype).contiguous(memory_format=torch.channels_last)


@triton_op("yolo26_et::depthwise_group", mutates_args={})
def depthwise_group(
    images: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], silu: bool, tf32: bool
) -> list[Tensor]:
    """Convolve each channel of several batches with its own square kernel, in one launch; sizes are kept.

    Args:
        images: up to three (N, Cᵢ, Hᵢ, Wᵢ), channels last (copied if they are not).
        weights: (K * K, Cᵢ) each, K odd and the same for all.
        biases: (Cᵢ,) each.
        silu: see `depthwise_conv2d`.
        tf32: see `depthwise_conv2d`.

    Returns:
        (N, Cᵢ, Hᵢ, Wᵢ) each, channels last.
    """
    images, steps = zip(*[to_nhwc(value) for value in images], strict=True)
    outs = [value.new_empty((value.shape[0], *value.shape[2:], value.shape[1])) for value in images]
    pixels = [value.shape[0] * value.shape[2] * value.shape[3] for value in images]
    block_c = min(64, max(triton.next_power_of_2(value.shape[1]) for value in images))
    block_p = 1024 // block_c
    tiles = [-(-count // block_p) * -(-value.shape[1] // block_c) for value, count in zip(images, pixels, strict=True)]
    unit = unit_of(*[value.shape[1] for value in images], *steps)
    wrap_triton(depthwise_group_kernel)[(sum(tiles),)](
        *group_arguments(images, weights, biases, outs, steps, tiles, unit),
        UNIT=unit, KERNEL=_side(weights[0]), SILU=silu, TF32=tf32, BLOCK_P=block_p, BLOCK_C=block_c,
        PDL=pdl_enabled(), num_warps=4,
    )  # fmt: skip
    return [as_nchw(out) for out in outs]


@depthwise_group.register_kernel("cpu")
def depthwise_group_reference(
    images: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], silu: bool, tf32: bool
) -> list[Tensor]:
    """Eager form of `depthwise_group`, and what it computes on the CPU."""
    return [
        depthwise_reference(value, weight, bias, 1, _side(weight) // 2, silu, tf32)
        for value, weight, bias in zip(images, weights, biases, strict=True)
    ]


def _side(weight: Tensor) -> int:
    return math.isqrt(weight.shape[0])
