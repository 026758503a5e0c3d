"""How the kernels want their tensors in memory, and their sizes as arguments."""

from __future__ import annotations

import torch
import triton
import triton.language as tl  # noqa: F401 - Triton's interpreter wants to see it
from torch import Tensor

GROUP = 3
"""Most batches that one launch takes side by side: the levels of a YOLO26's head."""


def pixels_in_line(images: Tensor) -> tuple[Tensor, int]:
    """Return (N, C, H, W) with its pixels one behind the other, channels innermost, and the elements between pixels.

    A slice of the channels of such a tensor is one, too; what is none is copied.
    """
    _, channels, height, width = images.shape
    by_row, by_image = width, width * height
    steps = {
        stride // count
        for stride, count, size in zip(images.stride(), (by_image, 0, by_row, 1), images.shape, strict=True)
        if count and size > 1
    }
    step = steps.pop() if steps else channels
    wanted = (by_image * step, 1, by_row * step, step)
    if all(size == 1 or have == want for size, have, want in zip(images.shape, images.stride(), wanted, strict=True)):
        return images, step
    return images.contiguous(memory_format=torch.channels_last), channels


def channels_last(out: Tensor) -> Tensor:
    """Return (N, H, W, C) as (N, C, H, W), as PyTorch counts.

    Kernels write into a plain (N, H, W, C): one made with a memory format Inductor would fill by a launch of its own.
    """
    return out.permute(0, 3, 1, 2)


def hidden(*sizes: int) -> list[int]:
    """Return sizes as odd numbers, which `size_of` turns back in the kernel.

    For an argument that is 1 or a multiple of 16, Inductor compiles a kernel of its own. Odd numbers are neither, so
    one kernel does for all sizes.
    """
    return [2 * size + 1 for size in sizes]


@triton.jit
def size_of(odd):  # type: ignore[no-untyped-def]
    """Return the size that `hidden` has made odd."""
    return odd >> 1


def unit_of(*sizes: int) -> int:
    """Return what kernels are told sizes in: 8 where all are multiples of it, else 1."""
    return 8 if all(size % 8 == 0 for size in sizes) else 1
