from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yolo26_executorch.errors import LoweringError
from yolo26_executorch.lowering.program import Delegated, Lowered, check_delegated, count_operators


def executorch_call_delegate() -> None:
    """Stands for ExecuTorch's operator of that name."""


def getitem() -> None: ...


def graph(*targets: Any) -> Any:
    """A graph with these calls; its other nodes are not counted."""
    calls = [SimpleNamespace(op="call_function", target=target, args=()) for target in targets]
    others = [SimpleNamespace(op=op, target="x") for op in ("placeholder", "get_attr", "output")]
    return SimpleNamespace(nodes=[*others, *calls])


def program(*targets: Any) -> Any:
    """A lowered program with these calls; each delegate holds two operators."""
    whole = graph(*targets)
    within = SimpleNamespace(original_module=SimpleNamespace(graph=graph("aten.conv", getitem, "aten.add")))
    for node in whole.nodes:
        if node.target is executorch_call_delegate:
            node.args = (SimpleNamespace(target="lowered_module_0"),)
    return SimpleNamespace(graph=whole, graph_module=SimpleNamespace(lowered_module_0=within))


def test_one_delegate_and_nothing_else_is_whole() -> None:
    whole = program(executorch_call_delegate, getitem, getitem)
    assert count_operators(whole) == check_delegated(whole) == Delegated(2, 1, {})


def test_operators_outside_are_named_and_counted() -> None:
    partly = program(executorch_call_delegate, "aten.topk.default", "aten.topk.default", "aten.add.Tensor")
    assert count_operators(partly) == Delegated(2, 1, {"aten.topk.default": 2, "aten.add.Tensor": 1})
    with pytest.raises(
        LoweringError,
        match=r"1 delegate calls and these operators outside: aten\.add\.Tensor ×1, aten\.topk\.default ×2",
    ):
        check_delegated(partly)


@pytest.mark.parametrize("calls", [0, 2])
def test_no_delegate_or_two_are_refused(calls: int) -> None:
    with pytest.raises(LoweringError, match=f"{calls} delegate calls and these operators outside: none"):
        check_delegated(program(*[executorch_call_delegate] * calls))


def test_writing(tmp_path: Path) -> None:
    class Program:
        def write_to_file(self, file: Any) -> None:
            file.write(b"program")

        def write_tensor_data_to_file(self, folder: str) -> None:
            (Path(folder) / "data.ptd").write_bytes(b"data")

    Lowered(Program(), "XnnpackBackend", Delegated(1, 1)).write(tmp_path, "model.pte")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "model.pte": b"program",
        "data.ptd": b"data",
    }
