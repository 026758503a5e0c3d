"""What models see in a picture, without a model."""

from __future__ import annotations

import base64
import io
import socket
from pathlib import Path

import pytest
from PIL import Image

from support import publish
from support.stub_runner import StubRunner
from support.tree_of_exports import manifest
from yolo26_executorch import runtime
from yolo26_executorch.errors import InputError
from yolo26_executorch.models.preprocess import sample_images
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.report import page, samples, tree


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("task", TASKS)
def test_what_a_model_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, task: str) -> None:
    """Class names beyond ASCII make Ultralytics look for a font."""
    keypoints = (2, 3) if task == "pose" else None
    publish(tmp_path, manifest("n", task, classes={0: "人", 1: "bicycle", 2: "car"}, keypoint_shape=keypoints))
    monkeypatch.setattr(runtime, "open_runner", lambda folder, runner="auto", device=None: StubRunner(task))
    told: list[str] = []
    [sample] = samples.draw(tmp_path, tree.read(tmp_path), sample_images()[0], told.append).values()
    name = f"yolo26n{TASKS[task].suffix}"
    assert told == [name]
    assert sample.words.startswith("bus.jpg: ")
    assert ("depth 2.00 to 6.00 m" if task == "depth" else "bicycle") in sample.words
    assert sample.uri is not None and sample.uri.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(sample.uri.split(",")[1]))) as image:
        assert image.size == (sample.width, sample.height) == (480, 640)
    assert len(sample.uri) < 200_000


def test_what_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA artifact without a GPU is refused in words; whatever a library raises costs its picture alone."""
    publish(tmp_path, manifest("n", "detect", "cuda"))
    publish(tmp_path, manifest("s", "detect"))
    publish(tmp_path, manifest("m", "detect"))
    (tmp_path / "yolo26m" / "model.pte").unlink()

    def broken(folder: Path, **_: object) -> None:
        raise RuntimeError("error 0x10\nmore")

    known = tree.read(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = samples.draw(tmp_path, known, sample_images()[0])
    assert found["yolo26n"].words.startswith("No sample picture: it cannot run here. yolo26n ")
    assert found["yolo26n"].uri is None
    assert "yolo26m" not in found  # damaged: it is not even opened
    monkeypatch.setattr(runtime, "open_runner", broken)
    found = samples.draw(tmp_path, known, sample_images()[0])
    assert found["yolo26s"].words == "No sample picture: running it failed here. RuntimeError: error 0x10"
    assert found["yolo26s"].words in page.render(tmp_path, known, found)


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    publish(tmp_path, manifest())
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    for name in ("x.jpg", "y.jpg"):
        with pytest.raises(InputError, match=name):
            samples.draw(tmp_path, tree.read(tmp_path), tmp_path / name)
