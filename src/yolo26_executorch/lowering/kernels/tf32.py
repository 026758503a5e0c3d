"""Rounding to tf32, on tensors and inside kernels."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401 - Triton's interpreter wants to see it
from torch import Tensor


def round_tf32(values: Tensor) -> Tensor:
    """Round float32 values to the nearest that tf32 holds: 10 bits behind the point.

    A GPU's matrix units cut the lower 13 bits off their tf32 operands. cuDNN rounds before; Triton's `tl.dot` does not,
    and a network of operands that are all cut towards zero fades layer by layer: a YOLO26's logits shrink by some
    percent. Rounded operands have nothing left to cut.

    Adding a multiple pushes the lower bits out; taking it away again leaves the rest (after Veltkamp and Dekker,
    Numerische Mathematik 18, 1971). The multiple is a power of two, hence exact, so that a compiler which contracts
    multiplications and additions into one changes nothing.
    """
    multiple = values * 8192.0
    return (values + multiple) - multiple


@triton.jit
def rounded(values):  # type: ignore[no-untyped-def]
    """Return what `round_tf32` does, inside a kernel."""
    multiple = values * 8192.0
    return (values + multiple) - multiple
