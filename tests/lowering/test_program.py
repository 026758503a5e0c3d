from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolo26_executorch.errors import LoweringError
from yolo26_executorch.lowering.program import Delegated, Lowered, check_delegated, count_outside


def executorch_call_delegate() -> None:
    """Stands for ExecuTorch's operator of that name."""


def program(*targets: Any) -> Any:
    """A lowered program with these calls; the graph's other nodes are not counted."""
    calls = [SimpleNamespace(op="call_function", target=target) for target in targets]
    others = [SimpleNamespace(op=op, target="x") for op in ("placeholder", "get_attr", "output")]
    return SimpleNamespace(graph=SimpleNamespace(nodes=[*others, *calls]))


def getitem() -> None: ...


def test_one_delegate_and_nothing_else_is_whole() -> None:
    whole = program(executorch_call_delegate, getitem, getitem)
    assert count_outside(whole) == (1, {})
    assert check_delegated(whole, 250) == Delegated(250, 1, {})


def test_operators_outside_are_named_and_counted() -> None:
    partly = program(executorch_call_delegate, "aten.topk.default", "aten.topk.default", "aten.add.Tensor")
    assert count_outside(partly) == (1, {"aten.topk.default": 2, "aten.add.Tensor": 1})
    with pytest.raises(
        LoweringError, match=r"1 delegate calls and these operators outside: aten\.add\.Tensor ×1, aten\.topk\.default ×2"
    ):
        check_delegated(partly, 250)


@pytest.mark.parametrize("calls", [0, 2])
def test_no_delegate_or_two_are_refused(calls: int) -> None:
    with pytest.raises(LoweringError, match=f"{calls} delegate calls and these operators outside: none"):
        check_delegated(program(*[executorch_call_delegate] * calls), 250)


def test_a_real_graph_is_read() -> None:
    class Net(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            values, indices = images.topk(2)
            return values, indices

    calls, outside = count_outside(torch.export.export(Net(), (torch.zeros(1, 3),)))
    assert (calls, outside) == (0, {"aten.topk.default": 1})


def test_writing(tmp_path: Path) -> None:
    class Program:
        def write_to_file(self, file: Any) -> None:
            file.write(b"program")

        def write_tensor_data_to_file(self, folder: str) -> None:
            (Path(folder) / "data.ptd").write_bytes(b"data")

    Lowered(Program(), "XnnpackBackend", Delegated(1, 1)).write(tmp_path, "model.pte")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model.pte": b"program", "data.ptd": b"data"}
