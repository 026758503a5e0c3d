"""Depthwise convolution as what it is, a few multiply-adds a value read, instead of a matrix product a channel."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def depthwise_kernel(  # type: ignore[no-untyped-def]
    images, weight, bias, out,
    channels, height, width, out_height, out_width, pixels,
    stride_n, stride_h, stride_w, out_stride_p,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, SILU: tl.constexpr, TF32: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_P output pixels of BLOCK_C channels; channels are adjacent in memory everywhere.

    images (N, H, W, C) with the strides given, weight (KERNEL * KERNEL, C), bias (C), out (N * OH * OW, C).
    """
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    x = pixel % out_width
    y = (pixel // out_width) % out_height
    image = (pixel // (out_width * out_height)).to(tl.int64)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    total = tl.zeros((BLOCK_P, BLOCK_C), dtype=tl.float32)
    for tap in tl.static_range(KERNEL * KERNEL):
        row = y * STRIDE - PADDING + tap // KERNEL
        column = x * STRIDE - PADDING + tap % KERNEL
        seen = inside & ((row >= 0) & (row < height) & (column >= 0) & (column < width))[:, None]
        place = image * stride_n + row * stride_h + column * stride_w
        value = tl.load(images + place[:, None] + channel[None, :], mask=seen, other=0.0).to(tl.float32)
        factor = tl.load(weight + tap * channels + channel, mask=channel < channels, other=0.0).to(tl.float32)
        total += value * factor[None, :]
    total += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    if SILU:
        total = total * tl.sigmoid(total)
    if TF32:  # rounded to the nearest, as `lowering.rewrites.round_tf32` does
        multiple = total * 8192.0
        total = (total + multiple) - multiple
    place = pixel.to(tl.int64)[:, None] * out_stride_p + channel[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


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
        stride: step in both directions, pixels.
        padding: zeros around the picture, pixels.
        silu: whether to return `y * sigmoid(y)`.
        tf32: whether to round the result to tf32's 10 bits, for the matrix product that reads it.

    Returns:
        (N, C, H', W'), channels last, of the images' dtype.
    """
    batch, channels, height, width = images.shape
    kernel = _side(weight)
    out_height = (height + 2 * padding - kernel) // stride + 1
    out_width = (width + 2 * padding - kernel) // stride + 1
    if images.stride(1) != 1:
        images = images.contiguous(memory_format=torch.channels_last)
    out = torch.empty(
        (batch, channels, out_height, out_width),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last,
    )
    pixels = batch * out_height * out_width
    block_c = min(64, triton.next_power_of_2(channels))
    block_p = 1024 // block_c
    wrap_triton(depthwise_kernel)[(-(-pixels // block_p), -(-channels // block_c))](
        images, weight, bias, out, channels, height, width, out_height, out_width, pixels,
        images.stride(0), images.stride(2), images.stride(3), out.stride(3),
        KERNEL=kernel, STRIDE=stride, PADDING=padding, SILU=silu, TF32=tf32,
        BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return out


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
        multiple = out * 8192.0
        out = (out + multiple) - multiple
    return out.to(images.dtype).contiguous(memory_format=torch.channels_last)


def _side(weight: Tensor) -> int:
    return math.isqrt(weight.shape[0])
