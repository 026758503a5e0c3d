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
def group_member(first1, first2):  # type: ignore[no-untyped-def]
    """Return which batch of a grouped launch this program works on, 0 to 2, and which of the batch's tiles it writes.

    The grid's first axis holds the tiles of all, those of the second from `first1` on, of the third from `first2` on;
    arguments as `layout.group_arguments` gives them.
    """
    first1, first2 = size_of(first1), size_of(first2)
    tile = tl.program_id(0)
    member = 0
    if tile >= first2:
        member = 2
        tile -= first2
    elif tile >= first1:
        member = 1
        tile -= first1
    return member, tile


@triton.jit
def of_member(member, value0, value1, value2):  # type: ignore[no-untyped-def]
    """Return a batch's own of three arguments.

    One at a time: of a function that returned several, Inductor would take all to be written where one is.
    """
    value = value0
    if member == 2:
        value = value2
    elif member == 1:
        value = value1
    return value
