"""Fusion of the exported graph into our own kernels: what a convolution reads and what follows it, in one operator.

The graph that comes out computes what went in, within rounding, and can be run anywhere; `matchers` finds what is
fused, `lowering.kernels` says what the operators do.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..kernels.conv import MAX_INPUTS
from ..kernels.tile import Tile
from ..tuning.cost_model import Problem, expected_fastest
from .matchers import (
    ATEN,
    OURS,
    Conv,
    Node,
    concat_inputs,
    convolutions,
    is_depthwise,
    next_group,
    pool_radius,
    stem_input,
)
from .tiles import BEFORE_TILE, set_tiles

_SPLITS = (ATEN.chunk.default, ATEN.split.Tensor, ATEN.split_with_sizes.default)


def fuse(
    module: nn.Module,
    example: Tensor,
    precision: str,
    tiles: Callable[[Problem], Tile] = expected_fastest,
    *,
    prefetch: bool = False,
) -> fx.GraphModule:
    """Export a module and return its graph with our own convolutions.

    Args:
        module: in eval mode.
        example: an input of its shape and dtype.
        precision: how float32 operands are multiplied: "tf32" or "ieee".
        tiles: chooses each convolution's.
        prefetch: whether convolutions are given the weights of the next one, to prefetch them.
    """
    with torch.no_grad():
        graph_module: Any = torch.export.export(module, (example,)).module(check_guards=False)
    _drop_assertions(graph_module)
    _splits_to_slices(graph_module)
    _fuse_pools(graph_module)
    for index, conv in enumerate(_merge_siblings(graph_module, list(convolutions(graph_module)))):
        _replace(graph_module, conv, precision, index)
    _group(graph_module)
    _add_tile_and_prefetch(graph_module, prefetch)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    fused: fx.GraphModule = graph_module
    set_tiles(fused, tiles)
    return fused


def _drop_assertions(module: fx.GraphModule) -> None:
    """Remove what only checks; its readers would keep the values alive."""
    for node in list(module.graph.nodes):
        if node.target is ATEN._assert_tensor_metadata.default:
            module.graph.erase_node(node)


def _splits_to_slices(module: fx.GraphModule) -> None:
    """Write every piece of a tensor split along its channels as a slice, which our kernels read without a copy."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not operator.getitem or node.args[0].target not in _SPLITS:
            continue
        pieces, index = node.args
        if pieces.args[2:] != (1,) or len(pieces.args[0].meta["val"].shape) != 4:
            continue
        sizes = [piece.shape[1] for piece in pieces.meta["val"]]
        start = sum(sizes[:index])
        with graph.inserting_before(node):
            node.replace_all_uses_with(_slice(graph, pieces.args[0], start, start + sizes[index]))
    graph.eliminate_dead_code()


def _fuse_pools(module: fx.GraphModule) -> None:
    """Compute repeated max-pooling with one window at once."""
    graph = module.graph
    for node in list(graph.nodes):
        radius = pool_radius(node)
        if radius is None or pool_radius(node.args[0]) == radius:
            continue
        chain = [node]
        while len(chain) < 3 and (after := [user for user in chain[-1].users if pool_radius(user) == radius]):
            chain.append(after[0])
        with graph.inserting_before(node):
            pooled = graph.call_function(OURS.max_pools.default, (node.args[0], radius, len(chain)))
            pooled.meta["val"] = torch.cat([one.meta["val"] for one in chain], 1)
            channels = node.meta["val"].shape[1]
            for index, one in enumerate(chain):
                one.replace_all_uses_with(_slice(graph, pooled, index * channels, (index + 1) * channels))
    graph.eliminate_dead_code()


def _merge_siblings(module: fx.GraphModule, convs: list[Conv]) -> list[Conv]:
    """Join convolutions that read the same, and differ in their weights alone, to one of all their channels."""
    siblings: dict[tuple[Any, ...], list[Conv]] = {}
    for conv in convs:
        siblings.setdefault(conv.sibling_key, []).append(conv)
    graph = module.graph
    merged: list[Conv] = []
    for group in siblings.values():
        first = group[0]
        if len(group) == 1:
            merged.append(first)
            continue
        with graph.inserting_before(first.node):
            # Stands for the result, until `_replace` puts an operator of ours there.
            whole = graph.call_function(first.node.target, first.node.args)
            whole.meta["val"] = torch.cat([conv.node.meta["val"] for conv in group], 1)
            start = 0
            for conv in group:
                end = start + conv.weight.shape[0]
                conv.last.replace_all_uses_with(_slice(graph, whole, start, end))
                start = end
        weight, bias = torch.cat([conv.weight for conv in group]), torch.cat([conv.bias for conv in group])
        merged.append(
            Conv(whole, whole, weight, bias, first.kernel, first.stride, first.padding, first.silu, first.tf32)
        )
    graph.eliminate_dead_code()
    return merged


