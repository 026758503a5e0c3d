"""The first layer's convolution: of pictures as they come in, scaled and rounded as they are read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .conv import Tile, conv2d_reference, finish, launch_options, settings_of
from .layout import channels_last, hidden, size_of, unit_of
from .overlap import begin
from .tf32 import round_tf32, rounded


@triton.jit
def stem_kernel(  # type: ignore[no-untyped-def]
    images, weight, bias, out,
    height, width, out_height, out_width, pixels, columns, stride_n, stride_c, stride_h, stride_w,
    OUT_UNIT: tl.constexpr, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    SILU: tl.constexpr, TF32: tl.constexpr, PRECISION: tl.constexpr, BYTES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Convolve pictures of so few channels that all taps fit one product, from whatever layout and dtype they have.

    images (N, CHANNELS, H, W) by strides, float32 0..1, or uint8 0..255 with BYTES; weight (columns, BLOCK_K), taps
    before channels, zeros behind them; out (N * OH * OW, columns). A program writes all columns of its pixels, since
    finding and reading what lies under the taps takes longer than multiplying it.
    """
    height, width, out_height, out_width = size_of(height), size_of(width), size_of(out_height), size_of(out_width)
    pixels, columns = size_of(pixels), size_of(columns) * OUT_UNIT
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_row = row < pixels
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
    begin(OVERLAP)
    values = tl.load(images + at, mask=seen & inside_row[:, None], other=0).to(tl.float32)
    if BYTES:
        values = values / 255.0
    if TF32:
        values = rounded(values)
    operand = values.to(weight.dtype.element_ty)
    for first in range(0, columns, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        factors = tl.load(weight + column[None, :] * BLOCK_K + k[:, None], mask=(column < columns)[None, :], other=0.0)
        total = tl.dot(operand, factors, input_precision=PRECISION).to(tl.float32)
        finish(total, bias, bias, 0, out, row, inside_row, column, columns, SILU, False, TF32)


@triton_op("yolo26_et::stem", mutates_args={})
def stem(
    images: Tensor, weight: Tensor, bias: Tensor,
    kernel: int, stride: int, padding: int, silu: bool, tf32: bool, precision: str,
) -> Tensor:  # fmt: skip
    """Convolve pictures as they come in: any strides, float32 0..1 or uint8 0..255 (divided by 255 as they are read).

    Args:
        images: (N, C, H, W); C * kernel² at most 128.
        weight: (O, P), taps before channels and then zeros; P the power of two, at least 16, that holds them.
        bias: (O,), or longer: what is behind is not read.
        kernel: side of the kernel, pixels.
        stride: step in both directions, pixels.
        padding: zeros around the picture, pixels.
        silu: whether to apply `y * sigmoid(y)`.
        tf32: whether to round the pictures and the result to tf32's 10 bits.
        precision: how float32 operands are multiplied: "tf32" or "ieee".

    Returns:
        (N, O, H', W'), channels last, of the weight's dtype.
    """
    batch, channels, height, width = images.shape
    columns, length = weight.shape
    size = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
    out = weight.new_empty((batch, *size, columns))
    pixels = batch * size[0] * size[1]
    block_n = max(16, min(64, columns & -columns))  # the largest that divides them: of 96, which are size x's, 32
    tile = Tile(64 if block_n > 32 else 128, block_n, length, 1, 4)
    out_unit = unit_of(columns)
    wrap_triton(stem_kernel)[(-(-pixels // tile.m),)](
        images, weight, bias, out, *hidden(height, width, *size, pixels, columns // out_unit), *images.stride(),
        OUT_UNIT=out_unit, CHANNELS=channels, KERNEL=kernel, STRIDE=stride, PADDING=padding, SILU=silu, TF32=tf32,
        BYTES=images.dtype == torch.uint8, **settings_of(tile, precision), **launch_options(tile),
    )  # fmt: skip
    return channels_last(out)


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
