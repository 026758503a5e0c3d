"""Masks from coefficients and prototypes: the product, its sign and the crop to the box, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .layout import to_nhwc
from .pdl import pdl_enabled, wait_for_previous

BLOCK_N, BLOCK_P = 64, 256
"""Objects and pixels of a program: 64 rows are what one wgmma takes, and 256 bytes of a row are written at once."""


@triton.jit
def masks_kernel(  # type: ignore[no-untyped-def]
    coefficients, protos, boxes, out, count, channels, width, pixels, step,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Write BLOCK_N masks' BLOCK_P pixels.

    coefficients (N, count, channels), protos (N * pixels, channels) with `step` elements from pixel to pixel,
    boxes (N, count, 4), out (N, count, pixels) uint8. Grid: (blocks of pixels, blocks of objects, N).
    """
    image = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_C)
    there, inside, known = row < count, pixel < pixels, channel < channels
    line = image * count + row
    wait_for_previous(PDL)
    coefficient = tl.load(
        coefficients + line[:, None] * channels + channel[None, :], mask=there[:, None] & known[None, :], other=0.0
    )
    proto = tl.load(
        protos + (image * pixels + pixel)[None, :] * step + channel[:, None],
        mask=known[:, None] & inside[None, :], other=0.0,
    )  # fmt: skip
    logits = tl.dot(coefficient, proto, input_precision=PRECISION)
    x = (pixel % width).to(tl.float32)[None, :]
    y = (pixel // width).to(tl.float32)[None, :]
    left = tl.load(boxes + line * 4, mask=there, other=0.0)[:, None] * 0.25
    top = tl.load(boxes + line * 4 + 1, mask=there, other=0.0)[:, None] * 0.25
    right = tl.load(boxes + line * 4 + 2, mask=there, other=0.0)[:, None] * 0.25
    bottom = tl.load(boxes + line * 4 + 3, mask=there, other=0.0)[:, None] * 0.25
    seen = (logits > 0) & (x >= left) & (x < right) & (y >= top) & (y < bottom)
    tl.store(out + line[:, None] * pixels + pixel[None, :], seen.to(tl.uint8), mask=there[:, None] & inside[None, :])


@triton_op("yolo26_et::masks", mutates_args={})
def masks(coefficients: Tensor, protos: Tensor, boxes: Tensor, precision: str) -> Tensor:
    """Assemble masks, threshold them at 0 and crop them to their boxes.

    Args:
        coefficients: float32 (B, K, C), contiguous.
        protos: float32 (B, C, H, W), channels last (copied if it is not).
        boxes: float32 (B, K, 4), contiguous: corners x1, y1, x2, y2 in pixels of an image four times as large.
        precision: how operands are multiplied: "tf32", for which they are rounded already, or "ieee".

    Returns:
        uint8 (B, K, H, W): 1 inside an object.
    """
    batch, channels, height, width = protos.shape
    count = coefficients.shape[1]
    protos, step = to_nhwc(protos)
    out = torch.empty((batch, count, height, width), dtype=torch.uint8, device=protos.device)
    pixels = height * width
    wrap_triton(masks_kernel)[(-(-pixels // BLOCK_P), -(-count // BLOCK_N), batch)](
        coefficients.contiguous(), protos, boxes.contiguous(), out, count, channels, width, pixels, step,
        BLOCK_N=BLOCK_N, BLOCK_P=BLOCK_P, BLOCK_C=max(16, triton.next_power_of_2(channels)), PRECISION=precision,
        PDL=pdl_enabled(), num_warps=8,
    )  # fmt: skip
    return out


@masks.register_kernel("cpu")
def masks_reference(coefficients: Tensor, protos: Tensor, boxes: Tensor, precision: str) -> Tensor:
    """Eager form of `masks`, and what it computes on the CPU."""
    height, width = protos.shape[2:]
    logits = torch.einsum("bkc,bchw->bkhw", coefficients, protos)
    left, top, right, bottom = (boxes / 4)[..., None, None].unbind(2)  # (B, K, 1, 1) each
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)[:, None]
    return ((logits > 0) & (x >= left) & (x < right) & (y >= top) & (y < bottom)).to(torch.uint8)
