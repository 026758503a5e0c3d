"""Programmatic dependent launch (PDL) and prefetching of weights: what hides a launch and a layer's cold weights.

Weights that exceed the L2 cache come from the GPU's memory at every run, and small layers would wait for them: every
program prefetches its share of what the next convolution reads. And a kernel may be started before the results of the
one before it are written (NVIDIA's programmatic dependent launch): it computes its addresses, then waits.

What keeps the latter safe is that every program waits (`wait_for_previous`) before it reads what is not constant or
writes anything, and before it can end: a kernel that has ended has waited for all that was launched before it, of any
kind. It is done in CUDA graphs: launched one by one, kernels would keep the CPU busy for longer than they run.
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

from .device import size_of
from .layout import MAX_GROUP, unspecialized

NAME = "PDL"
"""Of the kernels' constant by which whoever launches them knows."""

_enabled = ContextVar("pdl", default=False)


@contextlib.contextmanager
def use_pdl(wanted: bool) -> Iterator[None]:
    """Compile kernels that are launched early, or none, in this context; only a GPU from sm_90 on runs them."""
    token = _enabled.set(wanted)
    try:
        yield
    finally:
        _enabled.reset(token)


def pdl_enabled() -> bool:
    """Return whether kernels are launched early here, a constant that they are compiled for."""
    return _enabled.get()


@triton.jit
def wait_for_previous(PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Wait for what was launched before to be written."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _prefetch_one(next_weights, units, share):  # type: ignore[no-untyped-def]
    if next_weights is not None:
        units, share = size_of(units), size_of(share)
        program = tl.program_id(0) + tl.num_programs(0) * (tl.program_id(1) + tl.num_programs(1) * tl.program_id(2))
        first = program * share
        size = tl.minimum(share, units - first) * 16
        address = (next_weights.to(tl.int64) & ~15) + first.to(tl.int64) * 16
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
def prefetch(  # type: ignore[no-untyped-def]
    next0, next1, next2, units0, units1, units2, share0, share1, share2, PDL: tl.constexpr
):  # fmt: skip
    """Prefetch this program's share of up to three tensors that a later launch reads into the L2 cache.

    next: constants, so that they may be read before `wait_for_previous`, or None; units: their sizes, and share: each
    program's, in 16 bytes, as `layout.unspecialized`.
    """
    if PDL:
        _prefetch_one(next0, units0, share0)
        _prefetch_one(next1, units1, share1)
        _prefetch_one(next2, units2, share2)


def prefetch_arguments(next_weights: Sequence[Tensor], grid: Sequence[int]) -> list[Any]:
    """Return the arguments of `prefetch`: the tensors, sizes and shares; None for those that there are not.

    Args:
        next_weights: up to three constants.
        grid: programs.
    """
    units = [value.numel() * value.element_size() // 16 for value in next_weights]
    shares = [-(-count // math.prod(grid)) for count in units]
    missing = [None] * (MAX_GROUP - len(next_weights))
    return [*next_weights, *missing, *unspecialized(*units), *missing, *unspecialized(*shares), *missing]
