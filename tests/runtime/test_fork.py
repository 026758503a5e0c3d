"""A model in a forked child: right answers or an error in words, and never a wait for ever."""

from __future__ import annotations

import multiprocessing
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support import eager_artifact, make_manifest, publish, random_model, xnnpack_program
from support.fake_gpu import FakeGpus, fake_runner, gpus, images
from yolo26_executorch import YOLO26
from yolo26_executorch.errors import CompatibilityError
from yolo26_executorch.models.tasks import TensorSpec
from yolo26_executorch.runtime import open_runner
from yolo26_executorch.runtime.eager import EagerRunner

__all__ = ["gpus"]

SHAPE = (1, 3, 256, 256)
"""Large enough for PyTorch to divide its work among threads."""
TIMEOUT_S = 60
REFUSED = r"UsageError: this model was opened in process \d+, and process \d+ is a fork .*open the model in the child"


class Doubled(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = TensorSpec("images", SHAPE, "float32", "")
    manifest = make_manifest(backend="xnnpack", input=spec, outputs=(TensorSpec("doubled", SHAPE, "float32", ""),))
    program = xnnpack_program(Doubled(), torch.zeros(SHAPE))
    return publish(tmp_path_factory.mktemp("artifacts"), manifest, program)


@pytest.fixture(autouse=True)
def threads_of_pytorch() -> Iterator[None]:
    """Have this process compute with PyTorch's threads, which a child lacks: PyTorch waits for them there."""
    torch.set_num_threads(2)
    torch.rand(2_000_000).sin()
    yield
    torch.set_num_threads(1)


def in_a_fork(function: Callable[[], object], timeout_s: float = TIMEOUT_S) -> str:
    """Call a function in a forked child; returns what it returned or raised."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        try:
            sender.send(repr(function()))
        except Exception as error:
            sender.send(f"{type(error).__name__}: {error}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of what is tried here
        child = context.Process(target=run)
        child.start()
    sender.close()
    try:
        return str(receiver.recv()) if receiver.poll(timeout_s) else "it hangs"
    finally:
        child.kill()
        child.join()


def assert_refused(said: str) -> None:
    assert re.match(REFUSED, said), said


BATCH, TWICE = torch.full(SHAPE, 0.25), torch.full(SHAPE, 0.5)
"""Made here: PyTorch fills tensors of this size with all its threads."""


def answer(runner: Any) -> bool:
    return torch.equal(runner(BATCH)["doubled"], TWICE)


def test_what_is_tried_here_hangs_without_care() -> None:
    """Otherwise the tests below could not fail."""

    def compute() -> None:
        torch.rand(2_000_000).sin()

    if in_a_fork(compute, timeout_s=5) != "it hangs":
        pytest.skip("this PyTorch's threads survive a fork")


def test_the_official_runtime(folder: Path) -> None:
    with open_runner(folder, runner="executorch") as runner:
        assert answer(runner)
        assert_refused(in_a_fork(lambda: answer(runner)))
        assert in_a_fork(runner.close) == "None"
        assert answer(runner)


def test_a_model_that_the_child_opens(folder: Path) -> None:
    def opened_here() -> bool:
        with open_runner(folder) as runner:
            return answer(runner) and answer(runner)

    with open_runner(folder) as runner:
        assert answer(runner)
        assert in_a_fork(opened_here) == "True"
        assert in_a_fork(lambda: in_a_fork(opened_here)) == "'True'"
    assert torch.get_num_threads() == 2


def test_eager() -> None:
    model = random_model("yolo26n-cls")
    batch = torch.zeros(model.input_spec.shape)
    with EagerRunner(model) as runner:
        assert_refused(in_a_fork(lambda: runner(batch)))
        assert_refused(in_a_fork(lambda: runner.reference(batch)))


def test_a_cuda_artifact_even_while_another_thread_calls_it(gpus: FakeGpus) -> None:
    runner = fake_runner()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with runner._exclusive():
            inside.set()
            leave.wait(TIMEOUT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(TIMEOUT_S)
    try:
        for call in (lambda: runner(images(1)), lambda: runner.run(images(1)), runner.capture, runner.replay):
            assert_refused(in_a_fork(call))
        assert in_a_fork(runner.close) == "None"
    finally:
        leave.set()
        holder.join()
    assert torch.equal(runner(images(1))["doubled"], images(1) * 2)


def test_cuda_in_a_fork_of_a_process_that_has_used_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(CompatibilityError, match=r"is a fork of one that has used CUDA.*get_context\(\"spawn\"\)"):
        open_runner(publish(tmp_path, make_manifest()), runner="aoti")


def test_the_python_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify", backend="xnnpack")
    picture = np.zeros((640, 480, 3), np.uint8)
    with YOLO26(folder) as model:
        assert len(model.predict(picture, verbose=False)) == 1
        assert_refused(in_a_fork(lambda: model.predict(picture, verbose=False)))
        batch = torch.zeros(1, 3, *model._backend.imgsz)
        assert_refused(in_a_fork(lambda: model._backend(batch)))
        assert in_a_fork(model.close) == "None"
