from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import make_manifest, publish
from yolo26_executorch.artifacts.card import render
from yolo26_executorch.artifacts.reading import load_manifest, verify
from yolo26_executorch.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return publish(tmp_path, make_manifest(origin="published"))


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Return a report of `yolo26-et val` about the artifact."""
    path = tmp_path / "val.json"
    about = {
        "name": "yolo26n",
        "task": "detect",
        "backend": "cuda",
        "precision": "tf32",
        "imgsz": [640, 640],
        "batch": 1,
    }
    artifact = {"runner": "aoti", "device": "NVIDIA H100", "metrics": {"metrics/mAP50-95(B)": 0.40871}}
    measured = {"data": "coco.yaml", "split": "val", "pictures": 5000, "created": "2026-11-23T08:00:00+00:00"}
    path.write_text(
        json.dumps({**about, **measured, "artifact": artifact, "pytorch": None, "primary": "metrics/mAP50-95(B)"})
    )
    return path


def test_it_prints_the_card_and_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["card", str(folder)]) == 0
    assert capsys.readouterr().out == render(load_manifest(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_it_writes_the_card_into_the_artifact(
    folder: Path, report: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["card", ".", "--val", str(report), "--write"]) == 0
    assert capsys.readouterr().out == f"card: {folder / 'README.md'}\n"
    verify(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| box mAP50-95 | 0.40871 |" in card
    assert main(["card", str(folder), "--val", str(report)]) == 0
    assert capsys.readouterr().out == card


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["{base}/nothing"], 1, "no artifact at"),
        (["{folder}", "--val", "{base}/nothing.json"], 2, "--val"),
        (["{folder}", "--val", "{folder}/manifest.json"], 2, "is no report of `yolo26-et val`"),
        ([], 2, "ARTIFACT"),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", *(word.format(folder=folder, base=folder.parent) for word in words)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


def test_a_damaged_artifact_gets_no_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.pte").write_bytes(b"progrom")
    assert main(["card", str(folder), "--write"]) == 1
    assert "is not what its manifest says" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "# card"
