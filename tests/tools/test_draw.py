from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support import make_manifest, publish
from yolo26_executorch.pictures import sample_pictures


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    """Return tools/draw.py, which belongs to no package."""
    path = Path(__file__).parents[2] / "tools" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Stub:
    """A runner that sees one bus in the middle of the input, and a box turned inside out."""

    name = "stub"

    def __init__(self, folder: Path) -> None:
        self.input = make_manifest().input

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        assert images.shape == (1, 3, 640, 640)
        boxes = torch.tensor([[320, 320, -9, 9, 0.9, 0], [320, 320, 160, 320, 0.8, 1]])
        return {"detections": boxes[None]}

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[Stub]:
        yield cls(folder)


def test_boxes_are_placed_in_the_picture(draw: ModuleType) -> None:
    placed = draw.to_picture(torch.tensor([[130, 70, 40, 20, 0.9, 5]]), scale=0.5, padding=(10, 0))
    assert placed.tolist() == [[200, 120, 280, 160, pytest.approx(0.9), 5]]


def test_boxes_without_area_or_confidence_are_left_out_and_ten_are_enough(draw: ModuleType) -> None:
    good = [[10, 10, 4, 4, 0.9, label] for label in range(12)]
    bad = [[10, 10, -4, 4, 0.99, 90], [10, 10, 4, 0, 0.99, 91], [10, 10, 4, 4, 0.2, 92]]
    placed = draw.to_picture(torch.tensor(bad + good), scale=1.0, padding=(0, 0))
    assert placed[:, 5].tolist() == list(range(10))
    assert draw.to_picture(torch.tensor(bad), scale=1.0, padding=(0, 0)).shape == (0, 6)


@pytest.mark.parametrize(("origin", "warned"), [("random", True), ("published", False)])
def test_the_picture_gets_the_boxes(
    draw: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, warned: bool
) -> None:
    monkeypatch.setattr(draw, "open_runner", Stub.open)
    folder, target = publish(tmp_path, make_manifest(backend="xnnpack", origin=origin)), tmp_path / "bus.png"
    said = draw.draw(folder, target)
    assert said.startswith(f"picture: {target} (1 boxes, xnnpack model run by stub)")
    assert ("mean nothing" in said) is warned

    before = np.asarray(Image.open(sample_pictures()[0]).convert("RGB")).astype(int)
    after = np.asarray(Image.open(target).convert("RGB")).astype(int)
    assert after.shape == before.shape
    rows, columns = np.nonzero((before != after).any(axis=2))
    # bus.jpg is 810 by 1080: the input's scale is 640 / 1080 and it is padded by 80 pixels on the left.
    width = 160 * 1080 / 640
    assert columns.min() == pytest.approx(405 - width / 2, abs=8)
    assert rows.max() == pytest.approx(540 + width, abs=8)


@pytest.mark.parametrize("changes", [{"task": "segment"}, {"missing": True}])
def test_what_cannot_be_drawn_is_refused_in_a_line(
    draw: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
) -> None:
    missing = changes.pop("missing", False)
    folder = tmp_path / "none" if missing else publish(tmp_path, make_manifest(**changes))
    monkeypatch.setattr(sys, "argv", ["draw", str(folder), str(tmp_path / "bus.png")])
    assert draw.main() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("draw: error: ")
    assert not (tmp_path / "bus.png").exists()
