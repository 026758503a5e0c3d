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
    """Operators inside the delegate."""
    calls: int
    """Calls of the delegate in the lowered graph."""
    outside: dict[str, int] = field(default_factory=dict)
    """Operators outside the delegate, by name, with how often each occurs."""


@dataclass(frozen=True)
class Kernel:
    """A kernel for a GPU, as it was compiled."""

    name: str
    capability: tuple[int, int]
    shared_bytes: int
    """Of one CTA."""
    threads: int
    """Of one CTA."""


@dataclass(frozen=True)
class Lowered:
    """A lowered program, ready to be written."""

    program: Any
    """executorch.exir.ExecutorchProgramManager"""
    delegate: str
    delegated: Delegated
    graph: Any = None
    """What was compiled for GPUs, as a module that runs on the CPU, by the kernels' references."""
    kernels: tuple[Kernel, ...] = ()
    """Of all GPUs."""

    def write(self, folder: Path, program: str) -> None:
        """Write the program and, where the delegate has some, its external data beside it."""
        with (folder / program).open("wb") as file:
            self.program.write_to_file(file)
        self.program.write_tensor_data_to_file(str(folder))


def count_operators(exported: Any) -> Delegated:
    """Count the operators of a lowered ExportedProgram, inside its delegate and outside."""
    inside = calls = 0
    outside: Counter[str] = Counter()
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        if "executorch_call_delegate" in _name(node):
            calls += 1
            lowered = getattr(exported.graph_module, node.args[0].target)
            inside += sum(_is_operator(within) for within in lowered.original_module.graph.nodes)
        elif _is_operator(node):
            outside[_name(node)] += 1
    return Delegated(inside, calls, dict(outside))


def check_delegated(exported: Any) -> Delegated:
    """Return how a program was delegated, refusing one that is not wholly in one delegate.

    Raises:
        LoweringError: naming the operators outside.
    """
    found = count_operators(exported)
    if found.outside or found.calls != 1:
        listed = ", ".join(f"{name} ×{count}" for name, count in sorted(found.outside.items())) or "none"
        raise LoweringError(f"the program has {found.calls} delegate calls and these operators outside: {listed}")
    return found


def _is_operator(node: Any) -> bool:
    return node.op == "call_function" and "getitem" not in _name(node)


def _name(node: Any) -> str:
    return str(getattr(node.target, "__name__", node.target))
