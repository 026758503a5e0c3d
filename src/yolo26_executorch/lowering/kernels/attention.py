"""YOLO26's attention over the pixels of one image, with its positional convolution, in one launch.

Scores and softmax stay in registers (after Dao et al., FlashAttention, arXiv:2205.14135): a tile of queries walks over
the keys, and its sums are rescaled whenever a greater score turns up (online softmax).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .depthwise import depthwise_reference
from .device import size_of, to_tf32
from .layout import as_nchw, to_nhwc, unspecialized
from .pdl import pdl_enabled, wait_for_previous
from .tf32 import round_tf32


@triton.jit
def attention_kernel(  # type: ignore[no-untyped-def]
    qkv, taps, bias, out,
    pixels, height, width, qkv_stride, out_stride, heads,
    SCALE: tl.constexpr, KEY: tl.constexpr, HEAD: tl.constexpr, KERNEL: tl.constexpr, TF32: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WARPS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_M pixels of one head. Grid: (blocks of pixels, heads, images).

    qkv (N * H * W, heads * (2 * KEY + HEAD)): each head's query, key and value; taps (KERNEL * KERNEL, heads * HEAD),
    bias (heads * HEAD); out (N * H * W, heads * HEAD). SCALE is to the base 2,
    sizes are given as `layout.unspecialized`, strides in units of 16.
    """
    pixels, height, width, heads = size_of(pixels), size_of(height), size_of(width), size_of(heads)
    qkv_stride, out_stride = size_of(qkv_stride) * 16, size_of(out_stride) * 16
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64) * pixels
    base = qkv + image * qkv_stride + head * (2 * KEY + HEAD)
    values = base + 2 * KEY
    key = tl.arange(0, KEY)
    channel = tl.arange(0, HEAD)
    inside_row = row < pixels
    wait_for_previous(PDL)
    q = tl.load(base + row[:, None] * qkv_stride + key[None, :], mask=inside_row[:, None], other=0.0)
    greatest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    weights = tl.zeros((BLOCK_M,), dtype=tl.float32)
    total = tl.zeros((BLOCK_M, HEAD), dtype=tl.float32)
    for start in range(0, pixels, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        inside = column < pixels
        k = tl.load(base + KEY + column[None, :] * qkv_stride + key[:, None], mask=inside[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * SCALE
        scores = tl.where(inside[None, :], scores, float("-inf"))
        now = tl.maximum(greatest, tl.max(scores, 1))
        share = tl.exp2(scores - now[:, None])
        faded = tl.exp2(greatest - now)
        weights = weights * faded + tl.sum(share, 1)
        if TF32:  # `tl.dot` truncates; see `tf32.round_tf32`
            share = to_tf32(share)
        v = tl.load(values + column[:, None] * qkv_stride + channel[None, :], mask=inside[:, None], other=0.0)
        total = tl.dot(share.to(v.dtype), v, total * faded[:, None], input_precision=PRECISION)
        greatest = now
    total = total / weights[:, None]
    x = row % width
    y = row // width
    for tap in tl.static_range(KERNEL * KERNEL):
        line = y + (tap // KERNEL - KERNEL // 2)
        place = x + (tap % KERNEL - KERNEL // 2)
        seen = inside_row & (line >= 0) & (line < height) & (place >= 0) & (place < width)
        at = (line * width + place) * qkv_stride
        near = tl.load(values + at[:, None] + channel[None, :], mask=seen[:, None], other=0.0).to(tl.float32)
        total += near * tl.load(taps + (tap * heads + head) * HEAD + channel).to(tl.float32)[None, :]
    total += tl.load(bias + head * HEAD + channel).to(tl.float32)[None, :]
    if TF32:
        total = to_tf32(total)
    at = (image + row)[:, None] * out_stride + (head * HEAD + channel)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside_row[:, None])


def blocks(
    programs_of_32: int, key: int, head: int, element_bytes: int, precision: str, shared_bytes: int
) -> tuple[int, int]:
    """Return how many pixels a program writes, and how many keys it takes at once, as was best on an H100.

    Few pixels go in small blocks, for all multiprocessors, and many keys are taken at once, as far as shared memory
    holds them: twice, since the next are loaded meanwhile (double buffering).

    Args:
        programs_of_32: programs of 32 pixels that there would be.
        key: see `attention`.
        head: channels of a head's value.
        element_bytes: 4, or 2 for half precisions.
        precision: see `attention`.
        shared_bytes: see `attention`.
    """
    few = programs_of_32 < 132
    rows = 16 if few else 32 if element_bytes == 4 else 64
    keys = 32 if precision == "ieee" else 64 if rows == 32 else 128
    while keys > 16 and (2 * keys * (key + head) + rows * (keys + key + head)) * element_bytes > shared_bytes:
        keys //= 2
    return rows, keys


@triton_op("yolo26_et::attention", mutates_args={})
def attention(
    qkv: Tensor, taps: Tensor, bias: Tensor, heads: int, key: int, scale: float, tf32: bool, precision: str,
    shared_bytes: int,
) -> Tensor:  # fmt: skip
    """Let every pixel attend to all pixels of its image, and add a depthwise convolution of the values.

    Args:
        qkv: (N, heads * (2 * key + D), H, W), channels last: each head's query, key and value, one after the other;
            key and D powers of two, at least 16.
        taps: (K * K, heads * D): weight of the depthwise convolution, K odd.
        bias: (heads * D,).
        heads: of the attention.
        key: channels of a head's query and key.
        scale: of the scores before the softmax.
        tf32: whether to round the softmax and the result to tf32's 10 bits.
        precision: how float32 operands are multiplied: "tf32" or "ieee".
        shared_bytes: shared memory that one program may have on the GPU: 64 KB (sm_75), 99 KB (sm_86, sm_89, sm_120)
            to 227 KB (sm_90).

    Returns:
        (N, heads * D, H, W), channels last, of the dtype of `qkv`.
    """
    batch, width_of_all, height, width = qkv.shape
    qkv, step = to_nhwc(qkv)
    head = width_of_all // heads - 2 * key
    pixels = height * width
    out = qkv.new_empty((batch, height, width, heads * head))
    programs = -(-pixels // 32) * heads * batch
    block_m, block_n = blocks(programs, key, head, qkv.element_size(), precision, shared_bytes)
    wrap_triton(attention_kernel)[(-(-pixels // block_m), heads, batch)](
        qkv, taps, bias, out, *unspecialized(pixels, height, width, step // 16, heads * head // 16, heads),
        SCALE=scale / math.log(2), KEY=key, HEAD=head, KERNEL=math.isqrt(taps.shape[0]), TF32=tf32, PRECISION=precision,
        BLOCK_M=block_m, BLOCK_N=block_n, WARPS=4, PDL=pdl_enabled(),
        num_warps=4,
    )  # fmt: skip
    return as_nchw(out)


@attention.register_kernel("cpu")
def attention_reference(
    qkv: Tensor, taps: Tensor, bias: Tensor, heads: int, key: int, scale: float, tf32: bool, precision: str,
    shared_bytes: int,
) -> Tensor:  # fmt: skip
    """Eager form of `attention`, and what it computes on the CPU."""
    batch, _, height, width = qkv.shape
    parts = qkv.float().reshape(batch, heads, -1, height * width)
    q, k, v = torch.split(parts, [key, key, parts.shape[2] - 2 * key], dim=2)
    share = (q.transpose(-2, -1) @ k * scale).softmax(-1)
    values = v.reshape(batch, -1, height, width)
    out: Tensor = (v @ share.transpose(-2, -1)).reshape(values.shape)
    out = out + depthwise_reference(values, taps.float(), bias.float(), 1, math.isqrt(taps.shape[0]) // 2, False, False)
    if tf32:
        out = round_tf32(out)
    return out.to(qkv.dtype).contiguous(memory_format=torch.channels_last)
