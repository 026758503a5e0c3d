"""What large models' kernels do before the kernel ahead of them has ended, on sm_90.

Weights that exceed the L2 cache come from the GPU's memory at every run, and small layers would wait for them: every
program `fetch`es its share of what the next convolution reads. And a kernel may be started before the last one's
results are written (NVIDIA's programmatic dependent launch): it works out where it reads, then waits.

What keeps the latter safe is that every program waits (`begin`) before it reads what is not constant or writes
anything, and before it can end: a kernel that has ended has waited for all that was launched before it, of any kind.
It is done in CUDA graphs: launched one by one, kernels would keep the CPU busy for longer than they run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .layout import GROUP, hidden, size_of

NAME = "OVERLAP"
"""Of the kernels' constant by which whoever launches them knows."""

_overlapping = ContextVar("overlapping", default=False)


@contextlib.contextmanager
def overlap(wanted: bool) -> Iterator[None]:
    """Compile kernels that overlap, or none, in this context; only a GPU from sm_90 on runs them."""
    token = _overlapping.set(wanted)
    try:
        yield
    finally:
        _overlapping.reset(token)


def overlapping() -> bool:
    """Return whether kernels overlap here, a constant that they are compiled for."""
    return _overlapping.get()


@triton.jit
def begin(OVERLAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait for what was launched before to be written."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _fetch(upcoming, units, share):  # type: ignore[no-untyped-def]
    if upcoming is not None:
        units, share = size_of(units), size_of(share)
        program = tl.program_id(0) + tl.num_programs(0) * (tl.program_id(1) + tl.num_programs(1) * tl.program_id(2))
        first = program * share
        size = tl.minimum(share, units - first) * 16
        address = (upcoming.to(tl.int64) & ~15) + first.to(tl.int64) * 16
        tl.inline_asm_elementwise(
            """
            {
                .reg .pred one;
                .reg .b32 thread;
                mov.u32 thread, %tid.x;
                setp.eq.s32 one, thread, 0;
                setp.gt.and.s32 one, $2, 0, one;
                @one cp.async.bulk.prefetch.L2.global [$1], $2;
                mov.u32 $0, 0;
            }
            """,
            "=r,l,r", [address, size], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def fetch(  # type: ignore[no-untyped-def]
    upcoming0, upcoming1, upcoming2, units0, units1, units2, share0, share1, share2, OVERLAP: tl.constexpr
):  # fmt: skip
    """Have this program's share of up to three tensors that a later launch reads brought into the L2 cache.

    upcoming: constants, so that they may be read before `begin`, or None; units: their sizes, and share: each
    program's, in 16 bytes, as `layout.hidden`.
    """
    if OVERLAP:
        _fetch(upcoming0, units0, share0)
        _fetch(upcoming1, units1, share1)
        _fetch(upcoming2, units2, share2)


def upcoming_arguments(upcoming: Sequence[Tensor], grid: Sequence[int]) -> list[Any]:
    """Return the arguments of `fetch`: the tensors, sizes and shares; None for those that there are not.

    Args:
        upcoming: up to three constants.
        grid: programs.
    """
    units = [value.numel() * value.element_size() // 16 for value in upcoming]
    shares = [-(-count // math.prod(grid)) for count in units]
    missing = [None] * (GROUP - len(upcoming))
    return [*upcoming, *missing, *hidden(*units), *missing, *hidden(*shares), *missing]
