"""What lowering yields, and the check that nothing was left outside the delegate."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LoweringError


@dataclass(frozen=True)
class Delegated:
    """How the operators of a program were shared out."""

    operators: int
    """Operators of the exported graph before lowering."""
    calls: int
    """Calls of the delegate in the lowered graph."""
    outside: dict[str, int] = field(default_factory=dict)
    """Operators outside the delegate, by name, with how often each occurs."""


@dataclass(frozen=True)
class Lowered:
    """A lowered program, ready to be written."""

    program: Any
    """executorch.exir.ExecutorchProgramManager"""
    delegate: str
    delegated: Delegated

    def write(self, folder: Path, program: str) -> None:
        """Write the program and, where the delegate has some, its external data beside it."""
        with (folder / program).open("wb") as file:
            self.program.write_to_file(file)
        self.program.write_tensor_data_to_file(str(folder))


def count_outside(exported: Any) -> tuple[int, dict[str, int]]:
    """Return (delegate calls, operators outside by name) of a lowered ExportedProgram's graph."""
    calls = 0
    outside: Counter[str] = Counter()
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "__name__", node.target))
        if "executorch_call_delegate" in name:
            calls += 1
        elif "getitem" not in name:
            outside[str(node.target)] += 1
    return calls, dict(outside)


def check_delegated(exported: Any, operators: int) -> Delegated:
    """Return how a program was delegated, refusing one that is not wholly in one delegate.

    Raises:
        LoweringError: naming the operators outside.
    """
    calls, outside = count_outside(exported)
    if outside or calls != 1:
        listed = ", ".join(f"{name} ×{count}" for name, count in sorted(outside.items())) or "none"
        raise LoweringError(f"the program has {calls} delegate calls and these operators outside: {listed}")
    return Delegated(operators, calls, outside)
