"""Convolution with everything that surrounds it in YOLO26 in one launch: inputs laid side by side, bias, SiLU, a sum.

Channels are innermost in every tensor. A product of (pixels, taps · channels) and (taps · channels, output channels) is
summed in float32 by the matrix units; what would be laid side by side along the channels beforehand (`torch.cat`, also
of pictures enlarged to the double) is read from where it lies, tensor by tensor.

Sizes are arguments of the kernel and not part of its code, so that one compiled kernel serves every layer with the same
tile, and every variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .layout import channels_last, hidden, of_group, pixels_in_line, size_of, unit_of
from .overlap import begin, fetch, overlapping, upcoming_arguments
from .tf32 import round_tf32, rounded

INPUTS = 4
"""Most tensors that one launch reads as if they lay side by side."""
LARGEST_KERNEL = 7
"""Pixels; every tap has a bit."""


class Tile(NamedTuple):
    """One configuration of a kernel; sizes in elements."""

    m: int
    """Pixels."""
    n: int
    """Output channels."""
    k: int
    """Channels multiplied at once."""
    stages: int
    warps: int
    splits: int = 1
    """Programs that share the sum of one tile."""


@triton.jit
def finish(  # type: ignore[no-untyped-def]
    total, bias, residual, residual_stride, out, row, inside_row, column, columns,
    SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """Add the bias, apply SiLU, add the residual, round and write a tile."""
    inside_column = column < columns
    inside = inside_row[:, None] & inside_column[None, :]
    total += tl.load(bias + column, mask=inside_column, other=0.0).to(tl.float32)[None, :]
    if SILU:
        total = total * tl.sigmoid(total)
    if RESIDUAL:
        place = row.to(tl.int64)[:, None] * residual_stride + column[None, :]
        total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if TF32:
        total = rounded(total)
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _filters(at, there, inside_column, WHOLE: tl.constexpr, FILLED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load (BLOCK_K, BLOCK_N) of a weight, zeros where channels are not `there` or columns not inside."""
    if WHOLE and FILLED:
        return tl.load(at)
    if WHOLE:
        return tl.load(at, mask=inside_column[None, :], other=0.0)
    if FILLED:
        return tl.load(at, mask=there[:, None], other=0.0)
    return tl.load(at, mask=there[:, None] & inside_column[None, :], other=0.0)


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    total, images, stride, channels, place, weight, length, first, column, columns,
    PRECISION: tl.constexpr, BLOCK_K: tl.constexpr, WHOLE: tl.constexpr, FILLED: tl.constexpr,
):  # fmt: skip
    """Add the product of some pixels' channels with the weight's columns from `first` on; place: (BLOCK_M,) pixels.

    Addresses are a number a step away from where they begin, and nothing is masked that need not be: the loop's
    instructions take as long as its products.
    """
    inside_column = column < columns
    channel = tl.arange(0, BLOCK_K)
    left = images + place.to(tl.int64)[:, None] * stride + channel[None, :]
    right = weight + column.to(tl.int64)[None, :] * length + first + channel[:, None]
    for start in range(0, channels, BLOCK_K):
        there = channel < channels - start
        a = tl.load(left + start) if WHOLE else tl.load(left + start, mask=there[None, :], other=0.0)
        b = _filters(right + start, there, inside_column, WHOLE, FILLED)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def pointwise_kernel(  # type: ignore[no-untyped-def]
    x0, x1, x2, x3, weight, bias, residual, out,
    channels0, channels1, channels2, channels3, stride0, stride1, stride2, stride3,
    height, width, pixels, columns, residual_stride,
    next0, next1, next2, units0, units1, units2, share0, share1, share2,
    INPUTS: tl.constexpr, UNIT: tl.constexpr, OUT_UNIT: tl.constexpr, DOUBLED: tl.constexpr,
    SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    FILLED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Convolve 1×1 over the channels of up to four tensors laid side by side.

    xI (N * H * W, channelsI) with `strideI` elements from pixel to pixel, or (N * H/2 * W/2, …) where bit I of DOUBLED
    is set; weight (columns, ΣchannelsI); out (N * H * W, columns). Sizes are given as `layout.hidden`, those
    of channels in units: of any multiple of 8 the compiler then knows that 16 bytes can be read at once.
    """
    fetch(next0, next1, next2, units0, units1, units2, share0, share1, share2, OVERLAP)
    channels0, stride0 = size_of(channels0) * UNIT, size_of(stride0) * UNIT
    channels1, stride1 = size_of(channels1) * UNIT, size_of(stride1) * UNIT
    channels2, stride2 = size_of(channels2) * UNIT, size_of(stride2) * UNIT
    channels3, stride3 = size_of(channels3) * UNIT, size_of(stride3) * UNIT
    residual_stride, columns = size_of(residual_stride) * OUT_UNIT, size_of(columns) * OUT_UNIT
    height, width, pixels = size_of(height), size_of(width), size_of(pixels)
    length = channels0
    if INPUTS > 1:
        length += channels1
    if INPUTS > 2:
        length += channels2
    if INPUTS > 3:
        length += channels3
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Rows behind the last pixel, which are never written, read the first ones instead: the same one for all of them
    # would have to come from one place in the cache.
    pixel = row % pixels
    half = pixel
    if DOUBLED:
        y = pixel // width
        half = (y // height * (height // 2) + y % height // 2) * (width // 2) + pixel % width // 2
    begin(OVERLAP)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    total = _product(
        total, x0, stride0, channels0, half if DOUBLED & 1 else pixel,
        weight, length, 0, column, columns, PRECISION, BLOCK_K, WHOLE, FILLED,
    )  # fmt: skip
    if INPUTS > 1:
        total = _product(
            total, x1, stride1, channels1, half if DOUBLED & 2 else pixel,
            weight, length, channels0, column, columns, PRECISION, BLOCK_K, WHOLE, FILLED,
        )  # fmt: skip
    if INPUTS > 2:
        total = _product(
            total, x2, stride2, channels2, half if DOUBLED & 4 else pixel,
            weight, length, channels0 + channels1, column, columns, PRECISION, BLOCK_K, WHOLE, FILLED,
        )  # fmt: skip
    if INPUTS > 3:
        total = _product(
            total, x3, stride3, channels3, half if DOUBLED & 8 else pixel,
            weight, length, channels0 + channels1 + channels2, column, columns, PRECISION, BLOCK_K, WHOLE, FILLED,
        )  # fmt: skip
    finish(total, bias, residual, residual_stride, out, row, row < pixels, column, columns, SILU, RESIDUAL, TF32)


@triton.jit
def _convolved(  # type: ignore[no-untyped-def]
    images, weight, channels, height, width, out_height, out_width, pixel_stride, row, inside_row, column, columns,
    first, last,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    FILLED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Return the sum over the blocks of channels `first` to `last` of all taps; see `conv_kernel`.

    What differs from pixel to pixel is computed before the loop: where its first tap lies, and which taps are inside
    the picture, a bit each. A step adds one number to all addresses. A warp has no other beside it to fill the time
    that its own arithmetic takes, so what the loop computes would be waited for.
    """
    x = row % out_width * STRIDE - PADDING
    y = row // out_width
    image = y // out_height
    y = y % out_height * STRIDE - PADDING
    seen = tl.zeros((BLOCK_M,), dtype=tl.int32 if KERNEL <= 5 else tl.int64)
    for tap in tl.static_range(KERNEL * KERNEL):
        line, place = y + tap // KERNEL, x + tap % KERNEL
        inside = inside_row & (line >= 0) & (line < height) & (place >= 0) & (place < width)
        seen |= inside.to(seen.dtype) << tap
    channel = tl.arange(0, BLOCK_K)
    origin = image.to(tl.int64) * (height * width) + y * width + x
    left = images + (origin * pixel_stride)[:, None] + channel[None, :]
    right = weight + column.to(tl.int64)[None, :] * (KERNEL * KERNEL * channels) + channel[:, None]
    inside_column = column < columns
    blocks = tl.cdiv(channels, BLOCK_K)
    tap = first // blocks
    start = (first - tap * blocks) * BLOCK_K
    begin(OVERLAP)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(first, last):
        a_at = left + ((tap // KERNEL * width + tap % KERNEL) * pixel_stride + start)
        b_at = right + (tap * channels + start)
        inside = (seen >> tap & 1) == 1
        there = start + channel < channels
        a = tl.load(a_at, mask=inside[:, None] if WHOLE else inside[:, None] & there[None, :], other=0.0)
        b = _filters(b_at, there, inside_column, WHOLE, FILLED)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        start += BLOCK_K
        turn = start >= channels
        tap += turn.to(tl.int32)
        start = tl.where(turn, 0, start)
    return total


@triton.jit
def conv_kernel(  # type: ignore[no-untyped-def]
    images, weight, bias, residual, out, partial,
    channels, height, width, out_height, out_width, pixels, columns, pixel_stride, residual_stride,
    next0, next1, next2, units0, units1, units2, share0, share1, share2,
    UNIT: tl.constexpr, OUT_UNIT: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    FILLED: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Convolve with a square kernel: the taps one after the other, each a product over the channels.

    images (N, H, W, channels) with `pixel_stride` elements from pixel to pixel, sizes as in `pointwise_kernel`; weight
    (columns, KERNEL * KERNEL * channels), taps before channels; out (N * OH * OW, columns). With SPLITS > 1 the sum is
    shared out over the grid's third axis, and the parts go to partial (SPLITS, N * OH * OW, columns), float32, for
    `sum_kernel`.
    """
    fetch(next0, next1, next2, units0, units1, units2, share0, share1, share2, OVERLAP)
    channels, pixel_stride = size_of(channels) * UNIT, size_of(pixel_stride) * UNIT
    residual_stride, columns = size_of(residual_stride) * OUT_UNIT, size_of(columns) * OUT_UNIT
    height, width, out_height, out_width = size_of(height), size_of(width), size_of(out_height), size_of(out_width)
    pixels = size_of(pixels)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_row = row < pixels
    first, last = 0, KERNEL * KERNEL * tl.cdiv(channels, BLOCK_K)
    if SPLITS > 1:
        share = tl.cdiv(last, SPLITS)
        first = tl.program_id(2) * share
        last = tl.minimum(first + share, last)
    total = _convolved(
        images, weight, channels, height, width, out_height, out_width, pixel_stride, row, inside_row, column, columns,
        first, last, KERNEL, STRIDE, PADDING, PRECISION, WHOLE, FILLED, BLOCK_M, BLOCK_N, BLOCK_K, OVERLAP,
    )  # fmt: skip
    if SPLITS > 1:
        place = (tl.program_id(2) * pixels + row).to(tl.int64)[:, None] * columns + column[None, :]
        tl.store(partial + place, total, mask=inside_row[:, None] & (column < columns)[None, :])
    else:
        finish(
            total, bias, residual, residual_stride, out, row, inside_row, column, columns,
            SILU, RESIDUAL, TF32,
        )  # fmt: skip


@triton.jit
def group_kernel(  # type: ignore[no-untyped-def]
    x0, x1, x2, weight0, weight1, weight2, bias0, bias1, bias2, out0, out1, out2,
    channels0, channels1, channels2, height0, height1, height2, width0, width1, width2,
    pixels0, pixels1, pixels2, stride0, stride1, stride2, first1, first2, columns,
    next0, next1, next2, units0, units1, units2, share0, share1, share2,
    UNIT: tl.constexpr, OUT_UNIT: tl.constexpr, KERNEL: tl.constexpr, SILU: tl.constexpr, TF32: tl.constexpr,
    PRECISION: tl.constexpr, WHOLE: tl.constexpr, FILLED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Convolve up to three batches of pictures, each with its own weight, as `conv_kernel` would; sizes are kept.

    The grid's first axis holds the tiles of all, those of the second from `first1` on, of the third from `first2` on.
    """
    fetch(next0, next1, next2, units0, units1, units2, share0, share1, share2, OVERLAP)
    first1, first2 = size_of(first1), size_of(first2)
    images, weight, bias, out = x0, weight0, bias0, out0
    channels, height, width, pixels, stride = channels0, height0, width0, pixels0, stride0
    tile = tl.program_id(0)
    if tile >= first2:
        images, weight, bias, out = x2, weight2, bias2, out2
        channels, height, width, pixels, stride = channels2, height2, width2, pixels2, stride2
        tile -= first2
    elif tile >= first1:
        images, weight, bias, out = x1, weight1, bias1, out1
        channels, height, width, pixels, stride = channels1, height1, width1, pixels1, stride1
        tile -= first1
    channels, stride = size_of(channels) * UNIT, size_of(stride) * UNIT
    height, width, pixels, columns = size_of(height), size_of(width), size_of(pixels), size_of(columns) * OUT_UNIT
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_row = row < pixels
    total = _convolved(
        images, weight, channels, height, width, height, width, stride, row, inside_row, column, columns,
        0, KERNEL * KERNEL * tl.cdiv(channels, BLOCK_K), KERNEL, 1, KERNEL // 2, PRECISION, WHOLE,
        FILLED, BLOCK_M, BLOCK_N, BLOCK_K, OVERLAP,
    )  # fmt: skip
    finish(total, bias, bias, 0, out, row, inside_row, column, columns, SILU, False, TF32)


@triton.jit
def sum_kernel(  # type: ignore[no-untyped-def]
    partial, bias, residual, out, pixels, columns, residual_stride,
    OUT_UNIT: tl.constexpr, SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Finish what `conv_kernel` has split: partial (SPLITS, pixels, columns) float32, out (pixels, columns)."""
    pixels, columns, residual_stride = size_of(pixels), size_of(columns) * OUT_UNIT, size_of(residual_stride) * OUT_UNIT
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_row = row < pixels
    inside = inside_row[:, None] & (column < columns)[None, :]
    begin(OVERLAP)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        place = (split * pixels + row).to(tl.int64)[:, None] * columns + column[None, :]
        total += tl.load(partial + place, mask=inside, other=0.0)
    finish(total, bias, residual, residual_stride, out, row, inside_row, column, columns, SILU, RESIDUAL, TF32)


def unneeded_masks(tile: Tile, channels: Sequence[int], columns: int) -> dict[str, bool]:
    """Return which masks a kernel is compiled without: whether each input's channels, and columns, fill the blocks."""
    return {"WHOLE": all(count % tile.k == 0 for count in channels), "FILLED": columns % tile.n == 0}


@triton_op("yolo26_et::conv2d", mutates_args={})
def conv2d(
    inputs: Sequence[Tensor], weight: Tensor, bias: Tensor, residual: Tensor | None,
    kernel: int, stride: int, padding: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int],
    upcoming: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Convolve tensors laid side by side along their channels, add the bias, apply SiLU, add another tensor.

    Sums in float32 whatever the tensors' dtype, so it differs from cuDNN by rounding alone.

    Args:
        inputs: (N, Cᵢ, H, W) each, channels last, slices of wider tensors among them (copied if they are not); with a
            1×1 kernel up to four, those of half the height and width read as if enlarged to the double (nearest).
        weight: (O, K * K * ΣC): taps before channels.
        bias: (O,), or longer: what is behind is not read.
        residual: (N, O, H', W'), channels last, added after SiLU; or None.
        kernel: K, at most `LARGEST_KERNEL` pixels.
        stride: step in both directions, pixels.
        padding: zeros around the picture, pixels.
        silu: whether to apply `y * sigmoid(y)`.
        tf32: whether to round the result to tf32's 10 bits, for the matrix product that reads it.
        precision: how float32 operands are multiplied: "tf32" or "ieee".
        tile: the numbers of a `Tile`. Its sum is split for kernels of more than one tap alone.
        upcoming: up to three constants that a later launch reads, for `overlap.fetch`; they change nothing here.

    Returns:
        (N, O, H', W'), channels last, of the inputs' dtype.
    """
    inputs, steps = zip(*[pixels_in_line(value) for value in inputs], strict=True)
    batch, _, height, width = inputs[0].shape
    height, width = max(value.shape[2] for value in inputs), max(value.shape[3] for value in inputs)
    columns = weight.shape[0]
    size = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
    out = inputs[0].new_empty((batch, *size, columns))
    pixels = batch * size[0] * size[1]
    # What a kernel never reads is given the bias: a tensor given twice, and written, would be copied first.
    other, step = (bias, 0) if residual is None else pixels_in_line(residual)
    shape = Tile(*tile)
    grid: tuple[int, ...] = (-(-pixels // shape.m), -(-columns // shape.n))
    finish: dict[str, Any] = {"SILU": silu, "RESIDUAL": residual is not None, "TF32": tf32}
    unit = unit_of(*[value.shape[1] for value in inputs], *steps)
    out_unit = unit_of(columns, step)
    units: dict[str, Any] = {"UNIT": unit, "OUT_UNIT": out_unit}
    settings = settings_of(shape, precision) | unneeded_masks(shape, [value.shape[1] for value in inputs], columns)
    if kernel == 1 and stride == 1 and padding == 0:

        def four(values: Sequence[Any]) -> list[Any]:
            return [*values, *[values[0]] * (INPUTS - len(values))]

        places = four(inputs)
        doubled = sum((value.shape[2] != height) << index for index, value in enumerate(inputs))
        wrap_triton(pointwise_kernel)[grid](
            *places, weight, bias, other, out,
            *hidden(*[value.shape[1] // unit for value in places], *[each // unit for each in four(steps)]),
            *hidden(height, width, pixels, columns // out_unit, step // out_unit),
            *upcoming_arguments(upcoming, grid),
            INPUTS=len(inputs), DOUBLED=doubled, **units, **finish, **settings, **launch_options(shape),
        )  # fmt: skip
        return channels_last(out)
    (images,) = inputs
    partial = bias
    if shape.splits > 1:
        partial = out.new_empty((shape.splits, pixels, columns), dtype=torch.float32)
    grid = (*grid, shape.splits)
    wrap_triton(conv_kernel)[grid](
        images, weight, bias, other, out, partial,
        *hidden(images.shape[1] // unit, height, width, *size, pixels),
        *hidden(columns // out_unit, steps[0] // unit, step // out_unit), *upcoming_arguments(upcoming, grid),
        **units,
        KERNEL=kernel, STRIDE=stride, PADDING=padding, **finish, **settings, SPLITS=shape.splits,
        **launch_options(shape),
    )  # fmt: skip
    if shape.splits > 1:
        block_n = min(64, triton.next_power_of_2(columns))
        block_m = 1024 // block_n
        wrap_triton(sum_kernel)[(-(-pixels // block_m), -(-columns // block_n))](
            partial, bias, other, out, *hidden(pixels, columns // out_unit, step // out_unit),
            OUT_UNIT=out_unit, **finish, SPLITS=shape.splits, BLOCK_M=block_m, BLOCK_N=block_n,
            OVERLAP=overlapping(), num_warps=4,
        )  # fmt: skip
    return channels_last(out)


@conv2d.register_kernel("cpu")
def conv2d_reference(
    inputs: Sequence[Tensor], weight: Tensor, bias: Tensor, residual: Tensor | None,
    kernel: int, stride: int, padding: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int],
    upcoming: Sequence[Tensor],
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
    kernel: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int], upcoming: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    """Convolve several batches, each with its own weight, in one launch; sizes are kept.

    Args:
        images: up to three (N, Cᵢ, Hᵢ, Wᵢ), channels last.
        weights: (O, K * K * Cᵢ) each; see `conv2d`.
        biases: (O,) each, or longer.
        kernel: K, odd, at most `LARGEST_KERNEL`.
        silu: see `conv2d`.
        tf32: see `conv2d`.
        precision: see `conv2d`.
        tile: the numbers of a `Tile`, which all share; its sum is not split.
        upcoming: see `conv2d`.

    Returns:
        (N, O, Hᵢ, Wᵢ) each, channels last.
    """
    images, steps = zip(*[pixels_in_line(value) for value in images], strict=True)
    columns = weights[0].shape[0]
    outs = [value.new_empty((value.shape[0], *value.shape[2:], columns)) for value in images]
    pixels = [value.shape[0] * value.shape[2] * value.shape[3] for value in images]
    shape = Tile(*tile)
    tiles = [-(-count // shape.m) for count in pixels]
    settings = settings_of(shape, precision) | unneeded_masks(shape, [value.shape[1] for value in images], columns)
    unit, out_unit = unit_of(*[value.shape[1] for value in images], *steps), unit_of(columns)
    grid = (sum(tiles), -(-columns // shape.n))
    wrap_triton(group_kernel)[grid](
        *of_group(images, weights, biases, outs, steps, tiles, unit), *hidden(columns // out_unit),
        *upcoming_arguments(upcoming, grid),
        UNIT=unit, OUT_UNIT=out_unit, KERNEL=kernel, SILU=silu, TF32=tf32, **settings, **launch_options(shape),
    )  # fmt: skip
    return [channels_last(out) for out in outs]


@conv2d_group.register_kernel("cpu")
def conv2d_group_reference(
    images: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor],
    kernel: int, silu: bool, tf32: bool, precision: str, tile: Sequence[int], upcoming: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    """Eager form of `conv2d_group`, and what it computes on the CPU."""
    return [
        conv2d_reference([value], weight, bias, None, kernel, 1, kernel // 2, silu, tf32, precision, tile, ())
        for value, weight, bias in zip(images, weights, biases, strict=True)
    ]


def launch_options(tile: Tile) -> dict[str, int]:
    """Return what Triton is told of a launch."""
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def settings_of(tile: Tile, precision: str) -> dict[str, Any]:
    """Return what a convolution is compiled for; warps and stages so that launches which differ there do here."""
    return {
        "PRECISION": precision,
        "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "WARPS": tile.warps, "STAGES": tile.stages,
        "OVERLAP": overlapping(),
    }  # fmt: skip
