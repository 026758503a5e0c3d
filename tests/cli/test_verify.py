"""The command: its flags, words and exit statuses; `tests/test_verification.py` has what it compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support import eager_artifact, random_checkpoint
from yolo26_executorch.cli import main
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.preprocess import sample_images
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.parity import verify as parity_verify
from yolo26_executorch.parity.verify import VerifyReport


def words_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The printed lines, with single spaces."""
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]


def wrong_scores(model: Any) -> None:
    forward = model.forward

    def wrong(images: Any) -> Any:
        first, *others = forward(images)
        return (first * 1.01, *others)

    model.forward = wrong


@pytest.mark.parametrize("task", TASKS)
def test_what_agrees_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, task)
    name = f"yolo26n{TASKS[task].suffix}"
    # The same weights, which need not be made up again.
    monkeypatch.setattr(checkpoints, "find_checkpoint", lambda *_: random_checkpoint(name))
    assert main(["verify", str(folder), "--images", *map(str, sample_images())]) == 0
    lines = words_of(capsys)
    assert lines[0] == (
        f"{name} · {task} · xnnpack, fp32 · run by eager on cpu · compared with PyTorch, random weights, seed 0"
    )
    assert lines[1] == "against eager fp32, over 2 pictures"
    quantities = {
        "classify": "probability 0..1", "pose": "keypoint_px px", "obb": "angle_rad rad",
        "semantic": "class_pixels share", "depth": "depth m",
    }  # fmt: skip
    quantity = quantities.get(task, "box_px px")
    assert any(line.startswith(quantity) and ".jpg" in line for line in lines)
    assert any(line.startswith("bus.jpg passed") for line in lines)
    summary = next((line for line in lines if line.startswith("against eager fp32: ")), "maps have no confidences")
    words = {"classify": "no confident picture", **dict.fromkeys(("semantic", "depth"), "maps have")}
    assert words.get(task, "confident box") in summary
    assert lines[-1] == f"PASSED: {name} is within tolerance of PyTorch on all 2 pictures"


def test_failures_and_unreadable_pictures_are_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify", wrong_scores)
    (tmp_path / "broken[bold].jpg").write_bytes(b"no picture")
    report = tmp_path / "new" / "report.json"
    pictures = [str(sample_images()[0]), str(tmp_path / "broken[bold].jpg")]
    assert main(["verify", str(folder), "--images", pictures[0], "--images", pictures[1], "--report", str(report)]) == 1
    lines = words_of(capsys)
    assert any(line.startswith("skipped broken[bold].jpg: ") for line in lines)
    assert any(line.startswith("failed: bus.jpg, against eager fp32: probability is off by up to ") for line in lines)
    assert lines[-2:] == [
        f"report: {report}",
        "FAILED: yolo26n-cls differs from PyTorch on 1 of 1 picture; 1 picture could not be read",
    ]
    data = json.loads(report.read_text())
    assert (data["schema"], data["passed"], data["pictures"][0]["passed"]) == (1, False, False)
    assert data["unreadable"][0]["path"] == pictures[1]


def test_an_unreadable_picture_alone_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    words = ["verify", str(folder), "--images", str(tmp_path / "broken.jpg")]
    assert main(words) == 1
    assert words_of(capsys)[-1] == "FAILED: 1 picture could not be read"
    assert main([*words, str(sample_images()[0])]) == 1
    assert words_of(capsys)[-1] == (
        "FAILED: 1 picture could not be read; yolo26n-cls is within tolerance of PyTorch on 1 picture"
    )


def test_json_alone_is_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify")
    assert main(["verify", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert (data["passed"], data["task"], data["runner"]) == (True, "classify", "eager")
    assert [picture["name"] for picture in data["pictures"]] == ["bus.jpg", "zidane.jpg", "random 1", "random 2"]
    assert captured.err.splitlines() == [
        f"{number} of 4 pictures: {picture['name']}" for number, picture in enumerate(data["pictures"], 1)
    ]


def test_many_pictures_are_shown_by_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify", wrong_scores)
    (tmp_path / "photos").mkdir()
    for number in range(25):
        Image.new("RGB", (40, 30), (number * 10, 90, 200)).save(tmp_path / "photos" / f"{number:02}.png")
    assert main(["verify", str(folder), "--images", str(tmp_path / "photos")]) == 1
    captured = capsys.readouterr()
    lines = [" ".join(line.split()) for line in captured.out.splitlines()]
    assert "the 20 worst of 25 pictures; --json has them all" in lines
    assert sum(" failed " in line for line in lines) == 20
    assert any(line.startswith("and ") and line.endswith("failures more; --json has them all") for line in lines)
    # A line for each tenth of the way.
    assert len(captured.err.splitlines()) == 10


def test_the_flags_reach_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def verify(*values: Any, progress: Any, **named: Any) -> VerifyReport:
        seen.append((*values, named))
        return VerifyReport(
            "a", "a", "detect", "xnnpack", "fp32", "executorch", "cpu", {"sha256": None, "seed": 0}, {}, (), ()
        )

    monkeypatch.setattr(parity_verify, "verify", verify)
    words = ["--checkpoint", "best.pt", "--weights-dir", "w", "--runner", "aoti", "--trust-checkpoint"]
    assert main(["verify", "out/best", "--images", "a", "b.jpg", "--images", "c", *words]) == 1  # nothing was compared
    assert seen == [
        (
            Path("out/best"), [Path("a"), Path("b.jpg"), Path("c")],
            {"checkpoint": Path("best.pt"), "weights_dir": Path("w"), "runner": "aoti", "trusted": True},
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        ([], "ARTIFACT", 2),
        (["{tmp}/none"], "no artifact at ", 1),
        (["{tmp}/none", "--images", "{tmp}/nowhere"], "no picture or folder at ", 2),
        (["{artifact}", "--checkpoint", "{tmp}/best.pt"], "random weights", 2),
        (["{artifact}", "--report", "{tmp}"], "--report ", 2),
        (["{artifact}", "--runner", "onnx"], "'onnx'", 2),
        (["{artifact}", "--images"], "--images", 2),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
    status: int,
) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify")
    assert main(["verify", *(word.format(tmp=tmp_path, artifact=folder) for word in words)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("yolo26-et: error: ")
    assert message in line
