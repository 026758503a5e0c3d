"""Fusion of the exported graph into our own kernels: what a convolution reads and what follows it, in one operator.

The graph that comes out computes what went in, within rounding, and can be run anywhere; `lowering.kernels` says what
its operators do. Nothing here knows a layer of Ultralytics': only convolutions, SiLU, sums, concatenations,
enlargements and roundings, as they follow one another.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..kernels import attention as _attention
from ..kernels import depthwise as _depthwise
from ..kernels import pool as _pool
from ..kernels import stem as _stem
from ..kernels.conv import INPUTS, LARGEST_KERNEL, Tile
from ..kernels.layout import GROUP
from ..tuning.cost_model import Problem, expected_fastest

Node = Any
"""fx.Node; what its arguments are would have to be said again at every use."""

_ATEN = torch.ops.aten
_OURS = torch.ops.yolo26_et
_REGISTERED_BY = (_attention, _depthwise, _pool, _stem)
_SPLITS = (_ATEN.chunk.default, _ATEN.split.Tensor, _ATEN.split_with_sizes.default)
_ARGUMENTS = {_OURS.conv2d.default: 10, _OURS.conv2d_group.default: 7}
"""How many a convolution has before its tile."""
_PICTURE_CHANNELS = 4
_STEM_TAPS = 128
"""Most taps times channels that `stem` multiplies at once."""


@dataclass
class _Conv:
    """A convolution of the graph, and what is done with its result."""

    node: Node
    last: Node
    """The node whose value the fused operator gives."""
    weight: Tensor
    bias: Tensor
    kernel: int
    stride: int
    padding: int
    silu: bool = False
    tf32: bool = False
    residual: Node | None = None

    @property
    def pointwise(self) -> bool:
        return (self.kernel, self.stride, self.padding) == (1, 1, 0)

    @property
    def like(self) -> tuple[Any, ...]:
        """What convolutions of the same input must share to be computed as one."""
        return (self.node.args[0], self.kernel, self.stride, self.padding, self.silu, self.tf32)


def fuse(
    module: nn.Module,
    example: Tensor,
    precision: str,
    tiles: Callable[[Problem], Tile] = expected_fastest,
    *,
    ahead: bool = False,
) -> fx.GraphModule:
    """Export a module and return its graph with our own convolutions.

    Args:
        module: in eval mode.
        example: an input of its shape and dtype.
        precision: how float32 operands are multiplied: "tf32" or "ieee".
        tiles: chooses each convolution's.
        ahead: whether convolutions are told the weights of the next one, to fetch them.
    """
    with torch.no_grad():
        graph_module: Any = torch.export.export(module, (example,)).module(check_guards=False)
    _drop_assertions(graph_module)
    _put_slices(graph_module)
    _put_pools(graph_module)
    _merge_siblings(graph_module)
    for index, conv in enumerate(list(_convolutions(graph_module))):
        _put(graph_module, conv, precision, index)
    _put_groups(graph_module)
    _announce(graph_module, ahead)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    fused: fx.GraphModule = graph_module
    set_tiles(fused, tiles)
    return fused


def set_tiles(module: fx.GraphModule, tiles: Callable[[Problem], Tile]) -> None:
    """Give every convolution of a fused graph its tile, in place of the one that it has."""
    for node in module.graph.nodes:
        if (problem := problem_of(node)) is not None:
            count = _ARGUMENTS[node.target]
            node.args = (*node.args[:count], list(tiles(problem)), *node.args[count + 1 :])
    module.recompile()


def problem_of(node: Node) -> Problem | None:
    """Return what a node convolves, None where it is no convolution of ours."""
    if node.target is _OURS.conv2d.default:
        inputs, weight, _, _, kernel, stride, padding, _, _, precision = node.args[: _ARGUMENTS[node.target]]
        values = [value.meta["val"] for value in inputs]
        height, width = (max(value.shape[axis] for value in values) for axis in (2, 3))
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in (height, width)]
        pixels: tuple[int, ...] = (values[0].shape[0] * sides[0] * sides[1],)
        doubled = sum((value.shape[2] != height) << index for index, value in enumerate(values))
    elif node.target is _OURS.conv2d_group.default:
        images, (weight, *_), _, kernel, _, _, precision = node.args[: _ARGUMENTS[node.target]]
        values, stride, doubled = [value.meta["val"] for value in images], 1, 0
        pixels = tuple(value.shape[0] * value.shape[2] * value.shape[3] for value in values)
    else:
        return None
    channels = tuple(value.shape[1] for value in values)
    size, columns = values[0].element_size(), weight.meta["val"].shape[0]
    return Problem(pixels, columns, channels, kernel, stride, size, precision == "ieee", doubled)


def _drop_assertions(module: fx.GraphModule) -> None:
    """Remove what only checks; its readers would keep the values alive."""
    for node in list(module.graph.nodes):
        if node.target is _ATEN._assert_tensor_metadata.default:
            module.graph.erase_node(node)


def _put_slices(module: fx.GraphModule) -> None:
    """Write every piece of a tensor split along its channels as a slice, which our kernels read where it lies."""
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
            piece = graph.call_function(_ATEN.slice.Tensor, (pieces.args[0], 1, start, start + sizes[index]))
        piece.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(piece)
    graph.eliminate_dead_code()


def _convolutions(module: fx.GraphModule) -> Iterator[_Conv]:
    """Yield the convolutions that our kernels can do, with their activation and rounding."""
    for node in module.graph.nodes:
        if node.target is not _ATEN.conv2d.default:
            continue
        arguments = dict(
            zip(("x", "weight", "bias", "stride", "padding", "dilation", "groups"), node.args, strict=False)
        )
        weight = _constant(module, arguments["weight"])
        stride, padding, dilation = (
            _square(arguments.get(name, default)) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
        )
        if weight is None or dilation != 1 or stride is None or padding is None or arguments.get("groups", 1) != 1:
            continue
        if weight.shape[2] != weight.shape[3] or weight.shape[2] > LARGEST_KERNEL:
            continue
        bias = _constant(module, arguments.get("bias"))
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype) if bias is None else bias
        taps = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1).contiguous()
        conv = _Conv(node, node, taps, bias, weight.shape[2], stride, padding)
        if (user := _only_user(node)) is not None and user.target is _ATEN.silu.default:
            conv.silu, conv.last = True, user
        if (rounded := _rounding(conv.last)) is not None:
            conv.tf32, conv.last = True, rounded
        yield conv


def _merge_siblings(module: fx.GraphModule) -> None:
    """Compute convolutions that read the same, and differ in their weights alone, as one of all their channels."""
    groups: dict[tuple[Any, ...], list[_Conv]] = {}
    for conv in _convolutions(module):
        groups.setdefault(conv.like, []).append(conv)
    graph = module.graph
    for index, group in enumerate(group for group in groups.values() if len(group) > 1):
        first = group[0]
        channels = first.node.args[0].meta["val"].shape[1]
        taps = torch.cat([conv.weight for conv in group])
        square = taps.view(-1, first.kernel, first.kernel, channels).permute(0, 3, 1, 2).contiguous()
        with graph.inserting_before(first.node):
            weight = _buffer(module, f"_siblings_{index}_weight", square)
            bias = _buffer(module, f"_siblings_{index}_bias", torch.cat([conv.bias for conv in group]))
            sizes = ([first.stride] * 2, [first.padding] * 2)
            whole = graph.call_function(_ATEN.conv2d.default, (first.node.args[0], weight, bias, *sizes))
            whole.meta["val"] = torch.cat([conv.node.meta["val"] for conv in group], 1)
            result = whole
            if first.silu:
                result = graph.call_function(_ATEN.silu.default, (whole,))
            if first.tf32:
                multiple = graph.call_function(_ATEN.mul.Tensor, (result, 8192.0))
                sum_ = graph.call_function(_ATEN.add.Tensor, (result, multiple))
                result = graph.call_function(_ATEN.sub.Tensor, (sum_, multiple))
            result.meta["val"] = whole.meta["val"]
            start = 0
            for conv in group:
                end = start + conv.weight.shape[0]
                part = graph.call_function(_ATEN.slice.Tensor, (result, 1, start, end))
                part.meta["val"] = result.meta["val"][:, start:end]
                conv.last.replace_all_uses_with(part)
                start = end
    graph.eliminate_dead_code()


def _put_pools(module: fx.GraphModule) -> None:
    """Compute repeated max-pooling with one window at once."""
    graph = module.graph
    for node in list(graph.nodes):
        radius = _pool_radius(node)
        if radius is None or _pool_radius(node.args[0]) == radius:
            continue
        chain = [node]
        while len(chain) < 3 and (after := [user for user in chain[-1].users if _pool_radius(user) == radius]):
            chain.append(after[0])
        with graph.inserting_before(node):
            pooled = graph.call_function(_OURS.max_pools.default, (node.args[0], radius, len(chain)))
            pooled.meta["val"] = torch.cat([one.meta["val"] for one in chain], 1)
            channels = node.meta["val"].shape[1]
            for index, one in enumerate(chain):
                bounds = (index * channels, (index + 1) * channels)
                part = graph.call_function(_ATEN.slice.Tensor, (pooled, 1, *bounds))
                part.meta["val"] = one.meta["val"]
                one.replace_all_uses_with(part)
    graph.eliminate_dead_code()


def _pool_radius(node: Any) -> int | None:
    """Return the radius of a max-pooling that keeps the size of its input."""
    if not isinstance(node, fx.Node) or node.target is not _ATEN.max_pool2d.default:
        return None
    window = _square(node.args[1])
    stride = _square(node.args[2] or node.args[1]) if len(node.args) > 2 else window
    padding = _square(node.args[3]) if len(node.args) > 3 else 0
    if len(node.args) > 4 or window is None or stride != 1 or padding is None or window != 2 * padding + 1:
        return None
    return padding


def _extend(conv: _Conv) -> None:
    """Take the sum along that the convolution's result goes into, and its rounding."""
    add = _only_user(conv.last)
    if add is None or add.target is not _ATEN.add.Tensor or add.kwargs:
        return
    others = [value for value in add.args if value is not conv.last]
    if len(others) != 1 or not isinstance(others[0], fx.Node) or _is_constant(others[0]):
        return
    if (
        others[0].meta["val"].shape != conv.last.meta["val"].shape
        or others[0].meta["val"].dtype != conv.last.meta["val"].dtype
    ):
        return
    rounded = _rounding(add)
    if conv.tf32 and rounded is None:
        return  # the sum alone would be rounded, or nothing
    conv.residual, conv.tf32, conv.last = others[0], rounded is not None, rounded or add


