"""A made-up tree of exports with one of everything that its report has to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import make_manifest, publish
from yolo26_executorch.artifacts.manifest import Manifest
from yolo26_executorch.exporter.jobs import Record
from yolo26_executorch.models.options import ExportOptions

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&\"'"
"""What no page may take for HTML."""

MACHINE = {
    "os": "Debian GNU/Linux 12", "machine": "x86_64", "cpu": "Some CPU", "cores": 2, "memory_bytes": 8 * 10**9,
    "python": "3.11.2", "torch": "2.13.0", "torch_cuda": None, "cxx": {"path": "/usr/bin/g++", "version": "12.2.0"},
    "gpus": [{"name": "NVIDIA H100", "capability": [9, 0], "memory_bytes": 80 * 10**9}],
}  # fmt: skip


def trial(p50: float, ratio: float = 0.25, device: str = "cpu", **changes: Any) -> dict[str, Any]:
    """Make up a test's figures, as `trial.run_trial` gives them."""
    quantity = {
        "name": "box_px", "unit": "px", "values": 4, "max": 0.005, "mean": 0.001, "p99": 0.004, "absolute": 0.02,
        "relative": 0.001, "smallest_tolerance": 0.005, "ratio": ratio, "passed": ratio <= 1,
    }  # fmt: skip
    agreement = {"rows": 300, "matched": 299, "classes_equal": 300}
    compared = {"passed": True, "failures": [], "agreement": agreement, "quantities": [quantity]}
    return {
        "passed": ratio <= 1,
        "runner": "executorch",
        "device": device,
        "inputs": [{"input": "bus.jpg", "against": "eager fp32", **compared}],
        "failures": [],
        "largest": {"quantity": "box_px", "value": 0.005, "unit": "px", "ratio": ratio},
        "latency_ms": {"p50": p50, "min": p50 - 1, "max": p50 + 2, "runs": 20},
        "answer": ["bus.jpg: person 0.90"],
        **changes,
    }


def manifest(size: str = "n", task: str = "detect", backend: str = "xnnpack", **changes: Any) -> Manifest:
    """Make up a published variant's manifest at 320×320."""
    name = f"yolo26{size}" + make_manifest(task).name.removeprefix("yolo26n")
    options = ExportOptions(backend=backend, imgsz=(320, 320))
    fields = {"name": name, "variant": name, "options": options, "test": trial(10.0), **changes}
    return make_manifest(task, backend, "published", **fields)


def write_report(base: Path, *records: Record, created: str = "2026-11-22T07:00:00+00:00", **changes: Any) -> Path:
    """Write the report of a run."""
    path = base / "report.json"
    content = {
        "schema": 1, "created": created, "command": "yolo26-et export", "machine": MACHINE,
        "records": [record.to_json() for record in records], **changes,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def write_val(path: Path, of: Manifest, value: float, **changes: Any) -> Path:
    """Write what `yolo26-et val --report` writes of a model."""
    key = "metrics/mAP50-95(B)"
    content = {
        "schema": 1, "name": of.name, "task": of.task, "backend": of.backend,
        "precision": of.options.precision if of.backend == "cuda" else "fp32", "imgsz": list(of.options.size),
        "batch": of.options.batch, "data": "/home/me/shapes/data.yaml", "split": "val", "pictures": 48,
        "artifact": {"metrics": {key: value}, "runner": "executorch", "device": "cpu"},
        "pytorch": {"metrics": {key: value + 0.0003}}, "primary": key, "differences": {key: -0.0003},
        "created": "2026-11-22T09:00:00+00:00", **changes,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path


def failed(name: str, **changes: Any) -> Record:
    """Make up the record of a failure."""
    fields = {"name": name, "variant": name, "task": "segment", "backend": "xnnpack", "precision": "tf32"}
    return Record(**{**fields, "outcome": "failed", "stage": "lower", "message": "it broke", **changes})


def make_tree(base: Path) -> Path:
    """Make the tree: eight models, of which one failed, one is damaged, one runs on CUDA, one is a user's own."""
    base.mkdir()
    for size, p50 in (("n", 5.5), ("s", 11.25), ("m", 123.0)):
        of = manifest(size, test=trial(p50, ratio=0.01 * p50))
        publish(base, of, program=b"program" * round(100_000 * p50))
        if size != "m":
            write_val(base / f"{of.name}.val.json", of, 0.3 + p50 / 100)
    publish(base, make_manifest("classify", "xnnpack", "random", test=None))
    gpu = {"device": "NVIDIA H100", "runner": "aoti"}
    publish(base, manifest("n", "pose", "cuda", test=trial(0.9, **gpu)))  # type: ignore[arg-type]
    publish(base, make_manifest("obb", "xnnpack", "user", name="best", classes={0: HOSTILE}, test=trial(7.0)))
    publish(base, manifest("x", "obb"))
    (base / "yolo26x-obb" / "model.pte").write_bytes(b"short")
    write_report(base, failed("yolo26l-seg", message=f"outputs differ: {HOSTILE}"))
    (base / ".logs").mkdir()
    (base / ".logs" / "yolo26l-seg.log").write_text(f"first line\n10%\r50%\r100%\nWarning: {HOSTILE}\x1b[31m\n")
    return base
