"""A benchmark of a CUDA artifact, with the peers that need nothing but PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from yolo26_executorch import cli
from yolo26_executorch.bench import Report
from yolo26_executorch.bench.records import MODES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact that test_cuda_artifact.py exports, too: once in a run of the tests."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    base = root / "cuda yolo26n"
    with FileLock(root / "yolo26n.lock"):
        if not (base / "report.json").exists():
            words = ["export", "--models", "yolo26n", "--backend", "cuda", "--random-weights", "--imgsz", "320"]
            cli.main([*words, "--base-path", str(base), "--debug"])
    return base / "yolo26n"


def test_every_row_is_measured(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    words = ["bench", str(folder), "--against", "eager,compile", "--quick", "--report", str(path)]
    assert cli.main([*words, "--plot", str(tmp_path / "latency.png"), "--runner", "aoti"]) == 0
    report = Report.read(path)
    rows = {f"{row.subject} {row.mode}": row for row in report.rows}
    assert set(rows) == {*(f"artifact {mode}" for mode in MODES)} | {
        f"{peer} {mode}" for peer in ("eager", "compile") for mode in ("graph", "host")
    }
    for name, row in rows.items():
        assert (row.outcome, row.message, row.device) == ("measured", None, "cuda"), name
        assert row.latency is not None and row.memory is not None and row.load is not None
        assert 0 < row.latency.p20_ms <= row.latency.p50_ms <= row.latency.p80_ms
        assert row.memory.gpu_tensors_bytes
        on_device = row.mode in ("graph", "launched")
        assert row.clock == ("device events" if on_device else "host clock")
        assert (row.latency.block_ms is not None) == (row.latency.cold_ms is not None) == on_device
        assert row.graph_equals_call in ((True,) if row.mode == "graph" else (None,)), name
        if row.mode != "file":
            assert row.achieved is not None
            assert 0 < (row.achieved.of_compute or 0) < 1
    (most,) = report.ceilings
    assert (most.device, most.precision) == ("cuda", "tf32")
    assert most.gflop_s > 1000 and most.gb_s > 100
