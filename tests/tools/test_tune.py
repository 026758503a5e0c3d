from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from support import load_tool
from yolo26_executorch.lowering.kernels.conv import Tile
from yolo26_executorch.lowering.tuning import autotune, cost_model
from yolo26_executorch.lowering.tuning.autotune import Measured
from yolo26_executorch.lowering.tuning.cost_model import Problem

SQUARE = Problem((400,), 256, (128,), 3, 1, 2, ieee=False)
LAID = Problem((6400,), 64, (32, 16), 1, 1, 2, ieee=False, upsampled=1)
TILE = Tile(64, 64, 32, 4, 4, 2)


@pytest.fixture(scope="module")
def tune() -> ModuleType:
    return load_tool("tune")


def test_the_problems_of_a_model_are_listed_and_read(
    tune: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "problems.json"
    assert tune.main(["--models", "yolo26n-cls", "--list", str(path)]) == 0
    found: Counter[Problem] = tune.read_problems(path)
    assert {problem.element_bytes for problem in found} == {2}
    assert found.total() > len(found) > 15
    assert found == tune.find_problems(["yolo26n-cls"])
    assert "yolo26n-cls: " in capsys.readouterr().out


def test_what_is_measured_already_is_left_alone(
    tune: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[Problem]] = []

    def measure(problems: list[Problem], **_: object) -> list[Measured]:
        asked.append(problems)
        return [Measured(problem, TILE, 2.0, 3.0, tried=5) for problem in problems]

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(tune, "find_problems", lambda *_: Counter({SQUARE: 1, LAID: 3}))
    monkeypatch.setattr(tune, "tune", measure)
    words = ["--tables", str(tmp_path), "--precisions", "fp16"]
    assert tune.main(words) == 0
    assert tune.main(words) == 0
    assert tune.main([*words, "--again", "--limit", "1e-9"]) == 0
    # The most frequent first.
    assert asked[:3] == [[LAID, SQUARE], [], [LAID, SQUARE]]
    assert tune.main(["--tables", str(tmp_path), "--precisions", "tf32"]) == 0
    assert [problem.element_bytes for problem in asked[-1]] == [4, 4]
    out = capsys.readouterr().out
    assert "2 measured, 0 left; predicted tiles take 1.50 × as long" in out
    assert "1 measured, 1 left" in out


def test_without_a_gpu_it_says_so(
    tune: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "none.json").write_text("[]")
    assert tune.main(["--from", str(tmp_path / "none.json")]) == 1
    assert "no NVIDIA GPU" in capsys.readouterr().err


def test_an_unknown_model_is_named(
    tune: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert tune.main(["--models", "yolo27n"]) == 2
    assert "yolo27n" in capsys.readouterr().err


def test_the_tables_that_ship_can_be_read() -> None:
    paths = sorted(Path(autotune.__file__).with_name("tiles").glob("*.json"))
    assert paths
    for path in paths:
        tiles = cost_model.table(tuple(map(int, path.stem.split("."))))  # type: ignore[arg-type]
        assert all(min(tile.m, tile.n, tile.k) >= 16 for tile in tiles.values())
