"""The checks of runners, with runners on GPUs that are not there; `tests/gpu` has real ones."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

import check_runners
from support.fake_gpu import FakeGpus, fake_runner, gpus

__all__ = ["gpus"]


def open_fake(device: str) -> Any:
    return fake_runner(torch.device(device).index)


def open_unlocked(device: str) -> Any:
    runner = open_fake(device)
    runner._lock = contextlib.nullcontext()
    return runner


def test_right_answers_pass_and_anothers_fail(gpus: FakeGpus) -> None:
    check = check_runners.check_threads(open_fake, "cuda:1", 3, 20)
    assert (check.devices, check.count, check.wrong, check.passed) == (("cuda:1",), 60, 0, True)
    check = check_runners.check_threads(open_unlocked, "cuda:0", 3, 20)
    assert check.wrong
    assert not check.passed


def test_two_gpus(gpus: FakeGpus) -> None:
    checks = check_runners.check_two(open_fake, ("cuda:0", "cuda:1"), 2, 10)
    assert [(check.count, check.wrong) for check in checks] == [(20, 0), (40, 0)]
    assert sorted(device.index for device in gpus.captured) == [0, 1]
    *_, crowded = check_runners.check_two(open_unlocked, ("cuda:0", "cuda:1"), 3, 20)
    assert crowded.wrong


def test_growth_is_told(gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    for grown, passed in ((900_000, True), (1_100_000, False)):
        readings = iter([(5, 7), (5, 7 + grown)])
        monkeypatch.setattr(check_runners, "_memory", lambda device, readings=readings: next(readings))
        check = check_runners.check_openings(open_fake, "cuda:0", 2)
        assert (check.host_bytes, check.gpu_bytes, check.passed) == (0, grown, passed)


def test_a_threads_error_is_passed_on() -> None:
    def fail() -> int:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        check_runners.in_threads([lambda: 1, fail])


def test_the_table() -> None:
    rows = [
        check_runners.Check("4 threads", ("cuda:0",), 400, 3),
        check_runners.Check("openings", ("cuda:0",), 40, host_bytes=250_000, gpu_bytes=0),
    ]
    assert check_runners.table(rows).splitlines() == [
        "check      devices  count  wrong  host MB  GPU MB",
        "4 threads  cuda:0   400    3                       FAILED",
        "openings   cuda:0   40            0.25     0.00    ok",
    ]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_runners.main(["yolo26n"]) == 1
    assert "yolo26-et doctor" in capsys.readouterr().err
