"""Threads, devices and outputs of the runner for CUDA artifacts, on GPUs that are not there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from support.fake_gpu import IMAGES, FakeGpus, fake_runner, gpus, images
from yolo26_executorch.errors import InputError, UsageError
from yolo26_executorch.runtime import gpu, staging
from yolo26_executorch.runtime.runner import prepare

__all__ = ["gpus"]

THREADS, CALLS = 4, 50


def mistaken(runner: Callable[[Any], dict[str, torch.Tensor]], threads: int = THREADS, calls: int = CALLS) -> int:
    """Call a runner from several threads with images of their own; returns how many answers were another's."""
    wrong = []

    def call(thread: int) -> None:
        for turn in range(calls):
            batch = images(1000 * thread + turn)
            found = runner(batch)
            if not (torch.equal(found["doubled"], batch * 2) and torch.equal(found["sums"], batch.sum((2, 3)))):
                wrong.append((thread, turn))

    workers = [threading.Thread(target=call, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(wrong)


@pytest.mark.parametrize("io", ["host", "device"])
def test_threads_get_the_answers_to_their_own_images(gpus: FakeGpus, io: str) -> None:
    with fake_runner(io=io) as runner:
        assert mistaken(runner) == 0
        assert len(gpus.captured) == 1
        runner._lock = contextlib.nullcontext()  # the fake GPU shows what the lock is for
        assert mistaken(runner) > 0


def test_runners_on_two_gpus_keep_to_their_own(gpus: FakeGpus) -> None:
    """Whatever asks for an event, a stream or a replay on another GPU than the runner's fails in the fake one."""
    with fake_runner(0) as first, fake_runner(1) as second:
        for turn in range(3):
            for runner in (first, second):
                assert torch.equal(runner(images(turn))["doubled"], images(turn) * 2)
                batch, outputs = runner.capture()
                batch.copy_(images(turn + 7))
                runner.replay()
                assert torch.equal(outputs[1], images(turn + 7) * 2)
                assert torch.equal(runner.run(images(turn))[1], images(turn) * 2)
        assert gpus.current == torch.device("cuda", 0)
    assert {device.index for device in gpus.captured} == {0, 1}
    assert gpus.waited == [torch.device("cuda", 1), torch.device("cuda", 0)]


def test_only_the_outputs_that_are_asked_for_are_copied(gpus: FakeGpus) -> None:
    with fake_runner() as runner:
        assert list(runner(images(1))) == ["sums", "doubled"]
        (name, found), *more = runner(images(2), outputs=["doubled"]).items()
        assert (name, more) == ("doubled", [])
        assert torch.equal(found, images(2) * 2)
        assert list(runner(images(2), outputs=["doubled", "sums"], on_device=True)) == ["sums", "doubled"]
        assert runner(images(2), outputs=[]) == {}
        with pytest.raises(InputError, match="expected outputs among sums, doubled, given masks"):
            runner(images(2), outputs=["masks"])


@pytest.mark.parametrize("on_device", [False, True])
def test_results_are_the_callers_to_keep(gpus: FakeGpus, on_device: bool) -> None:
    with fake_runner() as runner:
        first = runner(images(1), on_device=on_device)
        runner(images(2), on_device=on_device)
        assert torch.equal(first["doubled"], images(1) * 2)


@pytest.mark.parametrize("value", [255.0, -0.5, 1.02, float("inf"), float("nan")])
def test_values_beyond_the_range_are_found_on_the_gpu(
    gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """By looking at what the model was given there; the images are never looked at on the host."""
    batch = images(1)
    batch[0, 1, 2, 3] = value
    with pytest.raises(InputError) as expected:
        prepare(batch, IMAGES)
    with fake_runner() as runner:
        with pytest.raises(InputError) as caught:
            runner(batch)
        assert str(caught.value) == str(expected.value)
        assert torch.equal(runner(images(1))["doubled"], images(1) * 2)
        with pytest.raises(InputError):
            runner(batch, on_device=True)


def test_pinned_images_are_fetched_from_where_they_are(gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "is_pinned", lambda tensor: True)
    with fake_runner() as runner:
        for on_device in (False, True):
            assert torch.equal(runner(images(3), on_device=on_device)["doubled"], images(3) * 2)
        assert runner._staged._staged_chunks == []


@pytest.mark.parametrize("chunks", [1, 3, 48])
def test_pageable_images_go_in_chunks(gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    monkeypatch.setattr(staging, "_CHUNK_BYTES", 4 * 48 // chunks)
    with fake_runner() as runner:
        for seed in (1, 2):
            assert torch.equal(runner(images(seed))["doubled"], images(seed) * 2)
        assert len(runner._staged._staged_chunks) == chunks


def test_inference_mode_may_come_and_go(gpus: FakeGpus) -> None:
    with fake_runner() as runner:
        for inside in (True, False, True):
            with torch.inference_mode(inside):
                assert torch.equal(runner(images(1))["doubled"], images(1) * 2)


def test_a_failed_call_leaves_the_runner_usable(gpus: FakeGpus) -> None:
    with fake_runner() as runner:
        with pytest.raises(InputError):
            runner(images(1) * 255)
        assert torch.equal(runner(images(1))["doubled"], images(1) * 2)


def test_a_closed_runner_gives_its_model_back_once(gpus: FakeGpus) -> None:
    runner = fake_runner(1)
    runner(images(1))
    runner.close()
    runner.close()
    assert (runner._model.closed, gpus.waited) == (1, [torch.device("cuda", 1)])
    for call in (lambda: runner(images(1)), lambda: runner.run(images(1)), runner.capture):
        with pytest.raises(UsageError, match="the runner was closed; open the artifact again"):
            call()


def test_closing_waits_for_calls_that_run(gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = fake_runner()
    runner(images(1))
    inside, leave, closed = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert leave.wait(10)

    monkeypatch.setattr(gpu, "wait_for_stream", wait)
    found: list[dict[str, torch.Tensor]] = []
    caller = threading.Thread(target=lambda: found.append(runner(images(2))))
    caller.start()
    assert inside.wait(10)
    closer = threading.Thread(target=lambda: (runner.close(), closed.set()))
    closer.start()
    assert not closed.wait(0.05)
    assert runner._model.closed == 0
    leave.set()
    caller.join()
    closer.join()
    assert torch.equal(found[0]["doubled"], images(2) * 2)
    assert runner._model.closed == 1


def test_replay_needs_a_capture(gpus: FakeGpus) -> None:
    with fake_runner() as runner, pytest.raises(RuntimeError, match="capture"):
        runner.replay()
