"""What of the exported graph our kernels can compute: patterns that are looked for, and nothing that is changed.

Nothing here knows a layer of Ultralytics': only convolutions, SiLU, sums, concatenations, upsampling and roundings, as
they follow one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..kernels import attention as _attention
from ..kernels import depthwise as _depthwise
from ..kernels import pool as _pool
from ..kernels import stem as _stem
from ..kernels.conv import MAX_KERNEL_SIZE
from ..kernels.layout import MAX_GROUP

Node = Any
"""fx.Node; what its arguments are would have to be said again at every use."""

ATEN = torch.ops.aten
OURS = torch.ops.yolo26_et
_REGISTERED_BY = (_attention, _depthwise, _pool, _stem)
_MAX_STEM_CHANNELS = 4
_MAX_STEM_TAPS = 128
"""Most taps times channels that `stem` multiplies at once."""


@dataclass
class Conv:
    """A convolution of the graph, and what is fused with it."""

    node: Node
    last: Node
    """The node whose value the fused operator gives."""
    weight: Tensor
    """(O, K * K * C), taps before channels."""
    bias: Tensor
    kernel: int
    stride: int
    padding: int
    silu: bool = False
    tf32: bool = False
    residual: Node | None = None

    @property
    def pointwise(self) -> bool:
        """Whether it is a matrix product of the pixels as they are."""
        return (self.kernel, self.stride, self.padding) == (1, 1, 0)

    @property
    def sibling_key(self) -> tuple[Any, ...]:
        """What convolutions of the same input must share to be computed as one."""
        return (self.node.args[0], self.kernel, self.stride, self.padding, self.silu, self.tf32)

    def absorb_residual(self) -> None:
        """Fuse the sum that the result goes into, and its rounding, where there is one."""
        add = only_user(self.last)
        if add is None or add.target is not ATEN.add.Tensor or add.kwargs:
            return
        others = [value for value in add.args if value is not self.last]
        if len(others) != 1 or not isinstance(others[0], fx.Node) or _is_constant(others[0]):
            return
        own, other = self.last.meta["val"], others[0].meta["val"]
        if other.shape != own.shape or other.dtype != own.dtype:
            return
        rounded = _rounding(add)
        if self.tf32 and rounded is None:
            return  # the sum alone would be rounded, or nothing
        self.residual, self.tf32, self.last = others[0], rounded is not None, rounded or add


def convolutions(module: fx.GraphModule) -> Iterator[Conv]:
    """Yield the convolutions that our kernels can do, with their activation and rounding."""
    for node in module.graph.nodes:
        if node.target is not ATEN.conv2d.default:
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
        if weight.shape[2] != weight.shape[3] or weight.shape[2] > MAX_KERNEL_SIZE:
            continue
        bias = _constant(module, arguments.get("bias"))
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype) if bias is None else bias
        taps = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1).contiguous()
        conv = Conv(node, node, taps, bias, weight.shape[2], stride, padding)
        if (user := only_user(node)) is not None and user.target is ATEN.silu.default:
            conv.silu, conv.last = True, user
        if (rounded := _rounding(conv.last)) is not None:
            conv.tf32, conv.last = True, rounded
        yield conv


def stem_input(conv: Conv) -> Node | None:
    """Return the image (N, C, H, W) that a convolution reads, after nothing but what `stem` does itself; or None."""
    node = conv.node.args[0]
    if node.meta["val"].shape[1] > _MAX_STEM_CHANNELS or conv.weight.shape[1] > _MAX_STEM_TAPS:
        return None
    scaled = False
    while node.op == "call_function":
        if node.target is ATEN.div.Tensor and node.args[1] == 255:
            scaled = True
        elif node.target is ATEN.sub.Tensor and (rounded := _rounded_value(node)) is not None:
            node = rounded
            continue
        elif node.target is ATEN.permute.default:
            source = node.args[0]
            fits = isinstance(source, fx.Node) and source.op == "placeholder"
            return node if fits and scaled == (node.meta["val"].dtype == torch.uint8) else None
        elif node.target is not ATEN.to.dtype:
            return None
        node = node.args[0]
    return node if node.op == "placeholder" and node.meta["val"].dtype == torch.float32 and not scaled else None


def concat_inputs(node: Node) -> list[Any]:
    """Return the tensors that a node concatenates along the channels, upsampled ones before their upsampling."""
    if node.target is not ATEN.cat.default or node.args[1] != 1:
        return [_before_upsampling(node)]
    parts: list[Any] = list(node.args[0])
    joined: list[Any] = []
    position = 0
    while position < len(parts):
        whole, taken = _whole_of(parts[position:])
        joined.append(_before_upsampling(whole))
        position += taken
    return joined


def pool_radius(node: Any) -> int | None:
    """Return the radius of a max-pooling that keeps the size of its input; None for any other node."""
    if not isinstance(node, fx.Node) or node.target is not ATEN.max_pool2d.default:
        return None
    window = _square(node.args[1])
    stride = _square(node.args[2] or node.args[1]) if len(node.args) > 2 else window
    padding = _square(node.args[3]) if len(node.args) > 3 else 0
    if len(node.args) > 4 or window is None or stride != 1 or padding is None or window != 2 * padding + 1:
        return None
    return padding


def next_group(graph: fx.Graph) -> tuple[list[Node], tuple[Any, ...]] | None:
    """Return convolutions of ours that one grouped launch can do, with the arguments that they share; None if none.

    They are alike but for their input and its size, and none needs another's result.
    """
    before: dict[Node, set[Node]] = {}
    groups: dict[Any, list[list[Node]]] = {}
    for node in graph.nodes:
        before[node] = set(node.all_input_nodes).union(*(before[value] for value in node.all_input_nodes))
        key = _group_key(node)
        if key is None:
            continue
        size = node.meta["val"].shape[2:]
        for group in groups.setdefault(key, []):
            sizes = [one.meta["val"].shape[2:] for one in group]
            if len(group) < MAX_GROUP and not before[node].intersection(group) and size not in sizes:
                group.append(node)
                break
        else:
            groups[key].append([node])
    return next(((group, key[-1]) for key, alike in groups.items() for group in alike if len(group) > 1), None)


def only_user(node: Node) -> Node | None:
    """Return the node that alone reads a node; None where several do."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_depthwise(node: Node) -> bool:
    """Whether a node is a depthwise convolution of ours."""
    return node.target is OURS.depthwise_conv2d.default


