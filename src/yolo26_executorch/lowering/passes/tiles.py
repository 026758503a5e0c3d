"""The tiles of a fused graph: which convolution each of its nodes is, and the tile that it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from ..kernels.tile import Tile
from ..tuning.cost_model import Problem
from .matchers import OURS

BEFORE_TILE = {OURS.conv2d.default: 10, OURS.conv2d_group.default: 7}
"""How many arguments a convolution of ours has before its tile."""


def problem_of(node: Any) -> Problem | None:
    """Return what a node convolves, None where it is no convolution of ours."""
    if node.target is OURS.conv2d.default:
        inputs, weight, _, _, kernel, stride, padding, _, _, precision = node.args[: BEFORE_TILE[node.target]]
        values = [value.meta["val"] for value in inputs]
        height, width = (max(value.shape[axis] for value in values) for axis in (2, 3))
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
        pixels: tuple[int, ...] = (values[0].shape[0] * sides[0] * sides[1],)
        upsampled = sum((value.shape[2] != height) << index for index, value in enumerate(values))
    elif node.target is OURS.conv2d_group.default:
        images, (weight, *_), _, kernel, _, _, precision = node.args[: BEFORE_TILE[node.target]]
        values, stride, upsampled = [value.meta["val"] for value in images], 1, 0
        pixels = tuple(value.shape[0] * value.shape[2] * value.shape[3] for value in values)
    else:
        return None
    channels = tuple(value.shape[1] for value in values)
    size, out_channels = values[0].element_size(), weight.meta["val"].shape[0]
    return Problem(pixels, out_channels, channels, kernel, stride, size, precision == "ieee", upsampled)


def problems_of(module: fx.GraphModule) -> list[Problem]:
    """Return the convolutions of a fused graph, in order, each as often as it occurs."""
    return [problem for node in module.graph.nodes if (problem := problem_of(node)) is not None]


def set_tiles(module: fx.GraphModule, choose: Callable[[Problem], Tile]) -> None:
    """Give every convolution of a fused graph its tile, in place of the one that it has."""
    for node in module.graph.nodes:
        if (problem := problem_of(node)) is not None:
            count = BEFORE_TILE[node.target]
            node.args = (*node.args[:count], list(choose(problem)), *node.args[count + 1 :])
    module.recompile()
