from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from yolo26_executorch import cli
from yolo26_executorch.cli import val
from yolo26_executorch.errors import UsageError
from yolo26_executorch.vision.agreement import Agreement, Spread
from yolo26_executorch.vision.validate import Measured, ValReport

METRICS = {
    "metrics/precision(B)": 0.9, "metrics/recall(B)": 0.8, "metrics/mAP50(B)": 0.85, "metrics/mAP50-95(B)": 0.7,
    "metrics/precision(M)": 0.88, "metrics/recall(M)": 0.78, "metrics/mAP50(M)": 0.83, "metrics/mAP50-95(M)": 0.6,
}  # fmt: skip
SPEED = {"preprocess": 0.5, "inference": 12.25, "postprocess": 0.75}


def measured(runner: str, **changes: float) -> Measured:
    metrics = {**METRICS, **{f"metrics/{key}": value for key, value in changes.items()}}
    return Measured(runner, "cpu", metrics, SPEED)


REPORT = ValReport(
    name="yolo26n-seg", task="segment", backend="xnnpack", precision="fp32", imgsz=(320, 448), batch=2,
    data="shapes/data.yaml", split="val", pictures=48, instances=301, skipped={}, artifact=measured("executorch"),
    pytorch=None, versions={"torch": "2.13.0"}, created="2026-11-22T08:00:00+00:00",
)  # fmt: skip


