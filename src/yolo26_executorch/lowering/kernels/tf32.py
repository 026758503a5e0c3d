"""Rounding of tensors to tf32; `device.to_tf32` does it inside kernels. Needs no Triton."""

from __future__ import annotations

from torch import Tensor


def round_tf32(values: Tensor) -> Tensor:
    """Round float32 values to the nearest that tf32 holds: 10 bits of mantissa.

    A GPU's matrix units truncate their tf32 operands. cuDNN rounds before; Triton's `tl.dot` does not, and a network
    whose operands are all truncated towards zero fades layer by layer: a YOLO26's logits shrink by some percent.
    Rounded operands have nothing left to truncate.

    Adding a multiple pushes the lower bits out; taking it away again leaves the rest (after Veltkamp and Dekker,
    Numerische Mathematik 18, 1971). The multiple is a power of two, hence exact, so that a compiler which contracts
    multiplications and additions into FMAs changes nothing.
    """
    multiple = values * 8192.0
    return (values + multiple) - multiple
