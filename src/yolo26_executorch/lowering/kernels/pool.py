"""Max-pooling repeated with one window (SPPF), all its results in one launch: the later windows are wider."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .device import size_of
from .layout import as_nchw, to_nhwc, unit_of, unspecialized
from .pdl import pdl_enabled, wait_for_previous


@triton.jit
def pools_kernel(  # type: ignore[no-untyped-def]
    images, out, channels, height, width, pixels, stride,
    UNIT: tl.constexpr, RADIUS: tl.constexpr, COUNT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Write the maxima of windows of RADIUS, 2 RADIUS … around BLOCK_P pixels of BLOCK_C channels.

    images (N * H * W, channels) with `stride` elements from pixel to pixel, out (N * H * W, COUNT * channels), COUNT at
    most 3.
    """
    channels, stride = size_of(channels) * UNIT, size_of(stride) * UNIT
    height, width, pixels = size_of(height), size_of(width), size_of(pixels)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = pixel < pixels
    there = (channel < channels)[None, :]
    x = pixel % width
    y = pixel // width % height
    lowest = tl.full((BLOCK_P, BLOCK_C), float("-inf"), dtype=tl.float32)
    first = lowest
    second = lowest
    third = lowest
    wait_for_previous(PDL)
    for down in range(-COUNT * RADIUS, COUNT * RADIUS + 1):
        seen_row = inside & (y + down >= 0) & (y + down < height)
        for right in tl.static_range(-COUNT * RADIUS, COUNT * RADIUS + 1):
            seen = seen_row & (x + right >= 0) & (x + right < width)
            place = (pixel + down * width + right).to(tl.int64)[:, None] * stride + channel[None, :]
            value = tl.load(images + place, mask=seen[:, None] & there, other=float("-inf")).to(tl.float32)
            third = tl.maximum(third, value)
            if right >= -2 * RADIUS and right <= 2 * RADIUS:
                second = tl.where((down >= -2 * RADIUS) & (down <= 2 * RADIUS), tl.maximum(second, value), second)
            if right >= -RADIUS and right <= RADIUS:
                first = tl.where((down >= -RADIUS) & (down <= RADIUS), tl.maximum(first, value), first)
    place = out + pixel.to(tl.int64)[:, None] * (COUNT * channels) + channel[None, :]
    mask = inside[:, None] & there
    tl.store(place, first.to(out.dtype.element_ty), mask=mask)
    if COUNT > 1:
        tl.store(place + channels, second.to(out.dtype.element_ty), mask=mask)
    if COUNT > 2:
        tl.store(place + 2 * channels, third.to(out.dtype.element_ty), mask=mask)


@triton_op("yolo26_et::max_pools", mutates_args={})
def max_pools(images: Tensor, radius: int, count: int) -> Tensor:
    """Max-pool repeatedly, stride 1, and concatenate the results.

    Args:
        images: (N, C, H, W), channels last (copied if it is not), finite.
        radius: of the window, pixels: it is 2 * radius + 1 wide and high.
        count: how often: 1 to 3.

    Returns:
        (N, count * C, H, W), channels last: pooled once, twice …
    """
    batch, channels, height, width = images.shape
    images, step = to_nhwc(images)
    unit = unit_of(channels, step)
    out = images.new_empty((batch, height, width, count * channels))
    pixels = batch * height * width
    block_c = min(32, triton.next_power_of_2(channels))
    block_p = 512 // block_c
    wrap_triton(pools_kernel)[(-(-pixels // block_p), -(-channels // block_c))](
        images, out, *unspecialized(channels // unit, height, width, pixels, step // unit),
        UNIT=unit, RADIUS=radius, COUNT=count, BLOCK_P=block_p, BLOCK_C=block_c,
        PDL=pdl_enabled(), num_warps=4,
    )  # fmt: skip
    return as_nchw(out)


@max_pools.register_kernel("cpu")
def max_pools_reference(images: Tensor, radius: int, count: int) -> Tensor:
    """Eager form of `max_pools`, and what it computes on the CPU."""
    pooled = [images]
    for _ in range(count):
        pooled.append(torch.nn.functional.max_pool2d(pooled[-1], 2 * radius + 1, 1, radius))
    return torch.cat(pooled[1:], 1).contiguous(memory_format=torch.channels_last)
