"""How the kernels want their tensors in memory, and their sizes as arguments. Needs no Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_GROUP = 3
"""Most batches that one launch convolves: the levels of a YOLO26's head."""


def to_nhwc(images: Tensor) -> tuple[Tensor, int]:
    """Return (N, C, H, W) with channels innermost and pixels evenly spaced, and the elements from pixel to pixel.

    A slice of the channels of such a tensor is one, too; anything else is copied.
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


def as_nchw(out: Tensor) -> Tensor:
    """View (N, H, W, C) as (N, C, H, W).

    Kernels write into a plain (N, H, W, C): one made with a memory format Inductor would fill by a launch of its own.
    """
    return out.permute(0, 3, 1, 2)


def unspecialized(*sizes: int) -> list[int]:
    """Return sizes as odd numbers, which `device.size_of` turns back in the kernel.

    For an argument that is 1 or a multiple of 16, Triton compiles a specialization of the kernel. Odd numbers are
    neither, so one kernel does for all sizes.
    """
    return [2 * size + 1 for size in sizes]


def unit_of(*sizes: int) -> int:
    """Return what kernels are told sizes in: 8 where all are multiples of it, else 1."""
    return 8 if all(size % 8 == 0 for size in sizes) else 1


def group_arguments(
    images: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], outs: Sequence[Tensor],
    steps: Sequence[int], tiles: Sequence[int], unit: int,
) -> list[Any]:  # fmt: skip
    """Return the arguments that every grouped kernel begins with (`device.group_member`), three of a kind.

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
        return [*values, *[values[0]] * (MAX_GROUP - len(images))]

    batch, channels, height, width = zip(*[value.shape for value in images], strict=True)
    pixels = [n * h * w for n, h, w in zip(batch, height, width, strict=True)]
    first2 = sum(tiles[:2]) if len(images) > 2 else sum(tiles)
    return [
        *three(images), *three(weights), *three(biases),
        # A tensor that is written may not be given twice; what would be written in place of a missing one, is not.
        *outs, *[biases[0]] * (MAX_GROUP - len(outs)),
        *unspecialized(
            *three([count // unit for count in channels]), *three(height), *three(width), *three(pixels),
            *three([step // unit for step in steps]), tiles[0], first2,
        ),
    ]  # fmt: skip
