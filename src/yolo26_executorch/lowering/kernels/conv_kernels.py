"""Triton kernels of the convolutions: channels are innermost in every tensor.

A product of (pixels, taps · channels) and (taps · channels, out_channels) is summed in float32 by the matrix units
(implicit GEMM). Concatenated inputs (`torch.cat`, also of upsampled images) are read from where they lie, tensor by
tensor.

Sizes are arguments of the kernels and no constants, so that one compiled kernel serves every layer with the same tile,
and every variant. `conv` launches them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .device import group_member, of_member, size_of, to_tf32
from .pdl import prefetch, wait_for_previous


@triton.jit
def epilogue(  # type: ignore[no-untyped-def]
    total, bias, residual, residual_stride, out, row, in_m, column, out_channels,
    SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """Add the bias, apply SiLU, add the residual, round and write a tile."""
    in_n = column < out_channels
    inside = in_m[:, None] & in_n[None, :]
    total += tl.load(bias + column, mask=in_n, other=0.0).to(tl.float32)[None, :]
    if SILU:
        total = total * tl.sigmoid(total)
    if RESIDUAL:
        place = row.to(tl.int64)[:, None] * residual_stride + column[None, :]
        total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if TF32:
        total = to_tf32(total)
    place = row.to(tl.int64)[:, None] * out_channels + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _load_weight(pointers, in_k, in_n, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load (BLOCK_K, BLOCK_N) of a weight, zeros where channels are not `in_k`, or columns not `in_n`."""
    if EVEN_K and EVEN_N:
        return tl.load(pointers)
    if EVEN_K:
        return tl.load(pointers, mask=in_n[None, :], other=0.0)
    if EVEN_N:
        return tl.load(pointers, mask=in_k[:, None], other=0.0)
    return tl.load(pointers, mask=in_k[:, None] & in_n[None, :], other=0.0)


