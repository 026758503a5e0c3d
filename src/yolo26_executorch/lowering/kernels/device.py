"""Functions that several kernels call, compiled into each of them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def to_tf32(values):  # type: ignore[no-untyped-def]
    """Return what `tf32.round_tf32` does, inside a kernel."""
    multiple = values * 8192.0
    return (values + multiple) - multiple


@triton.jit
def size_of(odd):  # type: ignore[no-untyped-def]
    """Return the size that `layout.unspecialized` has made odd."""
    return odd >> 1


@triton.jit
def group_member(  # type: ignore[no-untyped-def]
    x0, x1, x2, weight0, weight1, weight2, bias0, bias1, bias2, out0, out1, out2,
    channels0, channels1, channels2, height0, height1, height2, width0, width1, width2,
    pixels0, pixels1, pixels2, stride0, stride1, stride2, first1, first2,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Return this program's batch of a grouped launch: its tensors and sizes, and which of the batch's tiles it writes.

    The grid's first axis holds the tiles of all, those of the second from `first1` on, of the third from `first2` on;
    arguments as `layout.group_arguments` gives them.
    """
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
    height, width, pixels = size_of(height), size_of(width), size_of(pixels)
    return tile, images, weight, bias, out, channels, height, width, pixels, stride
