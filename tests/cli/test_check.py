from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import make_manifest, publish
from yolo26_executorch.artifacts.manifest import MANIFEST, PROGRAM, WEIGHTS
from yolo26_executorch.cli import main


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base path with three artifacts, one of them a level deeper, and what is none."""
    publish(tmp_path, make_manifest())
    publish(tmp_path, make_manifest("pose"))
    publish(tmp_path / "H100", make_manifest("segment", backend="xnnpack"))
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / ".logs").mkdir()
    return tmp_path


def check(*words: str) -> int:
    return main(["check", *words])


def test_a_whole_tree(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(base)) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("yolo26n", "yolo26n-pose", "H100/yolo26n-seg"))
    rows = {words[0]: words for line in out.splitlines() if len(words := line.split()) > 5}
    assert rows[str(base / "yolo26n")][2:4] == ["cuda", "tf32"]
    assert rows[str(base / "H100/yolo26n-seg")][2:4] == ["xnnpack", "fp32"]
    assert out.rstrip().endswith("3 whole, 0 broken")


def test_one_corrupt_among_good_ones(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = base / "yolo26n-pose" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert check(str(base)) == 1
    out = capsys.readouterr().out
    assert f"{base / 'yolo26n-pose'}: {file} was changed: its SHA-256 is" in out
    assert out.rstrip().endswith("2 whole, 1 broken")


@pytest.mark.parametrize("missing", [MANIFEST, PROGRAM])
def test_what_is_missing_is_broken(base: Path, capsys: pytest.CaptureFixture[str], missing: str) -> None:
    (base / "yolo26n" / missing).unlink()
    assert check(str(base), "--json") == 1
    found = {Path(row["folder"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert not found["yolo26n"]["whole"]
    assert found["yolo26n"]["problem"]
    assert found["yolo26n-seg"] == {"folder": str(base / "H100/yolo26n-seg"), "whole": True, "problem": None}


def test_a_single_artifact(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(base / "yolo26n")) == 0
    assert "1 whole" in capsys.readouterr().out


def test_no_such_folder_and_nothing_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(tmp_path / "nowhere")) == 2
    assert check(str(tmp_path)) == 1
    err = capsys.readouterr().err
    assert "expected a folder of artifacts" in err
    assert "no artifact below it" in err
