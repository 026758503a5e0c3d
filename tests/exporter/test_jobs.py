from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import make_manifest
from yolo26_executorch.artifacts.manifest import FileRecord
from yolo26_executorch.exporter.jobs import OUTCOMES, Job, Record, figures_of
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.variants import VARIANTS


@pytest.mark.parametrize(
    ("source", "weights_dir", "imgsz"),
    [
        (Source("yolo26n-seg", VARIANTS["yolo26n-seg"], None), None, (640, 480)),
        (Source("best", None, Path("/data/best.pt")), Path("/weights"), None),
        (Source("yolo26n", None, Path("/mine/yolo26n.pt")), None, (640, 640)),
    ],
)
def test_a_job_survives_json(source: Source, weights_dir: Path | None, imgsz: tuple[int, int] | None) -> None:
    job = Job(
        source, Path("out"), ExportOptions(imgsz=imgsz, seed=3), weights_dir,
        test=False, skip_existing=True, trusted=True, command="yolo26-et export", wait=False,
        force=True, capabilities=("9.0",), run_folder="detect/train/weights",
    )  # fmt: skip
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_a_jobs_record_knows_what_the_job_knows() -> None:
    variant = VARIANTS["yolo26n-obb"]
    job = Job(Source(variant.name, variant, None), Path("out"), ExportOptions(), None, True, False, False, "")
    record = job.record("failed", stage="lower", message="why", task="pose")
    assert record == Record(
        "yolo26n-obb", "yolo26n-obb", "pose", "xnnpack", "fp32", "failed", stage="lower", message="why"
    )
    for capability, computed in (("7.5", "fp32"), ("8.6", "tf32")):
        on_gpu = replace(job, options=ExportOptions(backend="cuda"), capabilities=(capability,))
        assert on_gpu.record("failed").precision == computed


@pytest.mark.parametrize(
    "test",
    [
        {},
        {"latency_ms": None, "largest": None},
        {"latency_ms": 3, "largest": "px"},
        {"latency_ms": {"p50": "fast"}, "largest": {"value": "small", "unit": "px"}},
        {"latency_ms": {"p99": 1.0}, "largest": {"value": 1.0}},
    ],
)
def test_figures_that_a_manifest_lacks_are_left_out(test: dict[str, Any]) -> None:
    job = Job(Source("yolo26n", VARIANTS["yolo26n"], None), Path("out"), ExportOptions(), None, True, False, False, "")
    record = job.record_of("skipped", make_manifest(backend="xnnpack", test=test), "out/yolo26n")
    assert (record.test, record.latency_ms, record.largest_error) == (test, None, None)
    assert Record.from_json(record.to_json()) == record


def test_an_artifacts_record_has_its_figures() -> None:
    job = Job(Source("yolo26n", VARIANTS["yolo26n"], None), Path("out"), ExportOptions(), None, True, False, False, "")
    largest = {"value": 0.5, "unit": "px"}
    manifest = make_manifest(
        test={"latency_ms": {"p50": 2}, "largest": largest}, files={"model.pte": FileRecord("c" * 64, 7)}
    )
    record = job.record_of("exported", manifest, "out/yolo26n", seconds={"load": 1.0})
    assert (record.task, record.folder, record.files) == ("detect", "out/yolo26n", {"model.pte": 7})
    assert (record.latency_ms, record.largest_error, record.seconds) == (2.0, largest, {"load": 1.0})
    assert figures_of(None) == {}


FULL: dict[str, Any] = {
    "name": "yolo26n",
    "variant": "yolo26n",
    "task": "detect",
    "backend": "cuda",
    "precision": "fp16",
    "outcome": "exported",
    "stage": None,
    "message": None,
    "error": None,
    "folder": "out/yolo26n",
    "seconds": {"load": 1.0, "compile": 60.5},
    "files": {"model.pte": 7_000_000, "aoti_cuda_blob.ptd": 5_000_000},
    "latency_ms": 0.9,
    "largest_error": {"value": 1e-3, "unit": "px", "quantity": "box_px"},
    "test": {"inputs": []},
    "transient": True,
    "attempts": 2,
    "device": "1",
    "peak_memory_bytes": 3_000_000_000,
}


def test_a_record_survives_json() -> None:
    record = Record.from_json(FULL)
    assert json.loads(json.dumps(record.to_json())) == FULL
    assert Record.from_json(record.to_json()) == record
    assert (record.size_mb, record.total_s, record.ok) == (12.0, 61.5, True)


def test_a_short_record_is_filled_up() -> None:
    least = {"name": "best", "variant": None, "task": None, "backend": "xnnpack", "precision": "fp32"}
    record = Record.from_json({**least, "outcome": "failed"})
    assert (record.variant, record.size_mb, record.total_s, record.latency_ms, record.ok) == (None,) * 4 + (False,)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_counts_as_there(outcome: str) -> None:
    assert Record.from_json({**FULL, "outcome": outcome}).ok is (outcome in ("exported", "skipped"))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {**FULL, "outcome": "splendid"},
        {**FULL, "seconds": [1]},
        {**FULL, "files": {"model.pte": "large"}},
        {**FULL, "latency_ms": "fast"},
        {**FULL, "largest_error": 3},
        {**FULL, "largest_error": {"value": 1}},
        {**FULL, "test": 7},
    ],
)
def test_foreign_data_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(data)