class Asked(dict[str, Any]):
    """What `validate` was called with."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Answers with `asked["report"]`, or `REPORT`, whatever is asked for."""
    found = Asked()

    def answer(folder: Path, data: str, **options: Any) -> ValReport:
        found.update(options, folder=folder, data=data)
        report = found.get("report", REPORT)
        assert isinstance(report, ValReport)
        return report

    monkeypatch.setattr(val, "validate", answer)
    return found


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_table_with_units(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["val", "out/yolo26n-seg", "--data", "shapes/data.yaml"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    shown = lines(printed.out)
    assert shown[:2] == [
        "yolo26n-seg: segment, xnnpack fp32, 320×448, batch 2, executorch on cpu",
        "shapes/data.yaml, val: 48 pictures, 301 objects",
    ]
    for line in (
        "metric unit artifact",
        "box mAP50-95 0..1 0.70000",
        "mask mAP50-95 0..1 0.60000",
        "mask precision 0..1 0.88000",
        "inference ms a picture 12.25",
    ):
        assert line in shown
    assert asked == {
        "folder": Path("out/yolo26n-seg"), "data": "shapes/data.yaml", "split": "val", "runner": "auto",
        "checkpoint": None, "weights_dir": None, "trusted": False, "against_pytorch": False, "save_dir": None,
        "plots": False, "progress": False,
    }  # fmt: skip


def test_pytorch_beside_it(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked["report"] = replace(REPORT, pytorch=measured("eager", **{"mAP50-95(M)": 0.6003, "recall(B)": 0.5}))
    words = [
        "val", "x", "--data", "d.yaml", "--against", "pytorch", "--checkpoint", "best.pt", "--weights-dir", "w",
        "--trust-checkpoint", "--split", "test", "--runner", "executorch", "--plots", "--save-dir", "p",
    ]  # fmt: skip
    assert cli.main([*words, "--max-difference", "0.0005"]) == 0
    shown = lines(capsys.readouterr().out)
    assert "metric unit artifact PyTorch fp32 difference" in shown
    assert "mask mAP50-95 0..1 0.60000 0.60030 -0.00030" in shown
    assert "inference ms a picture 12.25 12.25" in shown
    del asked["report"]
    assert asked == {
        "folder": Path("x"), "data": "d.yaml", "split": "test", "runner": "executorch", "checkpoint": Path("best.pt"),
        "weights_dir": Path("w"), "trusted": True, "against_pytorch": True, "save_dir": Path("p"), "plots": True,
        "progress": False,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["mAP50-95(M)", "mAP50-95(B)"])
def test_too_large_a_difference_fails(key: str, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """Of boxes as well as of masks, to either side; that of recall does not count."""
    words = ["val", "x", "--data", "d.yaml", "--against", "pytorch", "--max-difference", "0.0005"]
    for sign in (1, -1):
        value = METRICS[f"metrics/{key}"] + sign * 0.0006
        asked["report"] = replace(REPORT, pytorch=measured("eager", **{key: value}))
        assert cli.main(words) == 1
        printed = capsys.readouterr()
        assert "0.00060, is larger than --max-difference 0.0005" in printed.err
        assert "mask mAP50-95" in printed.out
    asked["report"] = replace(REPORT, pytorch=measured("eager", **{key: float("nan")}))
    assert cli.main(words) == 1
    asked["report"] = replace(REPORT, pytorch=measured("eager", **{"recall(B)": 0.1}))
    assert cli.main(words) == 0


def test_predictions_that_are_not_pytorch_s_fail(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """Masks of a quarter of the resolution, which no metric showed: IoU 0.918 on average."""
    seen = Agreement(
        images=48, objects=300, missing=1, extra=0, confidence=Spread(0.0001, 0.0004), box_px=Spread(0.01, 0.05),
        mask_iou=Spread(0.918, 0.751), keypoint_px=None,
    )  # fmt: skip
    asked["report"] = replace(REPORT, precision="fp16", pytorch=measured("eager"), agreement=seen)
    words = ["val", "x", "--data", "d.yaml", "--against", "pytorch"]
    assert cli.main(words) == 0
    assert cli.main([*words, "--max-difference", "0.0005"]) == 1
    printed = capsys.readouterr()
    warning = "yolo26-et: warning: the predictions are not PyTorch's: the masks' mean IoU is 0.9180 (limit 0.995)"
    assert printed.err.splitlines() == [warning, warning]
    assert lines(printed.out)[-1] == (
        "predictions beside PyTorch's, 48 images: 299 of 300 found alike, box px 0.0100 (worst 0.0500), "
        "mask IoU 0.9180 (worst 0.7510), confidence 0.0001 (worst 0.0004)"
    )
    asked["report"] = replace(
        REPORT, pytorch=measured("eager"), agreement=replace(seen, mask_iou=Spread(1, 1), missing=0)
    )
    assert cli.main([*words, "--max-difference", "0.0005", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["disagreements"] == []
    assert data["agreement"]["mask_iou"] == {"mean": 1, "worst": 1}


def test_top1_is_what_counts_for_classify(asked: Asked) -> None:
    metrics = {"metrics/accuracy_top1": 0.9, "metrics/accuracy_top5": 1.0}
    eager = {"metrics/accuracy_top1": 0.85, "metrics/accuracy_top5": 0.5}
    asked["report"] = report = replace(
        REPORT, task="classify", artifact=Measured("executorch", "cpu", metrics, SPEED),
        pytorch=Measured("eager", "cpu", eager, SPEED),
    )  # fmt: skip
    assert report.primary == "metrics/accuracy_top1"
    words = ["val", "x", "--data", "d", "--against", "pytorch", "--max-difference"]
    assert (cli.main([*words, "0.04"]), cli.main([*words, "0.06"])) == (1, 0)


def test_depths_are_judged_by_delta1_and_relative_errors_and_have_units(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"metrics/delta1": 0.9, "metrics/abs_rel": 0.1, "metrics/rmse": 1.5, "metrics/silog": 20.0}
    eager = {**metrics, "metrics/abs_rel": 0.15, "metrics/rmse": 0.5}
    found = Agreement(4, 0, 0, 0, None, None, None, None, None, Spread(0.01, 0.02), Spread(0.001, 0.004))
    asked["report"] = report = replace(
        REPORT, task="depth", artifact=Measured("executorch", "cpu", metrics, SPEED),
        pytorch=Measured("eager", "cpu", eager, SPEED), agreement=found,
    )  # fmt: skip
    assert report.primary == "metrics/delta1"
    words = ["val", "x", "--data", "d", "--against", "pytorch", "--max-difference"]
    assert (cli.main([*words, "0.04"]), cli.main([*words, "0.06"])) == (1, 0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if "rmse" in line or "delta1" in line][:2] == [
        ["delta1", "0..1"],
        ["rmse", "m"],
    ]
    assert lines[-1].endswith("4 images: depth m 0.0100 (worst 0.0200), relative depth 0.0010 (worst 0.0040)")


def test_json_and_a_report(asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked["report"] = replace(REPORT, pytorch=measured("eager"))
    path = tmp_path / "new" / "val.json"
    words = ["val", "x", "--data", "d.yaml", "--against", "pytorch", "--json", "--report", str(path)]
    assert cli.main(words) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads(path.read_text())
    assert data["artifact"]["metrics"] == METRICS
    assert data["differences"] == dict.fromkeys(METRICS, 0.0)
    assert (data["primary"], data["largest_difference"]) == ("metrics/mAP50-95(M)", 0.0)
    assert (data["schema"], data["exit_status"], data["max_difference"]) == (1, 0, None)
    assert data["command"].startswith("yolo26-et val x --data d.yaml")


def test_damaged_pictures_are_named(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked["report"] = replace(REPORT, skipped={f"{n}.jpg": "it is cut" for n in range(12)})
    assert cli.main(["val", "x", "--data", "d.yaml", "--json"]) == 0
    printed = capsys.readouterr()
    warnings = printed.err.splitlines()
    assert warnings[0] == "yolo26-et: warning: 0.jpg is left out: it is cut"
    assert warnings[10:] == ["yolo26-et: warning: 2 more pictures are left out; --json names them"]
    assert len(json.loads(printed.out)["skipped"]) == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--data"),
        (
            ["--data", "d", "--max-difference", "0.1"],
            "--max-difference is for the comparison with PyTorch; add --against",
        ),
        (["--data", "d", "--checkpoint", "a.pt"], "--checkpoint is for the comparison"),
        (["--data", "d", "--weights-dir", "w"], "--weights-dir is for the comparison"),
        (["--data", "d", "--trust-checkpoint"], "--trust-checkpoint is for the comparison"),
        (["--data", "d", "--against", "pytorch", "--max-difference", "-1"], "expected 0..1"),
        (["--data", "d", "--against", "pytorch", "--max-difference", "nan"], "expected 0..1"),
        (["--data", "d", "--against", "onnx"], "invalid choice"),
        (["--data", "d", "--split", "all"], "invalid choice"),
        (["--data", "d", "--save-dir", "p"], "--save-dir says where plots go; add --plots"),
        (["--data", "d", "--report", "."], "--report .: expected a file's name, and this is a folder"),
        (["--data", "d", "--report", "/dev/null/a.json"], "cannot be written"),
    ],
)
def test_wrong_commands(words: list[str], said: str, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["val", "x", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert (printed.out, printed.err.count("\n"), asked) == ("", 1, {})


def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["val", str(tmp_path / "none"), "--data", "d.yaml"]) == 1
    assert "no artifact at" in capsys.readouterr().err

    def refuse(*_: object, **__: object) -> None:
        raise UsageError("no data set at d.yaml")

    monkeypatch.setattr(val, "validate", refuse)
    assert cli.main(["val", "x", "--data", "d.yaml"]) == 2
    assert capsys.readouterr().err == "yolo26-et: error: no data set at d.yaml\n"
