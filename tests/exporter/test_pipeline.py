"""From a name to a tested artifact: the steps with a stub for the slow one, then every task for real."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support import each_task, network, save_checkpoint
from yolo26_executorch import cli
from yolo26_executorch.artifacts.manifest import CARD, MANIFEST, PROGRAM, DelegateRecord
from yolo26_executorch.artifacts.reading import load_manifest, verify
from yolo26_executorch.errors import LoweringError
from yolo26_executorch.exporter import pipeline, smoke_test
from yolo26_executorch.exporter.jobs import Job, Record
from yolo26_executorch.exporter.pipeline import export_one
from yolo26_executorch.lowering import xnnpack
from yolo26_executorch.lowering.program import Delegated, Lowered
from yolo26_executorch.models.checkpoints import CheckpointRecord, Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.random_weights import spread
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.models.variants import ALL_VARIANTS
from yolo26_executorch.runtime import open_runner

Events = list[dict[str, Any]]


def job_of(name: str, base_path: Path, **changes: Any) -> Job:
    """A job that exports random weights, small, for XNNPACK; `changes` replaces fields of it or of its options."""
    options = {"imgsz": (224, 224) if name.endswith("-cls") else (320, 320), "random_weights": True}
    fields: dict[str, Any] = {"test": False, "skip_existing": False, "trusted": False, "command": "yolo26-et export"}
    for key, value in changes.items():
        (fields if key in Job.__dataclass_fields__ else options)[key] = value
    source = fields.pop("source", Source(name, ALL_VARIANTS.get(name), None))
    settings: Any = options
    return Job(source, base_path, ExportOptions(**settings), **{"weights_dir": None, **fields})


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))  # those stay


# ---- the steps -------------------------------------------------------------------------------------------------------

PASSED = {
    "passed": True,
    "answer": ["tench 90.0%"],
    "picture": "bus.jpg",
    "failures": [],
    "largest": {"quantity": "probability", "value": 1e-7, "unit": "0..1", "ratio": 0.1},
    "latency_ms": {"p50": 1.5, "min": 1.0, "max": 2.0, "runs": 20},
}


class StubProgram:
    def write_to_file(self, file: Any) -> None:
        file.write(b"program")

    def write_tensor_data_to_file(self, folder: str) -> None:
        pass


@pytest.fixture
def no_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a few bytes in place of a program."""

    def lower(model: Any, options: ExportOptions, stage: Any) -> Lowered:
        for name in ("export", "lower", "write"):
            stage(name)
        return Lowered(StubProgram(), "XnnpackBackend", Delegated(99, 1, {"aten.topk.default": 2}))

    monkeypatch.setattr(xnnpack, "lower", lower)


