"""The smoke test with eager PyTorch in the artifact's place; `test_pipeline` runs real artifacts through it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor, nn

from support import each_task, eager_artifact
from yolo26_executorch.errors import CompatibilityError
from yolo26_executorch.exporter import smoke_test
from yolo26_executorch.models.export_model import ExportModel

Damage = Callable[[ExportModel], object]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_test, "TIMED_RUNS", 3)


def attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, damage: Damage = lambda model: None, **options: Any
) -> dict[str, Any]:
    """Test a "program" that is the model itself, damaged."""
    folder, _ = eager_artifact(tmp_path, monkeypatch, task, damage, **options)
    figures = smoke_test.run(folder)
    data: dict[str, Any] = json.loads(json.dumps(figures, allow_nan=False))  # it goes through a pipe into a manifest
    assert data == figures
    return figures


def last_layer(model: ExportModel, branch: str) -> nn.Conv2d:
    """The last convolution of a branch of the head, at the smallest stride."""
    found = getattr(model.head, f"one2one_{branch}")[0]
    layer = found[-1] if isinstance(found, nn.Sequential) else found
    assert isinstance(layer, nn.Conv2d)
    return layer


# ---- accepted --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", each_task("detect"))
def test_the_model_itself_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    figures = attempt(tmp_path, monkeypatch, task)
    assert (figures["passed"], figures["failures"], figures["runner"], figures["device"]) == (True, [], "eager", "cpu")
    assert [(report["input"], report["against"]) for report in figures["inputs"]] == [
        ("bus.jpg", "eager fp32"), ("random 1", "eager fp32"), ("random 2", "eager fp32")
    ]  # fmt: skip
    assert all(report["passed"] and report["quantities"] for report in figures["inputs"])
    assert figures["picture"] == "bus.jpg"
    assert bool(figures["answer"]) is (task != "obb")  # its classes are seen from above
    assert figures["largest"]["ratio"] < 0.05
    latency = figures["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["max"]
    assert latency["runs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("detect", {"outputs": "ultralytics"}),
        ("segment", {"outputs": "ultralytics", "input": "uint8"}),
        ("pose", {"batch": 2}),
        ("obb", {"imgsz": (320, 352)}),
        ("classify", {"input": "uint8", "batch": 2}),
    ],
)
def test_other_formats_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, options: dict[str, Any]
) -> None:
    figures = attempt(tmp_path, monkeypatch, task, **options)
    assert (figures["passed"], figures["failures"]) == (True, [])
    # A raw format has no words of its own.
    assert bool(figures["answer"]) is ("outputs" not in options and task != "obb")


def test_a_picture_of_the_users_own_is_answered_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "own.png"
    Image.new("RGB", (400, 300), "red").save(picture)
    folder, _ = eager_artifact(tmp_path, monkeypatch, "obb")
    figures = smoke_test.run(folder, picture=picture)
    assert figures["passed"]
    assert [report["input"] for report in figures["inputs"]] == ["own.png", "random 1", "random 2"]
    assert figures["picture"] == "own.png" and figures["answer"]


# ---- refused ---------------------------------------------------------------------------------------------------------


def scaled_first_weight(model: ExportModel) -> None:
    """One weight of the first layer."""
    next(module for module in model.modules() if isinstance(module, nn.Conv2d)).weight[0, 0, 0, 0] += 0.05


def shifted(branch: str, by: float) -> Damage:
    def damage(model: ExportModel) -> None:
        bias = last_layer(model, branch).bias
        assert bias is not None
        bias += by

    return damage


def one_input_wrong(model: ExportModel) -> None:
    """A right answer for the picture, a wrong one for what is darker."""
    forward = model.forward

    def wrong(images: Tensor) -> tuple[Tensor, ...]:
        outputs = forward(images)
        return outputs if float(images[0, 0, 0, 0]) == float(images[0, 1, 0, 0]) else (outputs[0] * 1.5, *outputs[1:])

    model.forward = wrong  # type: ignore[method-assign]


def unsorted(model: ExportModel) -> None:
    forward = model.forward

    def flipped(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.flip(1) for output in forward(images))

    model.forward = flipped  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("task", "damage", "said"),
    [
        *[pytest.param(*task.values, scaled_first_weight, "", marks=task.marks) for task in each_task("classify")],
        ("detect", shifted("cv2", 0.3), "box_px"),
        ("detect", shifted("cv3", 0.05), "score"),
        ("segment", shifted("cv4", 0.5), "mask_iou"),
        ("obb", shifted("cv4", 0.3), "angle_rad"),
        ("detect", unsorted, "not sorted by confidence"),
        ("detect", one_input_wrong, ""),
    ],
)
def test_damage_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, damage: Damage, said: str) -> None:
    figures = attempt(tmp_path, monkeypatch, task, damage)
    assert not figures["passed"]
    assert any(said in failure for failure in figures["failures"])
    assert all(
        failure.split(", against eager fp32: ")[0] in ("bus.jpg", "random 1", "random 2")
        for failure in figures["failures"]
    )
    assert figures["largest"]["ratio"] > 1 or said == "not sorted by confidence"


# ---- the process -----------------------------------------------------------------------------------------------------


def run_main(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    def run(folder: Path, **arguments: Any) -> dict[str, Any]:
        assert folder == Path("folder")
        assert arguments == {
            "checkpoint": Path("best.pt"), "weights_dir": None, "trusted": True, "picture": Path("own.png")
        }  # fmt: skip
        if isinstance(outcome, Exception):
            raise outcome
        data: dict[str, Any] = outcome
        return data

    given = {"folder": "folder", "checkpoint": "best.pt", "weights_dir": None, "trusted": True, "picture": "own.png"}
    monkeypatch.setattr(smoke_test, "run", run)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    monkeypatch.setattr("sys.argv", ["smoke_test", "xnnpack"])


def test_figures_are_the_last_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run_main(monkeypatch, {"passed": True})
    assert smoke_test.main() == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1]) == {"passed": True}


def test_errors_with_words_are_figures_too(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run_main(monkeypatch, CompatibilityError("no CudaBackend here"))
    assert smoke_test.main() == 0
    assert json.loads(capfd.readouterr().out) == {"error": "no CudaBackend here", "kind": "CompatibilityError"}


def test_an_export_that_came_to_nothing_is_not_tested(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_main(monkeypatch, {"passed": True})
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert smoke_test.main() == 0
    assert capfd.readouterr().out == ""


def test_defects_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    run_main(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        smoke_test.main()