@triton.jit
def _accumulate(  # type: ignore[no-untyped-def]
    total, images, stride, channels, place, weight, length, first, column, out_channels,
    PRECISION: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr,
):  # fmt: skip
    """Add the product of some pixels' channels with the weight's input channels from `first` on; place: (BLOCK_M,).

    Pointers advance by one number a step, and nothing is masked that need not be: the loop's other instructions take as
    long as its products.
    """
    in_n = column < out_channels
    channel = tl.arange(0, BLOCK_K)
    left = images + place.to(tl.int64)[:, None] * stride + channel[None, :]
    right = weight + column.to(tl.int64)[None, :] * length + first + channel[:, None]
    for start in range(0, channels, BLOCK_K):
        in_k = channel < channels - start
        a = tl.load(left + start) if EVEN_K else tl.load(left + start, mask=in_k[None, :], other=0.0)
        b = _load_weight(right + start, in_k, in_n, EVEN_K, EVEN_N)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def pointwise_kernel(  # type: ignore[no-untyped-def]
    x0, x1, x2, x3, weight, bias, residual, out,
    channels0, channels1, channels2, channels3, stride0, stride1, stride2, stride3,
    height, width, pixels, out_channels, residual_stride,
    next0, next1, next2, units0, units1, units2, share0, share1, share2,
    INPUTS: tl.constexpr, UNIT: tl.constexpr, OUT_UNIT: tl.constexpr, UPSAMPLED: tl.constexpr,
    SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr, PRECISION: tl.constexpr, EVEN_K: tl.constexpr,
    EVEN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Convolve 1×1 over the concatenated channels of up to four tensors.

    xI (N * H * W, channelsI) with `strideI` elements from pixel to pixel, or (N * H/2 * W/2, …) where bit I of
    UPSAMPLED is set; weight (out_channels, ΣchannelsI); out (N * H * W, out_channels). Sizes are given as
    `layout.unspecialized`, those of channels in units: of any multiple of 8 the compiler then knows that 16 bytes can
    be loaded at once. EVEN_K, EVEN_N: whether channels, and out_channels, fill their blocks, so that no mask is needed.
    """
    prefetch(next0, next1, next2, units0, units1, units2, share0, share1, share2, PDL)
    channels0, stride0 = size_of(channels0) * UNIT, size_of(stride0) * UNIT
    channels1, stride1 = size_of(channels1) * UNIT, size_of(stride1) * UNIT
    channels2, stride2 = size_of(channels2) * UNIT, size_of(stride2) * UNIT
    channels3, stride3 = size_of(channels3) * UNIT, size_of(stride3) * UNIT
    residual_stride, out_channels = size_of(residual_stride) * OUT_UNIT, size_of(out_channels) * OUT_UNIT
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
    # Out-of-range rows, which are never written, read the first pixels instead: one and the same for all of them would
    # have to come from one line of the cache.
    pixel = row % pixels
    half = pixel
    if UPSAMPLED:
        y = pixel // width
        half = (y // height * (height // 2) + y % height // 2) * (width // 2) + pixel % width // 2
    wait_for_previous(PDL)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    total = _accumulate(
        total, x0, stride0, channels0, half if UPSAMPLED & 1 else pixel,
        weight, length, 0, column, out_channels, PRECISION, BLOCK_K, EVEN_K, EVEN_N,
    )  # fmt: skip
    if INPUTS > 1:
        total = _accumulate(
            total, x1, stride1, channels1, half if UPSAMPLED & 2 else pixel,
            weight, length, channels0, column, out_channels, PRECISION, BLOCK_K, EVEN_K, EVEN_N,
        )  # fmt: skip
    if INPUTS > 2:
        total = _accumulate(
            total, x2, stride2, channels2, half if UPSAMPLED & 4 else pixel,
            weight, length, channels0 + channels1, column, out_channels, PRECISION, BLOCK_K, EVEN_K, EVEN_N,
        )  # fmt: skip
    if INPUTS > 3:
        total = _accumulate(
            total, x3, stride3, channels3, half if UPSAMPLED & 8 else pixel,
            weight, length, channels0 + channels1 + channels2, column, out_channels, PRECISION, BLOCK_K, EVEN_K, EVEN_N,
        )  # fmt: skip
    epilogue(total, bias, residual, residual_stride, out, row, row < pixels, column, out_channels, SILU, RESIDUAL, TF32)


@triton.jit
def _implicit_gemm(  # type: ignore[no-untyped-def]
    images, weight, channels, height, width, out_height, out_width, pixel_stride, row, in_m, column, out_channels,
    first, last,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, PRECISION: tl.constexpr, EVEN_K: tl.constexpr,
    EVEN_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Return the sum over the blocks of channels `first` to `last` of all taps; see `conv_kernel`.

    What differs from pixel to pixel is computed before the loop: where its first tap lies, and which taps are inside
    the image, a bit each. A step adds one number to all pointers. A scheduler has no second warp to hide the latency of
    this one's arithmetic, so what the loop computed would be waited for.
    """
    x = row % out_width * STRIDE - PADDING
    y = row // out_width
    image = y // out_height
    y = y % out_height * STRIDE - PADDING
    seen = tl.zeros((BLOCK_M,), dtype=tl.int32 if KERNEL <= 5 else tl.int64)
    for tap in tl.static_range(KERNEL * KERNEL):
        line, place = y + tap // KERNEL, x + tap % KERNEL
        inside = in_m & (line >= 0) & (line < height) & (place >= 0) & (place < width)
        seen |= inside.to(seen.dtype) << tap
    channel = tl.arange(0, BLOCK_K)
    origin = image.to(tl.int64) * (height * width) + y * width + x
    left = images + (origin * pixel_stride)[:, None] + channel[None, :]
    right = weight + column.to(tl.int64)[None, :] * (KERNEL * KERNEL * channels) + channel[:, None]
    in_n = column < out_channels
    blocks = tl.cdiv(channels, BLOCK_K)
    tap = first // blocks
    start = (first - tap * blocks) * BLOCK_K
    wait_for_previous(PDL)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(first, last):
        a_at = left + ((tap // KERNEL * width + tap % KERNEL) * pixel_stride + start)
        b_at = right + (tap * channels + start)
        inside = (seen >> tap & 1) == 1
        in_k = start + channel < channels
        a = tl.load(a_at, mask=inside[:, None] if EVEN_K else inside[:, None] & in_k[None, :], other=0.0)
        b = _load_weight(b_at, in_k, in_n, EVEN_K, EVEN_N)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        start += BLOCK_K
        turn = start >= channels
        tap += turn.to(tl.int32)
        start = tl.where(turn, 0, start)
    return total


@triton.jit
def conv_kernel(  # type: ignore[no-untyped-def]
    images, weight, bias, residual, out, partial,
    channels, height, width, out_height, out_width, pixels, out_channels, pixel_stride, residual_stride,
    next0, next1, next2, units0, units1, units2, share0, share1, share2,
    UNIT: tl.constexpr, OUT_UNIT: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr, PRECISION: tl.constexpr, EVEN_K: tl.constexpr,
    EVEN_N: tl.constexpr, SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Convolve with a square kernel: the taps one after the other, each a product over the channels.

    images (N, H, W, channels) with `pixel_stride` elements from pixel to pixel, sizes as in `pointwise_kernel`; weight
    (out_channels, KERNEL * KERNEL * channels), taps before channels; out (N * OH * OW, out_channels). With SPLIT_K > 1
    the sum is divided over the grid's third axis, and the partial sums go to partial (SPLIT_K, N * OH * OW,
    out_channels), float32, for `sum_kernel`.
    """
    prefetch(next0, next1, next2, units0, units1, units2, share0, share1, share2, PDL)
    channels, pixel_stride = size_of(channels) * UNIT, size_of(pixel_stride) * UNIT
    residual_stride, out_channels = size_of(residual_stride) * OUT_UNIT, size_of(out_channels) * OUT_UNIT
    height, width, out_height, out_width = size_of(height), size_of(width), size_of(out_height), size_of(out_width)
    pixels = size_of(pixels)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m = row < pixels
    first, last = 0, KERNEL * KERNEL * tl.cdiv(channels, BLOCK_K)
    if SPLIT_K > 1:
        share = tl.cdiv(last, SPLIT_K)
        first = tl.program_id(2) * share
        last = tl.minimum(first + share, last)
    total = _implicit_gemm(
        images, weight, channels, height, width, out_height, out_width, pixel_stride, row, in_m, column, out_channels,
        first, last, KERNEL, STRIDE, PADDING, PRECISION, EVEN_K, EVEN_N, BLOCK_M, BLOCK_N, BLOCK_K, PDL,
    )  # fmt: skip
    if SPLIT_K > 1:
        place = (tl.program_id(2) * pixels + row).to(tl.int64)[:, None] * out_channels + column[None, :]
        tl.store(partial + place, total, mask=in_m[:, None] & (column < out_channels)[None, :])
    else:
        epilogue(
            total, bias, residual, residual_stride, out, row, in_m, column, out_channels,
            SILU, RESIDUAL, TF32,
        )  # fmt: skip


@triton.jit
def group_kernel(  # type: ignore[no-untyped-def]
    x0, x1, x2, weight0, weight1, weight2, bias0, bias1, bias2, out0, out1, out2,
    channels0, channels1, channels2, height0, height1, height2, width0, width1, width2,
    pixels0, pixels1, pixels2, stride0, stride1, stride2, first1, first2, out_channels,
    next0, next1, next2, units0, units1, units2, share0, share1, share2,
    UNIT: tl.constexpr, OUT_UNIT: tl.constexpr, KERNEL: tl.constexpr, SILU: tl.constexpr, TF32: tl.constexpr,
    PRECISION: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WARPS: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Convolve up to three batches of images, each with its own weight, as `conv_kernel` would; sizes are kept."""
    prefetch(next0, next1, next2, units0, units1, units2, share0, share1, share2, PDL)
    member, tile = group_member(first1, first2)
    images, weight = of_member(member, x0, x1, x2), of_member(member, weight0, weight1, weight2)
    bias, out = of_member(member, bias0, bias1, bias2), of_member(member, out0, out1, out2)
    channels = size_of(of_member(member, channels0, channels1, channels2)) * UNIT
    stride = size_of(of_member(member, stride0, stride1, stride2)) * UNIT
    height, width = of_member(member, height0, height1, height2), of_member(member, width0, width1, width2)
    height, width, pixels = size_of(height), size_of(width), size_of(of_member(member, pixels0, pixels1, pixels2))
    out_channels = size_of(out_channels) * OUT_UNIT
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m = row < pixels
    total = _implicit_gemm(
        images, weight, channels, height, width, height, width, stride, row, in_m, column, out_channels,
        0, KERNEL * KERNEL * tl.cdiv(channels, BLOCK_K), KERNEL, 1, KERNEL // 2, PRECISION, EVEN_K,
        EVEN_N, BLOCK_M, BLOCK_N, BLOCK_K, PDL,
    )  # fmt: skip
    epilogue(total, bias, bias, 0, out, row, in_m, column, out_channels, SILU, False, TF32)


@triton.jit
def sum_kernel(  # type: ignore[no-untyped-def]
    partial, bias, residual, out, pixels, out_channels, residual_stride,
    OUT_UNIT: tl.constexpr, SILU: tl.constexpr, RESIDUAL: tl.constexpr, TF32: tl.constexpr, SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Add the partial sums of a split-K `conv_kernel`: partial (SPLIT_K, pixels, out_channels) float32.

    out (pixels, out_channels), written with the epilogue.
    """
    pixels = size_of(pixels)
    out_channels, residual_stride = size_of(out_channels) * OUT_UNIT, size_of(residual_stride) * OUT_UNIT
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m = row < pixels
    inside = in_m[:, None] & (column < out_channels)[None, :]
    wait_for_previous(PDL)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for split in tl.static_range(SPLIT_K):
        place = (split * pixels + row).to(tl.int64)[:, None] * out_channels + column[None, :]
        total += tl.load(partial + place, mask=inside, other=0.0)
    epilogue(total, bias, residual, residual_stride, out, row, in_m, column, out_channels, SILU, RESIDUAL, TF32)