def _group_key(node: Node) -> tuple[Any, ...] | None:
    """Return what a convolution shares with those it can be grouped with, last the arguments of the group."""
    if is_depthwise(node):
        _, taps, _, stride, padding, *settings = node.args
        side = math.isqrt(taps.meta["val"].shape[0])
        return (side, tuple(settings)) if stride == 1 and 2 * padding + 1 == side else None
    if node.target is OURS.conv2d.default:
        inputs, weight, _, residual, kernel, stride, padding, *settings = node.args
        if residual is not None or len(inputs) != 1 or stride != 1 or 2 * padding + 1 != kernel:
            return None
        return (weight.meta["val"].shape[0], (kernel, *settings))
    return None


def _whole_of(parts: list[Node]) -> tuple[Node, int]:
    """Return a tensor that the first parts are all consecutive slices of, and how many; else the first part itself."""
    source = _sliced(parts[0])
    if source is None:
        return parts[0], 1
    tensor, start, end = source
    taken = 1
    if start == 0:
        for part in parts[1:]:
            following = _sliced(part)
            if following is None or following[0] is not tensor or following[1] != end:
                break
            end, taken = following[2], taken + 1
        if end == tensor.meta["val"].shape[1]:
            return tensor, taken
    return parts[0], 1


def _sliced(node: Node) -> tuple[Node, int, int] | None:
    """Return what a node is a slice of along the channels, with its first channel and the end."""
    if node.target is not ATEN.slice.Tensor or len(node.args) != 4 or node.args[1] != 1:
        return None
    tensor, _, start, end = node.args
    return tensor, start, end


def _before_upsampling(node: Node) -> Node:
    """Return the smaller tensor, where a node is one upsampled 2×; else the node."""
    if node.target is not ATEN.upsample_nearest2d.vec:
        return node
    small: Any = node.args[0]
    before, after = small.meta["val"].shape[2:], node.meta["val"].shape[2:]
    return small if [2 * side for side in before] == list(after) else node


def _rounding(node: Node) -> Node | None:
    """Return the node that is `node` rounded to tf32, where nothing else reads `node`."""
    adds = [user for user in node.users if user.target is ATEN.add.Tensor]
    if len(node.users) != 2 or len(adds) != 1:
        return None
    rounded = only_user(adds[0])
    return rounded if rounded is not None and _rounded_value(rounded) is node else None


def _rounded_value(node: Node) -> Node | None:
    """Return what a node is the rounding of, by `kernels.tf32.round_tf32`."""
    if node.target is not ATEN.sub.Tensor:
        return None
    sum_, multiple = node.args
    if not isinstance(sum_, fx.Node) or not isinstance(multiple, fx.Node) or multiple.target is not ATEN.mul.Tensor:
        return None
    value, factor = multiple.args
    same = sum_.target is ATEN.add.Tensor and sum_.args == (value, multiple) and factor == 8192.0
    return value if same and isinstance(value, fx.Node) else None


def _square(value: Any) -> int | None:
    """Return the one number that a size is along both axes."""
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