def _put(module: fx.GraphModule, conv: _Conv, precision: str, index: int) -> None:
    """Put one of our operators in a convolution's place, with all that goes along."""
    source: Any = conv.node.args[0]
    more: tuple[Any, ...] = ()
    if picture := _picture(conv):
        length = max(16, 1 << (conv.weight.shape[1] - 1).bit_length())
        taps = nn.functional.pad(conv.weight, (0, length - conv.weight.shape[1]))
        target, inputs = _OURS.stem.default, picture
    else:
        _extend(conv)
        laid = _laid_side_by_side(source) if conv.pointwise else [source]
        taps, inputs = conv.weight, laid if len(laid) <= INPUTS else [source]
        target, more = _OURS.conv2d.default, (conv.residual,)
    graph = module.graph
    with graph.inserting_before(conv.last.next):
        weight = _buffer(module, f"_conv_{index}_weight", taps)
        bias = _buffer(module, f"_conv_{index}_bias", _padded(conv.bias))
        sizes = (conv.kernel, conv.stride, conv.padding, conv.silu, conv.tf32, precision)
        fused = graph.call_function(target, (inputs, weight, bias, *more, *sizes))
    fused.meta["val"] = conv.last.meta["val"]
    conv.last.replace_all_uses_with(fused)


def _put_groups(module: fx.GraphModule) -> None:
    """Compute convolutions of different sizes, none of which waits for another, at once: those of a head's levels."""
    while (group := _next_group(module.graph)) is not None:
        graph, first = module.graph, group[0]
        images = [node.args[0] if _is_depthwise(node) else node.args[0][0] for node in group]
        weights, biases = [node.args[1] for node in group], [node.args[2] for node in group]
        _, settings = _common(first) or (None, ())
        with graph.inserting_after(group[-1]):
            target = _OURS.depthwise_group if _is_depthwise(first) else _OURS.conv2d_group
            whole = graph.call_function(target.default, (images, weights, biases, *settings))
        after = whole
        for index, node in enumerate(group):
            with graph.inserting_after(after):
                after = graph.call_function(operator.getitem, (whole, index))
            after.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(after)
            graph.erase_node(node)
        _sort(module)


