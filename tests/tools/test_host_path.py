"""The timing of the host path, on a GPU that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import host_path
from support.fake_gpu import FakeGpus, fake_runner, gpus

__all__ = ["gpus"]


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ordinary memory for pinned, and a GPU that nobody waits for."""
    empty_like = torch.empty_like
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch, "empty_like", lambda tensor, pin_memory=False, **more: empty_like(tensor, **more))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(host_path, "WARM_UP_CALLS", 1)
    monkeypatch.setattr(host_path, "CALLS", 3)


def test_it_prints_and_writes_a_row_for_each_number_of_threads(
    gpus: FakeGpus, unpinned: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(host_path, "open_runner", lambda folder, runner: fake_runner())
    path = tmp_path / "host.json"
    assert host_path.main(["yolo26n", "--threads", "1", "1", "--json", str(path)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("threads  copies  graph  pinned  pageable  to pinned  over")
    assert len(rows) == 2
    record: dict[str, Any] = json.loads(path.read_text())
    assert (record["gpu"], record["unit"], len(record["rows"])) == ("a GPU", "ms", 2)
    assert all(row["pinned"] > row["copies"] > 0 for row in record["rows"])


def test_a_wrong_answer_is_not_timed(gpus: FakeGpus, unpinned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor / 2)
    with fake_runner() as runner, pytest.raises(AssertionError):
        host_path.measure(runner, 1)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert host_path.main(["yolo26n"]) == 1
    assert "yolo26-et doctor" in capsys.readouterr().err
