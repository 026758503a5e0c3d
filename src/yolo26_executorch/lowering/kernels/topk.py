"""Exact top-k of long rows, sorted and stable, in two Triton launches.

The first filters: it divides a row into as many groups as it has lanes and searches a threshold that at least k of the
groups' maxima reach. At least k elements reach it, then, so none of the top k lies below. Few others do: of 8400
anchors' scores, about 350 candidates are left for k = 300.

The second counts the rank of every candidate: the number of those that are greater, or equal and further left. The k of
lowest rank are written at their ranks, which leaves them sorted; nothing is exchanged between programs.

How long that takes depends on the data: where all that is great lies in few groups, more candidates are left, at worst
the whole row, whose square is then the number of comparisons. Equal elements alone cannot do that: of those at the
threshold, the k leftmost are kept. ExecuTorch's own Triton top-k makes k passes one after the other, and takes no row
above 4096.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .pdl import pdl_enabled, wait_for_previous

BLOCK = 8192
"""Elements that the filter reads at once; below 65536, since it packs two counts of them into one number."""


@triton.jit
def _sortable(values):  # type: ignore[no-untyped-def]
    """Map float32 to int32 of the same order; NaN above everything, as torch.topk has it, and -0 equal to 0.

    No number becomes the least int32.
    """
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return tl.where(values != values, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def _keys(scores, position, n):  # type: ignore[no-untyped-def]
    """Return the sortable keys of a row's elements; out-of-range ones are below everything."""
    inside = position < n
    return tl.where(inside, _sortable(tl.load(scores + position, mask=inside, other=0.0)), -0x80000000)


@triton.jit
def sieve_kernel(  # type: ignore[no-untyped-def]
    scores, candidates, counts, n, k, GROUPS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Write the positions of the elements that may be among the k greatest, in order, and how many they are.

    scores (rows, n) float32; candidates (rows, n) int32; counts (rows,) int32. Grid: (rows,). k is at most GROUPS.
    """
    row = tl.program_id(0).to(tl.int64)
    scores += row * n
    candidates += row * n
    wait_for_previous(PDL)
    best = tl.full((GROUPS,), -0x80000000, tl.int32)
    square = tl.arange(0, BLOCK // GROUPS)[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
    for first in range(0, n, BLOCK):
        best = tl.maximum(best, tl.max(_keys(scores, first + square, n), axis=0))
    # Bisect until the threshold keeps few enough, at least k of the maxima always.
    high = tl.max(best, axis=0)
    low = tl.min(tl.where(best == -0x80000000, high, best), axis=0)
    kept = GROUPS
    while (low < high) & (kept > k + k // 8):
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
        reaching = tl.sum((best >= middle).to(tl.int32), axis=0)
        enough = reaching >= k
        kept = tl.where(enough, reaching, kept)
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    lanes = tl.arange(0, BLOCK)
    above = tl.zeros((), tl.int32)
    equal = tl.zeros((), tl.int32)
    for first in range(0, n, BLOCK):
        key = _keys(scores, first + lanes, n)
        both = tl.cumsum((key > low).to(tl.int32) + ((key == low).to(tl.int32) << 16), axis=0)
        above_here, equal_here = above + (both & 0xFFFF), equal + (both >> 16)
        chosen = (key > low) | ((key == low) & (equal_here <= k))
        tl.store(candidates + above_here + tl.minimum(equal_here, k) - 1, first + lanes, mask=chosen)
        above += tl.sum((key > low).to(tl.int32), axis=0)
        equal += tl.sum((key == low).to(tl.int32), axis=0)
    tl.store(counts + row, above + tl.minimum(equal, k))


@triton.jit
def rank_kernel(  # type: ignore[no-untyped-def]
    scores, candidates, counts, values, indices, n, k,
    BLOCK: tl.constexpr, STEP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write the k best of each row's candidates, sorted.

    scores, candidates and counts as of `sieve_kernel`; values, indices (rows, k). Grid: (blocks of candidates, rows).
    """
    row = tl.program_id(1).to(tl.int64)
    scores += row * n
    candidates += row * n
    wait_for_previous(PDL)
    count = tl.load(counts + row)
    if tl.program_id(0) * BLOCK < count:
        mine = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        here = mine < count
        position = tl.load(candidates + mine, mask=here, other=0)
        value = tl.load(scores + position)
        key = _sortable(value)
        rank = tl.zeros((BLOCK,), dtype=tl.int32)
        for first in range(0, count, STEP):
            other = first + tl.arange(0, STEP)
            rival_position = tl.load(candidates + other, mask=other < count, other=n)
            rival = _keys(scores, rival_position, n)
            ahead = (rival[None, :] > key[:, None]) | (
                (rival[None, :] == key[:, None]) & (rival_position[None, :] < position[:, None])
            )
            rank += tl.sum(ahead.to(tl.int32), axis=1)
        chosen = here & (rank < k)
        tl.store(values + row * k + rank, value, mask=chosen)
        tl.store(indices + row * k + rank, position.to(tl.int64), mask=chosen)


@triton_op("yolo26_et::topk", mutates_args={})
def topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k greatest of each row, sorted from the greatest; among equals the leftmost comes first.

    Args:
        scores: float32 (B, N), contiguous; NaN counts as the greatest, as in torch.topk.
        k: how many; at most N.

    Returns:
        values float32 (B, k) and indices int64 (B, k), as torch.topk.
    """
    scores = scores.contiguous()
    rows, n = scores.shape
    groups = max(1024, triton.next_power_of_2(k))
    candidates = torch.empty((rows, n), dtype=torch.int32, device=scores.device)
    counts = torch.empty((rows,), dtype=torch.int32, device=scores.device)
    wrap_triton(sieve_kernel)[(rows,)](
        scores, candidates, counts, n, k, GROUPS=groups, BLOCK=max(groups, BLOCK),
        PDL=pdl_enabled(), num_warps=8,
    )  # fmt: skip
    values = torch.empty((rows, k), dtype=torch.float32, device=scores.device)
    indices = torch.empty((rows, k), dtype=torch.int64, device=scores.device)
    block = 8
    wrap_triton(rank_kernel)[(-(-n // block), rows)](
        scores, candidates, counts, values, indices, n, k, BLOCK=block, STEP=256,
        PDL=pdl_enabled(), num_warps=4,
    )  # fmt: skip
    return values, indices


@topk.register_kernel("cpu")
def topk_reference(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Eager form of `topk`, and what it computes on the CPU."""
    values, indices = torch.sort(scores, dim=-1, descending=True, stable=True)
    return values[:, :k].contiguous(), indices[:, :k].contiguous()