def _announce(module: fx.GraphModule, ahead: bool) -> None:
    """Tell every convolution the weights of the next, or none."""
    graph = module.graph
    convolutions = [node for node in graph.nodes if node.target in _ARGUMENTS]
    for node, after in itertools.zip_longest(convolutions, convolutions[1:] if ahead else []):
        weights = [] if after is None else after.args[1]
        with graph.inserting_before(node):
            upcoming = [graph.get_attr(one.target) for one in (weights if isinstance(weights, list) else [weights])]
        node.args = (*node.args[: _ARGUMENTS[node.target]], [], upcoming)


def _next_group(graph: fx.Graph) -> list[Node] | None:
    """Return convolutions, alike but for their input and its size, of which none needs another's result."""
    before: dict[Node, set[Node]] = {}
    groups: dict[Any, list[list[Node]]] = {}
    for node in graph.nodes:
        before[node] = set(node.all_input_nodes).union(*(before[value] for value in node.all_input_nodes))
        key = _common(node)
        if key is None:
            continue
        for group in groups.setdefault(key, []):
            sizes = [one.meta["val"].shape[2:] for one in group]
            if len(group) < GROUP and not before[node].intersection(group) and node.meta["val"].shape[2:] not in sizes:
                group.append(node)
                break
        else:
            groups[key].append([node])
    return next((group for alike in groups.values() for group in alike if len(group) > 1), None)


