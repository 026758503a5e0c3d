"""How the kernels want their tensors in memory, and their sizes as arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def of_group(
    images: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], outs: Sequence[Tensor],
    steps: Sequence[int], tiles: Sequence[int], unit: int,
) -> list[Any]:  # fmt: skip
    """Return the arguments that every kernel of a group begins with, three of a kind.

    Args:
        images: up to three (N, Cᵢ, Hᵢ, Wᵢ), which sizes are read from; a missing one is given the first's arguments.
        weights: one each.
        biases: one each.
        outs: one each.
        steps: elements from pixel to pixel.
        tiles: how many programs each takes.
        unit: what channels and steps are told in; see `unit_of`.
    """

    def three(values: Sequence[Any]) -> list[Any]:
        return [*values, *[values[0]] * (GROUP - len(images))]

    batch, channels, height, width = zip(*[value.shape for value in images], strict=True)
    pixels = [n * h * w for n, h, w in zip(batch, height, width, strict=True)]
    first2 = sum(tiles[:2]) if len(images) > 2 else sum(tiles)
    return [
        *three(images), *three(weights), *three(biases),
        # A tensor that is written may not be given twice; what would be written in place of a missing one, is not.
        *outs, *[biases[0]] * (GROUP - len(outs)),
        *hidden(
            *three([count // unit for count in channels]), *three(height), *three(width), *three(pixels),
            *three([step // unit for step in steps]), tiles[0], first2,
        ),
    ]  # fmt: skip
