"""Exact top-k of long rows, sorted and stable, as one Triton launch for rows up to 32768.

Every element's rank is counted: the number of elements that are greater, or equal and further left. The k of lowest
rank are written at their ranks, which leaves them sorted; nothing is sorted, searched or exchanged between programs.
That is n² comparisons, 70 million for the 8400 anchors of a 640×640 picture: little for a GPU, where ExecuTorch's own
Triton top-k makes k passes one after the other and takes no row above 4096.

Longer rows are split into groups of at least k elements. An element of the row's top k is in its group's top k, so the
top k of the groups' top k is exact; ties keep the leftmost, since groups are laid side by side in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

GROUP = 32768
"""Longest row that is ranked in one launch."""


@triton.jit
def _sortable(values):  # type: ignore[no-untyped-def]
    """Map float32 to int32 of the same order; NaN above everything, as torch.topk has it, and -0 equal to 0."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    return tl.where(values != values, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def rank_kernel(  # type: ignore[no-untyped-def]
    scores, origins, values, indices, n, groups, k: tl.constexpr,
    FIRST: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write the k best of each group, sorted.

    scores (rows, n) float32, origins (rows, n) int64 (unread if FIRST: then an element's origin is its position);
    values, indices (rows, groups * k). Grid: (blocks of a group's elements, groups, rows).
    """
    group = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    start = (group.to(tl.int64) * n // groups).to(tl.int32)
    end = ((group + 1).to(tl.int64) * n // groups).to(tl.int32)
    mine = start + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = mine < end
    value = tl.load(scores + row * n + mine, mask=here, other=0.0)
    key = _sortable(value)
    rank = tl.zeros((BLOCK,), dtype=tl.int32)
    for first in range(start, end, STEP):
        other = first + tl.arange(0, STEP)
        inside = other < end
        rival = _sortable(tl.load(scores + row * n + other, mask=inside, other=0.0))
        ahead = (rival[None, :] > key[:, None]) | ((rival[None, :] == key[:, None]) & (other[None, :] < mine[:, None]))
        rank += tl.sum((ahead & inside[None, :]).to(tl.int32), axis=1)
    chosen = here & (rank < k)
    place = (row * groups + group) * k + rank
    tl.store(values + place, value, mask=chosen)
    if FIRST:  # noqa: SIM108 - decided while compiling; the other branch must not be
        origin = mine.to(tl.int64)
    else:
        origin = tl.load(origins + row * n + mine, mask=chosen, other=0)
    tl.store(indices + place, origin, mask=chosen)


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
    origins = None
    while True:
        rows, n = scores.shape
        groups = 1 if n <= GROUP else -(-n // (GROUP // 2))
        if groups * k > n // 2:  # a round that does not halve the row is not worth a launch
            groups = 1
        values = torch.empty((rows, groups * k), dtype=torch.float32, device=scores.device)
        indices = torch.empty((rows, groups * k), dtype=torch.int64, device=scores.device)
        block, step = 32, 256
        longest = -(-n // groups)
        wrap_triton(rank_kernel)[(-(-longest // block), groups, rows)](
            scores, indices if origins is None else origins, values, indices, n, groups, k,
            FIRST=origins is None, BLOCK=block, STEP=step,
        )  # fmt: skip
        if groups == 1:
            return values, indices
        scores, origins = values, indices


@topk.register_kernel("cpu")
def topk_reference(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Eager form of `topk`, and what it computes on the CPU."""
    values, indices = torch.sort(scores, dim=-1, descending=True, stable=True)
    return values[:, :k].contiguous(), indices[:, :k].contiguous()
