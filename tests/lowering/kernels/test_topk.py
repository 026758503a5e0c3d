from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from support import interpreter, product
from support.interpreter import Interpreter
from yolo26_executorch.lowering.kernels.topk import topk

BLOCK = 1024
NAN, INF = float("nan"), float("inf")


def scores(kind: str, rows: int, n: int) -> Tensor:
    """Rows of a kind, with what is hard for a ranking."""
    generator = torch.Generator().manual_seed(rows * n)
    values = torch.randn(rows, n, generator=generator)
    if kind == "ties":
        return (values * 2).round()
    if kind == "equal":
        return torch.full((rows, n), 0.25)
    if kind == "clumped":  # all that is great in few of the sieve's groups
        values[:, ::256] += 100
        return values
    if kind == "odd":
        odd = torch.tensor([NAN, INF, -INF, 0.0, -0.0, -NAN, 1e-45, -1e-45, 3e38, 1.0, -1.0])
        return odd[torch.randint(len(odd), (rows, n), generator=generator)]
    return {"random": values, "rising": values.sort().values, "probabilities": values.sigmoid()}[kind]


def expected(rows: Tensor, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """A stable sort's first k: the values' bits, and the indices."""
    values, indices = torch.sort(rows, dim=-1, descending=True, stable=True)
    return values[:, :k].contiguous().view(torch.int32).numpy(), indices[:, :k].numpy()


@pytest.mark.parametrize(
    ("kind", "rows", "n", "k"),
    product(
        ["random", "ties", "odd"],
        [(1, 1, 1), (1, 7, 3), (3, 33, 33), (2, 256, 1), (2, 257, 40), (1, 900, 300)],
        meeting=1,
    ),
)
def test_the_kernel_is_a_stable_sort(interpret: Interpreter, kind: str, rows: int, n: int, k: int) -> None:
    given = scores(kind, rows, n)
    values, indices = interpret(interpreter.topk, given.numpy(), k)
    wanted = expected(given, k)
    np.testing.assert_array_equal(indices, wanted[1])
    np.testing.assert_array_equal(values.view(np.int32), wanted[0])


@pytest.mark.parametrize(
    ("kind", "rows", "n", "k"),
    product(
        ["random", "ties", "odd", "equal", "rising", "probabilities", "clumped"],
        [
            (1, BLOCK + 1, 4),
            (2, 3000, 8),
            (1, 5000, 300),
            (1, 1500, 1100),  # more than the usual number of groups
            (1, 1024, 1024),
        ],
        meeting=1,
    ),
)
def test_long_rows_are_sieved_in_blocks(interpret: Interpreter, kind: str, rows: int, n: int, k: int) -> None:
    given = scores(kind, rows, n)
    values, indices = interpret(interpreter.topk, given.numpy(), k, block=BLOCK)
    wanted = expected(given, k)
    np.testing.assert_array_equal(indices, wanted[1])
    np.testing.assert_array_equal(values.view(np.int32), wanted[0])


@pytest.mark.parametrize(
    ("kind", "most"),
    [("random", 400), ("probabilities", 400), ("rising", 400), ("equal", 300), ("ties", 2000)],
)
def test_few_elements_are_left_to_rank(interpret: Interpreter, kind: str, most: int) -> None:
    """Among them the 300 greatest, in order; of equal ones no more than that many."""
    given = scores(kind, 1, 8400)
    left = interpret(interpreter.sieve, given.numpy(), 300)
    assert 300 <= len(left) <= most
    assert list(left) == sorted(left)
    assert set(expected(given, 300)[1][0].tolist()) <= set(left.tolist())


def test_rows_that_are_strided_are_read_right(interpret: Interpreter) -> None:
    given = scores("random", 40, 3)
    _, indices = interpret(interpreter.topk, given.numpy().T, 5)
    np.testing.assert_array_equal(indices, expected(given.T.contiguous(), 5)[1])


@pytest.mark.parametrize("kind", ["random", "ties", "equal", "odd", "probabilities"])
def test_on_the_cpu_it_is_its_reference(kind: str) -> None:
    given = scores(kind, 3, 500)
    values, indices = topk(given, 20)
    wanted = expected(given, 20)
    np.testing.assert_array_equal(indices.numpy(), wanted[1])
    np.testing.assert_array_equal(values.view(torch.int32).numpy(), wanted[0])
    assert values.is_contiguous() and indices.is_contiguous()
    assert torch.equal(values.nan_to_num(), given.topk(20).values.nan_to_num())


def test_it_is_exported_as_one_operator() -> None:
    class Net(torch.nn.Module):
        def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            best: tuple[Tensor, Tensor] = topk(rows, 4)
            return best

    graph = torch.export.export(Net(), (torch.rand(2, 50),)).graph
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert [target for target in targets if "getitem" not in target] == ["yolo26_et.topk.default"]
    (node,) = (node for node in graph.nodes if "topk" in str(node.target))
    values, indices = node.meta["val"]
    assert (values.shape, values.dtype, indices.shape, indices.dtype) == ((2, 4), torch.float32, (2, 4), torch.int64)
