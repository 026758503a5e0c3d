from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from support import interpreter, product
from support.interpreter import Interpreter
from yolo26_executorch.lowering.kernels.depthwise import depthwise_conv2d, depthwise_group

ROUNDING = 1e-5
"""Sums of up to 49 products of standard normal values, in another order."""

CASES = [
    # channels, height, width, kernel, stride, padding
    (1, 5, 5, 3, 1, 1),
    (16, 8, 8, 3, 1, 1),
    (70, 9, 7, 3, 1, 1),
    (128, 4, 5, 3, 2, 1),
    (33, 7, 6, 3, 2, 0),
    (8, 11, 10, 5, 1, 2),
    (8, 11, 10, 7, 3, 3),
    (4, 1, 1, 3, 1, 1),
    (6, 6, 6, 1, 1, 0),
    (5, 4, 4, 3, 1, 4),
]


def operands(channels: int, height: int, width: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, weight with the taps first, and bias."""
    generator = torch.Generator().manual_seed(channels * kernel)
    images = torch.randn(2, channels, height, width, generator=generator)
    weight = torch.randn(kernel * kernel, channels, generator=generator)
    return images, weight, torch.randn(channels, generator=generator)


def eager(images: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, silu: bool) -> Tensor:
    taps, channels = weight.shape
    side = round(taps**0.5)
    square = weight.t().reshape(channels, 1, side, side)
    out = functional.conv2d(images, square, bias, stride=stride, padding=padding, groups=channels)
    return functional.silu(out) if silu else out


def to_float(tensors: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    images, weight, bias = tensors
    return images.float(), weight.float(), bias.float()


@pytest.mark.parametrize(
    ("channels", "height", "width", "kernel", "stride", "padding", "silu"), product(CASES, [True, False], meeting=1)
)
def test_the_kernel_is_a_convolution(
    interpret: Interpreter, channels: int, height: int, width: int, kernel: int, stride: int, padding: int, silu: bool
) -> None:
    tensors = operands(channels, height, width, kernel)
    for channels_last in (True, False):
        arrays = [tensor.numpy() for tensor in tensors]
        given = torch.from_numpy(interpret(interpreter.depthwise, *arrays, channels_last, stride, padding, silu, False))
        torch.testing.assert_close(given, eager(*tensors, stride, padding, silu), atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("silu", [True, False])
def test_half_precision_is_rounded_once(interpret: Interpreter, silu: bool) -> None:
    images, weight, bias = operands(40, 6, 5, 3)
    tensors = images.half(), weight.half(), bias.half()
    given = interpret(interpreter.depthwise, *[tensor.numpy() for tensor in tensors], True, 1, 1, silu, False)
    assert given.dtype == np.float16
    exact = eager(*to_float(tensors), 1, 1, silu)
    # Half a unit in the last of ten places, and the sum's own rounding.
    torch.testing.assert_close(torch.from_numpy(given).float(), exact, atol=ROUNDING, rtol=2**-11)


@pytest.mark.parametrize("silu", [True, False])
def test_tf32_is_a_rounding_of_the_result(interpret: Interpreter, silu: bool) -> None:
    tensors = operands(40, 6, 5, 3)
    given = torch.from_numpy(interpret(interpreter.depthwise, *[t.numpy() for t in tensors], True, 1, 1, silu, True))
    # Of 23 bits behind the point, tf32 has 10.
    assert not bool((given.view(torch.int32) & 0x1FFF).any())
    torch.testing.assert_close(given, eager(*tensors, 1, 1, silu), atol=ROUNDING, rtol=2**-11)
    reference = depthwise_conv2d(*tensors, 1, 1, silu, True)
    assert not bool((reference.view(torch.int32) & 0x1FFF).any())
    # Where float32's rounding differs, a value may fall to the neighbour.
    assert float((given == reference).float().mean()) > 0.99
    torch.testing.assert_close(given, reference, atol=ROUNDING, rtol=2**-10)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_the_cpu_it_is_its_reference(dtype: torch.dtype, silu: bool) -> None:
    images, weight, bias = operands(12, 9, 8, 3)
    tensors = images.to(dtype), weight.to(dtype), bias.to(dtype)
    given = depthwise_conv2d(*tensors, 2, 1, silu, False)
    assert given.dtype == dtype
    assert given.is_contiguous(memory_format=torch.channels_last)
    exact = eager(*to_float(tensors), 2, 1, silu)
    assert torch.equal(given, exact.to(dtype))


def test_it_is_exported_as_one_operator_with_its_shape() -> None:
    class Net(torch.nn.Module):
        def forward(self, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            out: Tensor = depthwise_conv2d(images, weight, bias, 2, 1, True, False)
            return out

    graph = torch.export.export(Net(), operands(12, 9, 8, 3)).graph
    (node,) = (node for node in graph.nodes if node.op == "call_function")
    assert str(node.target) == "yolo26_et.depthwise_conv2d.default"
    assert node.meta["val"].shape == (2, 12, 5, 4)
    assert node.meta["val"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("levels", "kernel", "silu"),
    product([[(32, 8, 8), (16, 4, 4), (70, 2, 3)], [(6, 5, 9), (130, 3, 3)]], [3, 5], [True, False]),
)
def test_a_group_is_its_convolutions(
    interpret: Interpreter, levels: list[tuple[int, int, int]], kernel: int, silu: bool
) -> None:
    tensors = [operands(*level, kernel) for level in levels]
    images, weights, biases = ([one[index] for one in tensors] for index in range(3))
    last = [value.permute(0, 2, 3, 1).contiguous().numpy() for value in images]
    factors, sums = ([value.numpy() for value in values] for values in (weights, biases))
    given = interpret(interpreter.group, "depthwise", last, factors, sums, silu, False)
    reference = depthwise_group(images, weights, biases, silu, False)
    for one, out, other in zip(tensors, given, reference, strict=True):
        expected = eager(*one, 1, kernel // 2, silu)
        torch.testing.assert_close(torch.from_numpy(out), expected, atol=ROUNDING, rtol=0)
        torch.testing.assert_close(other, expected, atol=ROUNDING, rtol=0)
