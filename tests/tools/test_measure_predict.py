from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from ultralytics.engine.results import Results

from support import load_tool

tool = load_tool("measure_predict")


def test_images_are_of_all_sizes_and_the_same_every_time() -> None:
    images = tool.drawn(len(tool.SIZES))
    assert [image.shape[:2] for image in images] == list(tool.SIZES)
    assert all(np.array_equal(a, b) for a, b in zip(images, tool.drawn(len(tool.SIZES)), strict=True))
    assert not np.array_equal(images[0], tool.drawn(1, seed=1)[0])


@pytest.mark.slow
def test_a_video_has_the_frames_asked_for(tmp_path: Path) -> None:
    clip = tool.draw_video(tmp_path / "clip.mp4", 5)
    assert tool._decode(clip) == 5
    capture = cv2.VideoCapture(str(clip))
    assert capture.read()[1].shape == (720, 1280, 3)


def result(side: int) -> Results:
    """Return one object, a square of so many pixels at (20, 20)."""
    mask = torch.zeros(1, 100, 100)
    mask[0, 20 : 20 + side, 20 : 20 + side] = 1
    box = torch.tensor([[20.0, 20, 20 + side, 20 + side, 0.9, 0]])
    return Results(np.zeros((100, 100, 3), np.uint8), path="a.jpg", names={0: "square"}, boxes=box, masks=mask)


def test_masks_and_polygons_that_are_the_same_and_that_are_not() -> None:
    masks = tool.Masks(100)
    masks.add(result(40), result(40))
    found = masks.figures()
    assert (found["objects"], found["matched"], found["missing"]) == (1, 1, 0)
    assert found["mask_iou"] == found["polygon_iou"] == {"mean": 1, "min": 1, "p1": 1, "below_0.99": 0}
    masks.add(result(38), result(40))
    found = masks.figures()
    assert found["mask_iou"]["min"] == pytest.approx(38**2 / 40**2)
    assert found["polygon_iou"]["min"] == pytest.approx(38**2 / 40**2, abs=0.01)
    assert found["mask_iou"]["below_0.99"] == found["polygon_iou"]["below_0.99"] == 1


def test_an_object_without_an_outline_is_no_match() -> None:
    empty = result(40)
    empty.update(masks=torch.zeros(1, 100, 100))
    masks = tool.Masks(100)
    masks.add(empty, result(40))
    assert masks.figures()["polygon_iou"]["min"] == 0


def test_calls_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    taken = tool.in_turns(2, {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b"] * 3
    assert [len(seconds) for seconds in taken.values()] == [2, 2]


def test_what_was_measured_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"

    def measure(setup: Any, precision: str, imgsz: int, count: int) -> dict[str, Any]:
        return {"precision": precision, "imgsz": imgsz, "images": count}

    monkeypatch.setattr(tool, "measure_masks", measure)
    words = [str(out), "--only", "masks", "--backend", "xnnpack"]
    assert tool.main([*words, "--imgsz", "320", "640"]) == 0
    assert tool.main([*words, "--imgsz", "320", "--images", "7"]) == 0
    found = json.loads(out.read_text())
    assert sorted((row["imgsz"], row["images"]) for row in found["masks"]) == [(320, 7), (640, 200)]
    assert found["machine"]["versions"]["torch"]


def test_a_run_that_missed_frames_is_no_figure() -> None:
    tool.checked(3, 3)
    with pytest.raises(RuntimeError, match="2 frames of 3"):
        tool.checked(2, 3)