def _common(node: Node) -> tuple[Any, ...] | None:
    """Return what a convolution shares with those it can be grouped with, last the arguments of the group."""
    if node.target is _OURS.depthwise_conv2d.default:
        _, taps, _, stride, padding, *settings = node.args
        side = math.isqrt(taps.meta["val"].shape[0])
        return (side, tuple(settings)) if stride == 1 and 2 * padding + 1 == side else None
    if node.target is _OURS.conv2d.default:
        inputs, weight, _, residual, kernel, stride, padding, *settings = node.args
        if residual is not None or len(inputs) != 1 or stride != 1 or 2 * padding + 1 != kernel:
            return None
        return (weight.meta["val"].shape[0], (kernel, *settings))
    return None


def _is_depthwise(node: Node) -> bool:
    return node.target is _OURS.depthwise_conv2d.default


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


def _picture(conv: _Conv) -> Node | None:
    """Return the picture (N, C, H, W), which a convolution reads after nothing but what `stem` does as it reads."""
    node = conv.node.args[0]
    if node.meta["val"].shape[1] > _PICTURE_CHANNELS or conv.weight.shape[1] > _STEM_TAPS:
        return None
    scaled = False
    while node.op == "call_function":
        if node.target is _ATEN.div.Tensor and node.args[1] == 255:
            scaled = True
        elif node.target is _ATEN.sub.Tensor and (rounded := _rounded_value(node)) is not None:
            node = rounded
            continue
        elif node.target is _ATEN.permute.default:
            source = node.args[0]
            fits = isinstance(source, fx.Node) and source.op == "placeholder"
            return node if fits and scaled == (node.meta["val"].dtype == torch.uint8) else None
        elif node.target is not _ATEN.to.dtype:
            return None
        node = node.args[0]
    return node if node.op == "placeholder" and node.meta["val"].dtype == torch.float32 and not scaled else None


