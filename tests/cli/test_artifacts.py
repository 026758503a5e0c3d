"""Checkpoints named where artifacts are wanted: the artifact that was made from that very file is found, no other."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest

from support import CHECKPOINTS, make_manifest, publish
from yolo26_executorch import cli
from yolo26_executorch.cli import predict as predict_command
from yolo26_executorch.cli.artifacts import artifact_of
from yolo26_executorch.exporter import existing
from yolo26_executorch.system.files import sha256_of

BEST = Path("runs/detect/train/weights/best.pt")
MADE = Path("yolo26_cuda_exports/train-best")


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training's checkpoint, and the artifact that was made from it."""
    monkeypatch.chdir(tmp_path)
    train("first")
    made_of = dataclasses.replace(CHECKPOINTS["user"], file="best.pt", sha256=sha256_of(BEST))
    publish(MADE.parent, make_manifest(backend="xnnpack", origin="user", name=MADE.name, checkpoint=made_of))
    return BEST


def train(words: str) -> None:
    BEST.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(BEST, "w") as archive:
        archive.writestr("archive/data.pkl", words)


def test_the_artifact_of_a_checkpoint_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert artifact_of(trained) == MADE
    assert cli.main(["predict", str(trained), "a.jpg"]) == 2
    assert f"{MADE} was made from it: type `yolo26-et predict {MADE} a.jpg`" in capsys.readouterr().err


def test_a_retrained_checkpoint_is_not_taken_for_what_was_exported(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("again")
    assert artifact_of(trained) is None
    assert cli.main(["predict", str(trained), "a.jpg"]) == 2
    told = capsys.readouterr().err
    assert f"{MADE}, which has its name, was made from another file" in told
    assert f"`yolo26-et export {trained} --force` to replace it, or `yolo26-et predict {MADE} a.jpg` to use it" in told


def test_predict_exports_nothing_over_an_artifact_of_other_options(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("yolo26_executorch.exporter.api.export", lambda *_, **__: pytest.fail("it was exported"))
    assert predict_command._exported(trained) == MADE
    assert f"{trained}: {MADE} was made from it and is used" in capsys.readouterr().err


def test_a_damaged_artifact_is_nobodys(trained: Path) -> None:
    (MADE / "manifest.json").write_text("{}")
    assert artifact_of(trained) is None


def test_a_variant_is_found_by_its_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(existing, "default_weights_dir", lambda: tmp_path)
    publish(MADE.parent, make_manifest(backend="xnnpack", origin="published"))
    publish(MADE.parent, make_manifest(backend="xnnpack", task="classify"))  # of random weights
    assert artifact_of(Path("yolo26n")) == artifact_of(Path("yolo26n.pt")) == MADE.parent / "yolo26n"
    assert artifact_of(Path("yolo26n-cls")) is None
    assert artifact_of(Path("yolo26s")) is None
    (tmp_path / "yolo26n.pt").write_bytes(b"other weights of that name")
    assert artifact_of(Path("yolo26n")) is None


def test_a_trainings_folder_leads_to_its_checkpoint(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained.parents[1]
    assert cli.main(["export", str(folder)]) == 2
    assert f"{folder} is a training's folder; did you mean {trained}?" in capsys.readouterr().err