def _replace(module: fx.GraphModule, conv: Conv, precision: str, index: int) -> None:
    """Put one of our operators in a convolution's place, with all that is fused."""
    source: Any = conv.node.args[0]
    more: tuple[Any, ...] = ()
    if image := stem_input(conv):
        length = max(16, 1 << (conv.weight.shape[1] - 1).bit_length())
        taps = nn.functional.pad(conv.weight, (0, length - conv.weight.shape[1]))
        target, inputs = OURS.stem.default, image
    else:
        conv.absorb_residual()
        parts = concat_inputs(source) if conv.pointwise else [source]
        taps, inputs = conv.weight, parts if len(parts) <= MAX_INPUTS else [source]
        target, more = OURS.conv2d.default, (conv.residual,)
    graph = module.graph
    with graph.inserting_before(conv.last.next):
        weight = _buffer(module, f"_conv_{index}_weight", taps)
        bias = _buffer(module, f"_conv_{index}_bias", _padded(conv.bias))
        sizes = (conv.kernel, conv.stride, conv.padding, conv.silu, conv.tf32, precision)
        fused = graph.call_function(target, (inputs, weight, bias, *more, *sizes))
    fused.meta["val"] = conv.last.meta["val"]
    conv.last.replace_all_uses_with(fused)


def _group(module: fx.GraphModule) -> None:
    """Compute convolutions of different sizes, none of which waits for another, at once: those of a head's levels."""
    while (found := next_group(module.graph)) is not None:
        graph, (group, settings) = module.graph, found
        depthwise = is_depthwise(group[0])
        images = [node.args[0] if depthwise else node.args[0][0] for node in group]
        weights, biases = [node.args[1] for node in group], [node.args[2] for node in group]
        with graph.inserting_after(group[-1]):
            target = OURS.depthwise_group if depthwise else OURS.conv2d_group
            whole = graph.call_function(target.default, (images, weights, biases, *settings))
        after = whole
        for index, node in enumerate(group):
            with graph.inserting_after(after):
                after = graph.call_function(operator.getitem, (whole, index))
            after.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(after)
            graph.erase_node(node)
        _sort(module)


def _add_tile_and_prefetch(module: fx.GraphModule, prefetch: bool) -> None:
    """Give every convolution its last two arguments: no tile yet, and the weights of the next one, or none."""
    graph = module.graph
    convs = [node for node in graph.nodes if node.target in BEFORE_TILE]
    for node, after in itertools.zip_longest(convs, convs[1:] if prefetch else []):
        weights = [] if after is None else after.args[1]
        with graph.inserting_before(node):
            following = [graph.get_attr(one.target) for one in (weights if isinstance(weights, list) else [weights])]
        node.args = (*node.args[: BEFORE_TILE[node.target]], [], following)


def _sort(module: fx.GraphModule) -> None:
    """Put every node behind what it needs, otherwise in the order they are in."""
    graph = module.graph
    placed: set[Node] = set()
    ordered: list[Node] = []

    def place(node: Node) -> None:
        if node not in placed:
            placed.add(node)
            for value in node.all_input_nodes:
                place(value)
            ordered.append(node)

    for node in graph.nodes:
        place(node)
    for node in ordered:
        graph._root.prepend(node)  # to the end


def _slice(graph: fx.Graph, source: Node, start: int, end: int) -> Node:
    """Insert a slice along the channels."""
    part = graph.call_function(ATEN.slice.Tensor, (source, 1, start, end))
    part.meta["val"] = source.meta["val"][:, start:end]
    return part


def _padded(bias: Tensor) -> Tensor:
    """Return the bias with zeros up to 16 values: what is smaller, Inductor writes out by a launch for every use."""
    return nn.functional.pad(bias, (0, max(0, 16 - len(bias))))


def _buffer(module: fx.GraphModule, name: str, value: Tensor) -> Node:
    module.register_buffer(name, value)
    node = module.graph.get_attr(name)
    node.meta["val"] = value
    return node
