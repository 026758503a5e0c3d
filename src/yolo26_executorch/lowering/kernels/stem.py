"""The first layer's convolution (stem): of images as they come in, scaled and rounded as they are loaded."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .conv import constants_of, conv2d_reference, launch_options
from .conv_kernels import epilogue
from .device import size_of, to_tf32
from .layout import as_nchw, unit_of, unspecialized
from .pdl import wait_for_previous
from .tf32 import round_tf32
from .tile import Tile


@triton.jit
def stem_kernel(  # type: ignore[no-untyped-def]
    images, weight, bias, out,
    height, width, out_height, out_width, pixels, out_channels, stride_n, stride_c, stride_h, stride_w,
    OUT_UNIT: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    SILU: tl.constexpr, TF32: tl.constexpr, PRECISION: tl.constexpr, UINT8: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Convolve images of so few channels that all taps fit one product, from whatever layout and dtype they have.

    images (N, CHANNELS, H, W) by strides, float32 0..1, or uint8 0..255 with UINT8; weight (out_channels, BLOCK_K),
    taps before channels, then zeros; out (N * OH * OW, out_channels). A program writes all channels of its pixels,
    since gathering the patches (im2col) takes longer than multiplying them.
    """
    height, width, out_height, out_width = size_of(height), size_of(width), size_of(out_height), size_of(out_width)
    pixels, out_channels = size_of(pixels), size_of(out_channels) * OUT_UNIT
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_m = row < pixels
    x = row % out_width * STRIDE - PADDING
    y = row // out_width
    image = (y // out_height).to(tl.int64) * stride_n
    y = y % out_height * STRIDE - PADDING
    k = tl.arange(0, BLOCK_K)
    tap = k // CHANNELS
    line = y[:, None] + (tap // KERNEL)[None, :]
    place = x[:, None] + (tap % KERNEL)[None, :]
    seen = (line >= 0) & (line < height) & (place >= 0) & (place < width) & (tap < KERNEL * KERNEL)[None, :]
    at = image[:, None] + line * stride_h + place * stride_w + (k % CHANNELS * stride_c)[None, :]
    wait_for_previous(PDL)
    values = tl.load(images + at, mask=seen & in_m[:, None], other=0).to(tl.float32)
    if UINT8:
        values = values / 255.0
    if TF32:
        values = to_tf32(values)
    operand = values.to(weight.dtype.element_ty)
    for first in range(0, out_channels, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        in_n = (column < out_channels)[None, :]
        factors = tl.load(weight + column[None, :] * BLOCK_K + k[:, None], mask=in_n, other=0.0)
        total = tl.dot(operand, factors, input_precision=PRECISION).to(tl.float32)
        epilogue(total, bias, bias, 0, out, row, in_m, column, out_channels, SILU, False, TF32)


@triton_op("yolo26_et::stem", mutates_args={})
def stem(
    images: Tensor, weight: Tensor, bias: Tensor,
    kernel: int, stride: int, padding: int, silu: bool, tf32: bool, precision: str,
) -> Tensor:  # fmt: skip
    """Convolve images as they come in: any strides, float32 0..1 or uint8 0..255 (divided by 255 as they are loaded).

    Args:
        images: (N, C, H, W); C * kernel² at most 128.
        weight: (O, P), taps before channels and then zeros; P the power of two, at least 16, that holds them.
        bias: (O,), or longer: the rest is not read.
        kernel: side of the kernel, pixels.
        stride: of both axes, pixels.
        padding: zeros around the image, pixels.
        silu: whether to apply `y * sigmoid(y)`.
        tf32: whether to round the images and the result to tf32's 10 bits.
        precision: how float32 operands are multiplied: "tf32" or "ieee".

    Returns:
        (N, O, H', W'), channels last, of the weight's dtype.
    """
    batch, channels, height, width = images.shape
    out_channels, length = weight.shape
    size = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
    out = weight.new_empty((batch, *size, out_channels))
    pixels = batch * size[0] * size[1]
    block_n = max(16, min(64, out_channels & -out_channels))  # the largest that divides them: 32 of size x's 96
    tile = Tile(64 if block_n > 32 else 128, block_n, length, 1, 4)
    out_unit = unit_of(out_channels)
    wrap_triton(stem_kernel)[(-(-pixels // tile.m),)](
        images, weight, bias, out,
        *unspecialized(height, width, *size, pixels, out_channels // out_unit), *images.stride(),
        OUT_UNIT=out_unit, CHANNELS=channels, KERNEL=kernel, STRIDE=stride, PADDING=padding, SILU=silu, TF32=tf32,
        UINT8=images.dtype == torch.uint8, **constants_of(tile, precision), **launch_options(tile),
    )  # fmt: skip
    return as_nchw(out)


@stem.register_kernel("cpu")
def stem_reference(
    images: Tensor, weight: Tensor, bias: Tensor,
    kernel: int, stride: int, padding: int, silu: bool, tf32: bool, precision: str,
) -> Tensor:  # fmt: skip
    """Eager form of `stem`, and what it computes on the CPU."""
    channels = images.shape[1]
    values = images / 255 if images.dtype == torch.uint8 else images.float()
    values = (round_tf32(values) if tf32 else values).to(weight.dtype)
    taps = weight[:, : kernel * kernel * channels].contiguous()
    out: Tensor = conv2d_reference([values], taps, bias, None, kernel, stride, padding, silu, tf32, precision, (), ())
    return out
