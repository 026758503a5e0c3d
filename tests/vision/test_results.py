"""What results say, on results that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ultralytics.engine.results import Results

from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.vision.results import KINDS, Totals

NAMES = {0: "road", 1: "car", 2: "sky"}


def result(**found: Any) -> Results:
    return Results(np.zeros((2, 4, 3), np.uint8), path="a.jpg", names=NAMES, **found)


BOXES = torch.tensor([[0.0, 0, 2, 2, 0.9, 1], [1, 0, 3, 2, 0.6, 1], [0, 0, 1, 1, 0.5, 0]])
TRACKED = torch.tensor([[0.0, 0, 2, 2, 7, 0.9, 1], [1, 0, 3, 2, 9, 0.6, 1]])
MAP = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 2]], dtype=torch.uint8)
DEPTH = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8.5]])


def test_every_task_has_its_kind() -> None:
    assert {task.kind for task in TASKS.values()} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "found", "words"),
    [
        ("rankings", {"boxes": BOXES}, "1 road, 2 cars"),
        ("rankings", {"boxes": TRACKED}, "2 cars (#7 #9)"),
        ("rankings", {"boxes": BOXES[:0]}, "(no detections)"),
        ("probabilities", {"probs": torch.tensor([0.2, 0.7, 0.1])}, "car 0.70, road 0.20, sky 0.10"),
        ("class_map", {"semantic_mask": MAP}, "car 75.0%, road 12.5%, sky 12.5%"),
        ("class_map", {"semantic_mask": torch.full((2, 4), 255, dtype=torch.uint8)}, ""),
        ("depth_map", {"depth": DEPTH}, "depth 1.00 to 8.50 m, median 4.00 m"),
    ],
)
def test_what_was_found_is_said(kind: str, found: dict[str, Any], words: str) -> None:
    assert KINDS[kind].words(result(**found)) == words


def test_json_has_objects_and_a_depth_its_metres() -> None:
    assert [row["name"] for row in KINDS["rankings"].record(result(boxes=BOXES))["objects"]] == ["car", "car", "road"]
    assert KINDS["class_map"].record(result(semantic_mask=MAP))["objects"][1] == {
        "name": "car", "class": 1, "pixel_ratio": 0.75
    }  # fmt: skip
    assert KINDS["depth_map"].record(result(depth=DEPTH)) == {
        "objects": [], "depth_m": {"min": 1.0, "median": 4.0, "max": 8.5}
    }  # fmt: skip


def test_columns_hold_whole_maps() -> None:
    row = KINDS["class_map"].columns(result(semantic_mask=MAP))
    assert (row["classes"], row["names"]) == ([0, 1, 2], ["road", "car", "sky"])
    assert np.array_equal(row["class_map"], MAP)
    assert np.array_equal(KINDS["depth_map"].columns(result(depth=DEPTH))["depth"], DEPTH)


def test_totals_count_objects_and_each_tracked_one_once() -> None:
    for track, boxes, objects in ((False, BOXES, {"car": 4, "road": 2}), (True, TRACKED, {"car": 2})):
        totals = Totals(KINDS["rankings"], track=track)
        assert not totals.counted
        for _ in range(2):
            totals.add(result(boxes=boxes))
        assert (totals.images, totals.objects, totals.counted) == (2, objects, True)
    totals = Totals(KINDS["depth_map"], track=False)
    totals.add(result(depth=DEPTH))
    assert (totals.images, totals.objects, totals.counted) == (1, {}, False)
