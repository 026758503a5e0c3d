"""`--autotune` from the command to a tested artifact; tests/gpu/test_kernels.py tries the search itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo26_executorch import cli
from yolo26_executorch.lowering.tuning.tile_table import TileTable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # Inductor's and Triton's own, of every release others.
    pytest.mark.filterwarnings("ignore"),
]


def export(base: Path) -> dict[str, Any]:
    words = ["--models", "yolo26n-cls", "--imgsz", "native", "--random-weights", "--backend", "cuda"]
    assert cli.main(["export", *words, "--autotune", "fast", "--base-path", str(base), "--debug"]) == 0
    [record] = json.loads((base / "report.json").read_text())["records"]
    assert record["outcome"] == "exported"
    return dict(record)


def test_what_one_export_has_tuned_the_next_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = export(tmp_path / "first")
    [path] = (tmp_path / "cache").rglob("tiles/*.json")
    found = path.read_bytes()
    assert len(TileTable(path).tiles()) > 15
    second = export(tmp_path / "second")
    assert path.read_bytes() == found
    assert second["seconds"]["tune"] < first["seconds"]["tune"]
