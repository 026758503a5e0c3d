from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from support import interpreter, product
from support.interpreter import Interpreter
from yolo26_executorch.lowering.kernels.conv import conv2d, conv2d_group
from yolo26_executorch.lowering.kernels.stem import stem
from yolo26_executorch.lowering.tuning.cost_model import Problem, expected_fastest

ROUNDING = 2e-5
"""Sums of some hundred products of values near 1, in another order."""


TILE = [16, 32, 16, 2, 4, 1]


class Case:
    """A convolution of concatenated tensors, as operands of the kernel and as PyTorch does it."""

    def __init__(
        self,
        channels: tuple[int, ...],
        out: int,
        size: tuple[int, int],
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        upsampled: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        generator = torch.Generator().manual_seed(sum(channels) * out + kernel)
        height, width = size
        self.inputs = []
        for index, count in enumerate(channels):
            half = upsampled >> index & 1
            shape = (2, height >> half, width >> half, count)
            self.inputs.append(torch.randn(shape, generator=generator).to(dtype))
        total = sum(channels)
        square = torch.randn(out, total, kernel, kernel, generator=generator) / (total * kernel**2) ** 0.5
        self.square = square.to(dtype)
        self.weight = self.square.permute(0, 2, 3, 1).reshape(out, -1).contiguous()
        self.bias = torch.randn(out, generator=generator).to(dtype)
        self.settings = (kernel, stride, padding)
        wide = [
            functional.interpolate(value.permute(0, 3, 1, 2).float(), size=size, mode="nearest")
            for value in self.inputs
        ]
        self.plain = functional.conv2d(
            torch.cat(wide, 1), self.square.float(), self.bias.float(), stride=stride, padding=padding
        )
        pixels = tuple(self.plain.permute(0, 2, 3, 1).reshape(-1, out).shape[:1])
        self.problem = Problem(pixels, out, channels, kernel, stride, dtype.itemsize, ieee=True, upsampled=upsampled)
        self.tile = list(expected_fastest(replace(self.problem, ieee=False)))
        self.residual = torch.randn(self.plain.shape, generator=generator).to(dtype).permute(0, 2, 3, 1).contiguous()

    def expected(self, silu: bool, residual: bool) -> Tensor:
        out = functional.silu(self.plain) if silu else self.plain
        return out + self.residual.float().permute(0, 3, 1, 2) if residual else out

    def operands(self, residual: bool) -> list[object]:
        return [
            [value.numpy() for value in self.inputs],
            self.weight.numpy(),
            self.bias.numpy(),
            self.residual.numpy() if residual else None,
            *self.settings,
        ]


POINTWISE = [
    Case((32,), 32, (5, 4)),
    Case((16,), 4, (8, 8)),
    Case((32, 16), 64, (4, 6)),
    Case((3, 70, 8), 5, (3, 3)),
    Case((16, 16, 16, 16), 33, (4, 4)),
    Case((64, 32), 16, (6, 4), upsampled=1),
    Case((8, 24, 16), 16, (4, 10), upsampled=0b110),
]
SQUARE = [
    Case((16,), 32, (9, 8), 3, 1, 1),
    Case((16,), 32, (9, 8), 3, 2, 1),
    Case((8,), 16, (6, 6), 3, 1, 1),
    Case((70,), 20, (5, 7), 3, 1, 1),
    Case((48,), 8, (4, 4), 3, 1, 0),
    Case((16,), 16, (7, 7), 5, 2, 2),
    Case((16,), 24, (5, 4), 7, 1, 3),
    Case((16,), 16, (6, 5), 1, 2, 0),
]


@pytest.mark.parametrize(
    ("case", "silu", "residual"), product(POINTWISE + SQUARE, [(True, False), (False, True), (True, True)], meeting=1)
)
def test_the_kernel_is_a_convolution(interpret: Interpreter, case: Case, silu: bool, residual: bool) -> None:
    given = interpret(interpreter.conv, *case.operands(residual), silu, False, "ieee", case.tile)
    torch.testing.assert_close(torch.from_numpy(given), case.expected(silu, residual), atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(("case", "split_k"), product(POINTWISE[2:3] + SQUARE[:4], [2, 3, 4], meeting=1))
def test_split_k(interpret: Interpreter, case: Case, split_k: int) -> None:
    tile = [*case.tile[:-1], split_k]
    given = interpret(interpreter.conv, *case.operands(True), True, False, "ieee", tile)
    torch.testing.assert_close(torch.from_numpy(given), case.expected(True, True), atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("kernel", [1, 3])
def test_half_precision_is_rounded_once(interpret: Interpreter, kernel: int) -> None:
    case = Case((32,), 24, (6, 5), kernel, 1, kernel // 2, dtype=torch.float16)
    given = interpret(interpreter.conv, *case.operands(True), True, False, "tf32", case.tile)
    assert given.dtype == np.float16
    torch.testing.assert_close(torch.from_numpy(given).float(), case.expected(True, True), atol=ROUNDING, rtol=2**-11)


@pytest.mark.parametrize("kernel", [1, 3])
def test_tf32_is_a_rounding_of_the_result(interpret: Interpreter, kernel: int) -> None:
    case = Case((32,), 24, (6, 5), kernel, 1, kernel // 2)
    given = torch.from_numpy(interpret(interpreter.conv, *case.operands(True), True, True, "ieee", case.tile))
    assert not bool((given.contiguous().view(torch.int32) & 0x1FFF).any())
    torch.testing.assert_close(given, case.expected(True, True), atol=ROUNDING, rtol=2**-11)


def test_slices_are_read_without_a_copy() -> None:
    wide = torch.randn(1, 48, 4, 4).contiguous(memory_format=torch.channels_last)
    left, right = wide.split([16, 32], 1)
    weight, bias = torch.randn(8, 48), torch.randn(8)
    given = conv2d([left, right], weight, bias, None, 1, 1, 0, True, False, "ieee", TILE, [])
    expected = functional.silu(functional.conv2d(wide, weight[..., None, None], bias))
    torch.testing.assert_close(given, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("case", POINTWISE + SQUARE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_the_cpu_it_is_its_reference(case: Case, dtype: torch.dtype) -> None:
    inputs = [value.permute(0, 3, 1, 2).to(dtype) for value in case.inputs]
    residual = case.residual.permute(0, 3, 1, 2).to(dtype)
    given = conv2d(
        inputs, case.weight.to(dtype), case.bias.to(dtype), residual, *case.settings, True, False, "ieee", case.tile, []
    )
    assert given.dtype == dtype
    assert given.is_contiguous(memory_format=torch.channels_last)
    rough = 0.02 if dtype == torch.float16 else ROUNDING
    torch.testing.assert_close(given.float(), case.expected(True, True), atol=rough, rtol=0)


LEVELS = [
    [(32, 8, 8), (16, 4, 4), (48, 2, 3)],
    [(16, 9, 5), (24, 5, 9)],
    [(70, 3, 3), (8, 12, 12), (16, 1, 1)],
]


@pytest.mark.parametrize(("levels", "kernel", "silu"), product(LEVELS, [1, 3], [True, False]))
def test_a_group_is_its_convolutions(
    interpret: Interpreter, levels: list[tuple[int, int, int]], kernel: int, silu: bool
) -> None:
    cases = [Case((channels,), 20, size, kernel, 1, kernel // 2) for channels, *size in levels]  # type: ignore[arg-type]
    images = [case.inputs[0] for case in cases]
    weights, biases = [case.weight for case in cases], [case.bias for case in cases]
    lists = [[value.numpy() for value in values] for values in (images, weights, biases)]
    given = interpret(interpreter.group, "conv", *lists, kernel, silu, False, "ieee", TILE, [])
    batches = [value.permute(0, 3, 1, 2) for value in images]
    reference = conv2d_group(batches, weights, biases, kernel, silu, False, "ieee", TILE, [])
    for case, one, other in zip(cases, given, reference, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), case.expected(silu, False), atol=ROUNDING, rtol=0)
        torch.testing.assert_close(other, case.expected(silu, False), atol=ROUNDING, rtol=0)


def test_they_are_exported_as_one_operator_each() -> None:
    class Net(torch.nn.Module):
        def forward(self, images: Tensor, first: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            x = stem(images, first, bias, 3, 2, 1, True, False, "tf32")
            left, right = x.split([8, 8], 1)
            out: Tensor = conv2d([left, right], weight, bias, x, 1, 1, 0, True, False, "tf32", TILE, [])
            return out

    shapes = torch.randn(1, 3, 8, 8), torch.randn(16, 32), torch.randn(16, 16), torch.randn(16)
    graph = torch.export.export(Net(), shapes).graph
    ours = [str(node.target) for node in graph.nodes if "yolo26_et" in str(node.target)]
    assert ours == ["yolo26_et.stem.default", "yolo26_et.conv2d.default"]