def _laid_side_by_side(node: Node) -> list[Any]:
    """Return the tensors that a node is the concatenation of, enlarged ones before their enlargement."""
    if node.target is not _ATEN.cat.default or node.args[1] != 1:
        return [_before_doubling(node)] if node is not _before_doubling(node) else [node]
    parts: list[Any] = list(node.args[0])
    joined: list[Any] = []
    position = 0
    while position < len(parts):
        whole, taken = _whole_of(parts[position:])
        joined.append(_before_doubling(whole))
        position += taken
    return joined


def _whole_of(parts: list[Node]) -> tuple[Node, int]:
    """Return a tensor that the first parts are all consecutive slices of, and how many; else the first part itself."""
    source = _sliced(parts[0])
    if source is None:
        return parts[0], 1
    tensor, start, end = source
    taken = 1
    if start == 0:
        for part in parts[1:]:
            next_ = _sliced(part)
            if next_ is None or next_[0] is not tensor or next_[1] != end:
                break
            end, taken = next_[2], taken + 1
        if end == tensor.meta["val"].shape[1]:
            return tensor, taken
    return parts[0], 1


def _sliced(node: Node) -> tuple[Node, int, int] | None:
    """Return what a node is a slice of along the channels, with its first channel and the one behind its last."""
    if node.target is not _ATEN.slice.Tensor or len(node.args) != 4 or node.args[1] != 1:
        return None
    tensor, _, start, end = node.args
    return tensor, start, end


def _before_doubling(node: Node) -> Node:
    """Return the smaller tensor, where a node is one enlarged to the double."""
    if node.target is not _ATEN.upsample_nearest2d.vec:
        return node
    small: Any = node.args[0]
    before, after = small.meta["val"].shape[2:], node.meta["val"].shape[2:]
    return small if [2 * side for side in before] == list(after) else node


def _rounding(node: Node) -> Node | None:
    """Return the node that is `node` rounded to tf32, where nothing else reads `node`."""
    adds = [user for user in node.users if user.target is _ATEN.add.Tensor]
    if len(node.users) != 2 or len(adds) != 1:
        return None
    rounded = _only_user(adds[0])
    return rounded if rounded is not None and _rounded_value(rounded) is node else None


def _rounded_value(node: Node) -> Node | None:
    """Return what a node is the rounding of, by `rewrites.round_tf32`."""
    if node.target is not _ATEN.sub.Tensor:
        return None
    sum_, multiple = node.args
    if not isinstance(sum_, fx.Node) or not isinstance(multiple, fx.Node) or multiple.target is not _ATEN.mul.Tensor:
        return None
    value, factor = multiple.args
    same = sum_.target is _ATEN.add.Tensor and sum_.args == (value, multiple) and factor == 8192.0
    return value if same and isinstance(value, fx.Node) else None


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _square(value: Any) -> int | None:
    """Return the one number that a size is in both directions."""
    if isinstance(value, int):
        return value
    sides = set(value) if isinstance(value, list | tuple) else set()
    return sides.pop() if len(sides) == 1 else None


def _is_constant(node: Node) -> bool:
    return bool(node.op == "get_attr")


def _constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """Return the parameter or buffer that a node stands for."""
    if not isinstance(node, fx.Node) or not _is_constant(node):
        return None
    owner: Any = module
    for part in str(node.target).split("."):
        owner = getattr(owner, part)
    return owner.detach() if isinstance(owner, Tensor) else None


def _padded(bias: Tensor) -> Tensor:
    """Return the bias with zeros up to 16 values: what is smaller, Inductor writes out by a launch for every use."""
    return nn.functional.pad(bias, (0, max(0, 16 - len(bias))))


def _buffer(module: fx.GraphModule, name: str, value: Tensor) -> Node:
    module.register_buffer(name, value)
    node = module.graph.get_attr(name)
    node.meta["val"] = value
    return node
