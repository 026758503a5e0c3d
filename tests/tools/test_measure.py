from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from support import load_tool
from yolo26_executorch import cli


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return load_tool("measure")


@pytest.fixture
def commands(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, Any]]]:
    """The commands that were run, none of them really; one of bench fails."""
    found: list[tuple[list[str], dict[str, Any]]] = []

    def run(words: list[str], **options: Any) -> Any:
        found.append((words, options))
        return SimpleNamespace(returncode=int("bench" in words))

    monkeypatch.setattr(subprocess, "run", run)
    return found


def test_every_step_is_a_command_that_is_understood(measure: ModuleType) -> None:
    made: set[str] = set()
    for step in measure.steps(Path("weights")):
        assert step.command[:2] == ["-m", "yolo26_executorch"]
        args = cli._parser().parse_args(step.command[2:])
        match step.words[0]:
            case "export":
                assert str(args.base_path) == step.name
                made.add(step.name)
            case "bench":
                assert {str(folder.parent) for folder in args.artifacts} <= made
            case "val":
                assert args.against == "pytorch"
                assert str(args.artifact.parent) in made


def test_names_are_told_apart_and_all_variants_are_measured(measure: ModuleType) -> None:
    found = {step.name: step for step in measure.steps(Path())}
    assert len(found) == len(list(measure.steps(Path())))
    assert sum(word.startswith("fp16/") for word in found["bench-fp16"].words) == 25
    assert len([name for name in found if name.startswith("val-")]) == 20
    assert [name for name, step in found.items() if step.cold] == ["alone", "fp16"]


def test_what_is_done_is_left_alone_and_what_failed_is_not(
    measure: ModuleType, tmp_path: Path, commands: list[tuple[list[str], dict[str, Any]]], capsys: Any
) -> None:
    words = [str(tmp_path), "--only", "fp16", "bench-fp16"]
    assert measure.main(words) == 1
    assert measure.main(words) == 1
    assert [command[3] for command, _ in commands] == ["export", "bench", "bench"]
    assert all(command[0] == sys.executable for command, _ in commands)
    assert commands[0][1]["cwd"] == tmp_path
    out, errors = capsys.readouterr()
    assert "== fp16 (1 of 2): done before" in out
    assert f"results/GPU-fp16.json RUN={tmp_path}/fp16/report.json --commit" in out
    assert "results/GPU-bench.json" not in out
    assert errors.splitlines() == ["failed: bench-fp16"] * 2


def test_timed_exports_have_caches_of_their_own(
    measure: ModuleType, tmp_path: Path, commands: list[tuple[list[str], dict[str, Any]]]
) -> None:
    assert measure.main([str(tmp_path), "--only", "alone", "fp16", "tf32", "uint8"]) == 0
    caches = [options["env"]["TRITON_CACHE_DIR"] for _, options in commands]
    assert len(set(caches[:3])) == 3
    assert caches[2] == caches[3]


def test_pictures_are_drawn_once(
    measure: ModuleType, tmp_path: Path, commands: list[tuple[list[str], dict[str, Any]]]
) -> None:
    assert measure.main([str(tmp_path), "--only", "val-fp16-pose"]) == 0
    assert [command[2] for command, _ in commands] == ["yolo26_executorch.shapes.dataset", "yolo26_executorch"]
    assert measure.main([str(tmp_path), "--only", "val-tf32-pose"]) == 0
    assert len(commands) == 3


def test_the_steps_are_listed(
    measure: ModuleType, commands: list[tuple[list[str], dict[str, Any]]], capsys: Any
) -> None:
    assert measure.main(["--list", "--only", "alone"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("alone: python -m yolo26_executorch export --backend cuda --random-weights")
    assert commands == []
    with pytest.raises(SystemExit):
        measure.main(["--only", "alone"])