def test_what_is_written_and_said(tmp_path: Path, no_lowering: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def test(folder: Path, **arguments: Any) -> dict[str, Any]:
        seen.append(folder)
        verify(folder)  # sealed, so that hashes are checked before anything is loaded
        assert arguments == {"checkpoint": None, "weights_dir": None, "trusted": False, "picture": None}
        return PASSED

    monkeypatch.setattr(pipeline, "SmokeTest", lambda backend: contextlib.nullcontext(test))
    events: Events = []
    record = export_one(job_of("yolo26n-cls", tmp_path, test=True, imgsz=None), events.append)
    assert [event["stage"] for event in events if event["event"] == "stage"] == [
        "load",
        "export",
        "lower",
        "write",
        "test",
    ]
    assert [event["lines"] for event in events if event["event"] == "answer"] == [["bus.jpg: tench 90.0%"]]
    assert record.to_json() == {
        "name": "yolo26n-cls", "variant": "yolo26n-cls", "task": "classify", "backend": "xnnpack", "precision": "fp32",
        "outcome": "exported", "stage": None, "message": None, "error": None, "folder": str(tmp_path / "yolo26n-cls"),
        "seconds": record.seconds, "files": record.files, "latency_ms": 1.5, "largest_error": PASSED["largest"],
        "test": PASSED, "transient": False, "attempts": 1, "device": None, "peak_memory_bytes": None,
    }  # fmt: skip
    assert list(record.seconds) == ["load", "export", "lower", "write", "test"]
    assert set(record.files) == {PROGRAM, CARD}
    assert entries(tmp_path) == ["yolo26n-cls"]
    assert seen[0].parent.parent == tmp_path and not seen[0].exists()

    manifest = verify(tmp_path / "yolo26n-cls")
    assert manifest.options.imgsz == (224, 224)
    assert manifest.checkpoint == CheckpointRecord(origin="random", file=None, sha256=None, seed=0)
    assert manifest.delegate == DelegateRecord("XnnpackBackend", 99, {"aten.topk.default": 2})
    assert manifest.platform.system == manifest.platform.machine == "any"
    assert (len(manifest.classes), manifest.classes[0]) == (1000, "tench")
    assert (manifest.test, manifest.seconds) == (PASSED, record.seconds)
    assert {"torch", "executorch", "ultralytics", "python"} <= set(manifest.versions)
    assert "tench" in (tmp_path / "yolo26n-cls" / CARD).read_text()


@pytest.mark.slow
def test_what_is_there_is_skipped_only_if_it_is_what_was_asked_for(tmp_path: Path, no_lowering: None) -> None:
    first = job_of("yolo26n-cls", tmp_path, skip_existing=True)
    events: Events = []
    assert export_one(first, events.append).outcome == "exported"
    record = export_one(first, events.append)
    assert not [event for event in events if event["event"] == "stale"]
    assert (record.outcome, set(record.files), record.folder) == (
        "skipped", {PROGRAM, CARD}, str(tmp_path / "yolo26n-cls")
    )  # fmt: skip
    for changed in (
        replace(first, skip_existing=False),
        replace(first, options=replace(first.options, batch=2)),
        replace(first, options=replace(first.options, seed=5), force=True),
    ):
        assert export_one(changed, events.append).outcome == "exported"
    assert load_manifest(tmp_path / "yolo26n-cls").options.seed == 5
    last = replace(first, options=replace(first.options, seed=5))
    assert export_one(last, events.append).outcome == "skipped"
    assert export_one(replace(last, test=True), events.append).outcome == "failed"  # the stub is no program
    (tmp_path / "yolo26n-cls" / PROGRAM).write_bytes(b"damaged")
    assert export_one(last, events.append).outcome == "exported"
    reasons = [event["reason"] for event in events if event["event"] == "stale"]
    assert reasons[:3] == [
        "made with other options", "made from another checkpoint", "exported without a test",
    ]  # fmt: skip
    assert "model.pte has 7 bytes" in reasons[3] or "was changed" in reasons[3]
    verify(tmp_path / "yolo26n-cls")


def test_another_checkpoints_artifact_is_not_replaced(tmp_path: Path, no_lowering: None) -> None:
    """Where only loading tells which checkpoint it is, or another export was quicker."""
    first = job_of("yolo26n-cls", tmp_path)
    assert export_one(first, lambda event: None).ok
    other = replace(first, options=replace(first.options, seed=5))
    record = export_one(other, lambda event: None)
    assert (record.outcome, record.stage, record.error) == ("failed", "load", "UsageError")
    assert "--force" in str(record.message)
    assert load_manifest(tmp_path / "yolo26n-cls").options.seed == 0
    assert export_one(replace(other, force=True), lambda event: None).ok
    assert load_manifest(tmp_path / "yolo26n-cls").options.seed == 5


def test_a_failed_test_leaves_the_former_artifact_or_none(
    tmp_path: Path, no_lowering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = ["bus.jpg, against eager fp32: 3 of 300 rows match no prediction", "random 1: more"]
    found = {**PASSED, "passed": False, "failures": failures}
    monkeypatch.setattr(pipeline, "SmokeTest", lambda backend: contextlib.nullcontext(lambda folder, **_: found))
    job = job_of("yolo26n-cls", tmp_path, test=True)
    record = export_one(job, lambda event: None)
    assert (record.outcome, record.stage, record.task, record.folder) == ("failed", "test", "classify", None)
    assert record.message == f"the outputs differ from PyTorch's: {failures[0]} (and 1 more)"
    assert record.test is not None and record.test["failures"] == failures
    assert entries(tmp_path) == []
    export_one(replace(job, test=False), lambda event: None)
    before = load_manifest(tmp_path / "yolo26n-cls")
    assert export_one(job, lambda event: None).outcome == "failed"
    assert verify(tmp_path / "yolo26n-cls") == before
    assert entries(tmp_path) == ["yolo26n-cls"]


def test_failures_with_words_become_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lower(model: Any, options: ExportOptions, stage: Any) -> Lowered:
        stage("lower")
        raise LoweringError("operators without a kernel: aten.topk")

    monkeypatch.setattr(xnnpack, "lower", lower)
    record = export_one(job_of("yolo26n-cls", tmp_path), lambda event: None)
    assert (record.outcome, record.stage, record.message) == (
        "failed",
        "lower",
        "operators without a kernel: aten.topk",
    )
    assert set(record.seconds) == {"load", "lower"}
    assert entries(tmp_path) == []
    # Only its task tells that a checkpoint cannot take the size.
    path = save_checkpoint(tmp_path / "best.pt", network("yolo26n.yaml"))
    own = job_of("best", tmp_path, source=Source("best", None, path), imgsz=(224, 224), random_weights=False)
    record = export_one(own, lambda event: None)
    assert (record.outcome, record.stage) == ("failed", "load")
    assert "nearest: --imgsz 320" in str(record.message)


def test_the_tests_process_ends_with_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    meanwhile: list[list[int | None]] = []

    class Started(subprocess.Popen[str]):
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **more)
            started.append(self)

    def lower(*_: object) -> Lowered:
        meanwhile.append([process.poll() for process in started])
        raise LoweringError("operators without a kernel: aten.topk")

    monkeypatch.setattr(xnnpack, "lower", lower)
    monkeypatch.setattr(smoke_test.subprocess, "Popen", Started)
    assert export_one(job_of("yolo26n-cls", tmp_path, test=True), lambda event: None).outcome == "failed"
    assert [process.poll() for process in started] == [-9]
    assert export_one(job_of("yolo26n-cls", tmp_path, test=False), lambda event: None).outcome == "failed"
    assert meanwhile == [[None], [-9]]  # the second was told not to test


def test_failures_without_words_are_defects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lower(*_: object) -> Lowered:
        raise ZeroDivisionError

    monkeypatch.setattr(xnnpack, "lower", lower)
    with pytest.raises(ZeroDivisionError):
        export_one(job_of("yolo26n-cls", tmp_path), lambda event: None)
    assert entries(tmp_path) == []


@pytest.mark.slow
def test_a_smoke_test_that_cannot_run_is_said_so(tmp_path: Path, no_lowering: None) -> None:
    """The real process, on what is no program."""
    record = export_one(job_of("yolo26n-cls", tmp_path, test=True), lambda event: None)
    assert (record.outcome, record.stage) == ("failed", "test")
    assert str(record.message).startswith("the test could not run: ExecuTorch could not load ")
    assert entries(tmp_path) == []


def test_a_smoke_test_that_dies_is_said_so(tmp_path: Path, no_lowering: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    record = export_one(job_of("yolo26n-cls", tmp_path, test=True), lambda event: None)
    assert (record.outcome, record.stage) == ("failed", "test")
    assert record.message == "the test's process ended with status 1 before it had figures; see the log"


# ---- for real --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", each_task("detect", "classify"))
def test_every_task_is_exported_and_runs(exported: Callable[[str], Path], task: str) -> None:
    """Trained weights through XNNPACK and the official runtime, within the smoke test's tolerances of eager PyTorch."""
    folder = exported(task)
    made = json.loads((folder.parent / f"{task}.json").read_text())
    record = Record.from_json(made["record"])
    assert (record.outcome, record.message) == ("exported", None)
    assert record.test is not None
    assert (record.test["passed"], record.test["runner"], record.test["failures"]) == (True, "executorch", [])
    assert [report["input"] for report in record.test["inputs"]][:1] == ["bus.jpg"]
    assert record.latency_ms is not None and record.latency_ms > 0
    assert record.largest_error is not None and record.largest_error["ratio"] <= 1
    # It knows drawn shapes, and the photograph has none; depths alone mean something on any.
    assert any(event["event"] == "answer" for event in made["events"]) is not TASKS[task].has_classes
    assert entries(folder) == [CARD, MANIFEST, PROGRAM]
    manifest = verify(folder)
    assert (manifest.task, manifest.test) == (task, record.test)
    assert manifest.checkpoint.origin == "user"
    assert manifest.delegate.name == "XnnpackBackend" and manifest.delegate.delegated > 50
    assert not [operator for operator in manifest.delegate.outside if "convolution" in operator]


@pytest.mark.slow
def test_damage_that_lowering_did_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of a million is another in the artifact."""
    lower = xnnpack.lower

    def damaging(model: Any, *rest: Any) -> Lowered:
        with torch.no_grad():
            next(module for module in model.modules() if isinstance(module, nn.Conv2d)).weight[0, 0, 0, 0] += 0.01
        return lower(model, *rest)

    monkeypatch.setattr(xnnpack, "lower", damaging)
    record = export_one(job_of("yolo26n-cls", tmp_path, test=True), lambda event: None)
    assert (record.outcome, record.stage) == ("failed", "test")
    assert str(record.message).startswith("the outputs differ from PyTorch's: bus.jpg, against eager fp32: ")
    assert "probability is off by up to" in str(record.test)
    assert entries(tmp_path) == []


def trained(task: str, names: dict[int, str], **changes: Any) -> nn.Module:
    """A network whose predictions differ from place to place, as after a training."""
    made = network(f"yolo26n{TASKS[task].suffix}.yaml", names, **changes)
    spread(made, TASKS[task], 0)
    return made


def exported(tmp_path: Path, path: Path, *words: str) -> dict[str, Any]:
    """Run the command on a checkpoint and return its record."""
    out = str(tmp_path / "out")
    assert cli.main(["export", "--backend", "xnnpack", "--base-path", out, "--models", str(path), *words]) == 0
    (record,) = json.loads((tmp_path / "out" / "report.json").read_text())["records"]
    assert (record["outcome"], record["message"], record["test"]["passed"]) == ("exported", None, True)
    data: dict[str, Any] = record
    return data


@pytest.mark.slow
def test_a_fine_tuned_pose_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three classes, four keypoints of two values; pictures go in as bytes."""
    names = {0: "cat", 1: "dog", 2: "été | <b>"}
    path = save_checkpoint(tmp_path / "pets.pt", trained("pose", names, kpt_shape=[4, 2]))
    record = exported(tmp_path, path, "--imgsz", "320", "352", "--input", "uint8")
    assert (record["name"], record["variant"], record["task"]) == ("pets", None, "pose")
    assert "pets: exported" in capsys.readouterr().out
    manifest = verify(tmp_path / "out" / "pets")
    assert (manifest.variant, manifest.classes, manifest.keypoint_shape) == (None, names, (4, 2))
    assert manifest.checkpoint.origin == "user"
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [
        ("detections", (1, 300, 6)), ("keypoints", (1, 300, 4, 2))
    ]  # fmt: skip
    assert manifest.outputs[1].columns == ("x", "y")
    assert (manifest.input.shape, manifest.input.dtype) == ((1, 320, 352, 3), "uint8")
    card = (tmp_path / "out" / "pets" / CARD).read_text()
    assert "4 keypoints of 2 values" in card
    with open_runner(tmp_path / "out" / "pets") as runner:
        outputs = runner(random_input(runner.input, seed=1))
    assert outputs["keypoints"].shape == (1, 300, 4, 2)
    assert set(outputs["detections"][0, :, 5].tolist()) <= {0, 1, 2}


@pytest.mark.slow
def test_a_fine_tuned_detector_in_ultralytics_format(tmp_path: Path) -> None:
    """Three classes, two pictures at a time, the raw head's output."""
    names = {0: "bolt", 1: "nut", 2: "screw"}
    path = save_checkpoint(tmp_path / "my parts.pt", trained("detect", names))
    record = exported(tmp_path, path, "--imgsz", "320", "--outputs", "ultralytics", "--batch", "2")
    assert (record["name"], record["task"]) == ("my_parts", "detect")
    manifest = verify(tmp_path / "out" / "my_parts")
    assert (manifest.classes, manifest.keypoint_shape, manifest.options.batch) == (names, None, 2)
    (spec,) = manifest.outputs
    assert (spec.name, spec.shape, spec.columns[:4]) == ("predictions", (2, 300, 6), ("x1", "y1", "x2", "y2"))
    with open_runner(tmp_path / "out" / "my_parts") as runner:
        pictures = random_input(runner.input, seed=1)
        both = runner(pictures)["predictions"]
        swapped = runner(pictures.flip(0))["predictions"]
    torch.testing.assert_close(both[0, :50], swapped[1, :50], atol=1e-3, rtol=0)
