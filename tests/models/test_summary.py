from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yolo26_executorch.models.summary import lines
from yolo26_executorch.models.tasks import CLASSIFY, DEPTH, DETECT, OBB, POSE, SEGMENT, SEMANTIC, TASKS

NAMES = {0: "person", 1: "bus", 2: "dog"}
ROWS = torch.tensor(
    [
        [100.4, 50.0, 40.0, 80.6, 0.91, 1.0],
        [20.0, 30.0, 10.0, 12.0, 0.5, 0.0],
        [21.0, 31.0, 11.0, 13.0, 0.26, 2.0],
        [22.0, 32.0, 12.0, 14.0, 0.2, 0.0],
    ]
)[None]


def test_boxes() -> None:
    assert lines(DETECT, {"detections": ROWS}, NAMES) == [
        "bus 0.91: centre (100, 50), size 40 x 81 px",
        "person 0.50: centre (20, 30), size 10 x 12 px",
        "dog 0.26: centre (21, 31), size 11 x 13 px",
    ]


def test_the_threshold_and_the_limit() -> None:
    outputs = {"detections": ROWS}
    assert len(lines(DETECT, outputs, NAMES, confidence=0.1)) == 4
    assert lines(DETECT, outputs, NAMES, confidence=0.1, limit=1) == [
        "bus 0.91: centre (100, 50), size 40 x 81 px",
        "and 3 more above confidence 0.1",
    ]


def test_nothing_sure_shows_the_best_three_and_says_so() -> None:
    words = lines(DETECT, {"detections": ROWS}, NAMES, confidence=0.95)
    assert words[0] == "nothing above confidence 0.95; the best 3:"
    assert [word.split()[0] for word in words[1:]] == ["bus", "person", "dog"]


def test_another_picture_of_the_batch() -> None:
    outputs = {"detections": torch.cat([ROWS, ROWS.flip(1)])}
    assert lines(DETECT, outputs, NAMES, image=1) == lines(DETECT, outputs, NAMES, image=0)
    outputs["detections"][1, :, 4] = 0
    assert lines(DETECT, outputs, NAMES, image=1)[0].startswith("nothing")


def test_masks_are_counted_in_pixels_of_the_input() -> None:
    masks = torch.zeros(1, 4, 16, 16, dtype=torch.uint8)
    masks[0, 0, 2:5, 2:4] = 1
    words = lines(SEGMENT, {"detections": ROWS, "masks": masks}, NAMES)
    assert words[0].endswith("size 40 x 81 px, mask of 96 px")
    assert words[1].endswith("mask of 0 px")


def test_keypoints() -> None:
    points = torch.arange(4 * 5 * 3, dtype=torch.float32).view(1, 4, 5, 3)
    points[..., 2] = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.6])
    words = lines(POSE, {"detections": ROWS, "keypoints": points}, NAMES)
    assert words[0].endswith(", 5 keypoints, 4 visible: (0, 1) (6, 7) (9, 10) …")
    points[..., 2] = 0
    assert lines(POSE, {"detections": ROWS, "keypoints": points}, NAMES)[0].endswith(", 5 keypoints, 0 visible")


def test_keypoints_without_visibility() -> None:
    points = torch.arange(4 * 2 * 2, dtype=torch.float32).view(1, 4, 2, 2)
    words = lines(POSE, {"detections": ROWS, "keypoints": points}, NAMES)
    assert words[0].endswith(", 2 keypoints: (0, 1) (2, 3)")


def test_angles_are_in_degrees() -> None:
    row = torch.tensor([[[10.0, 20.0, 30.0, 40.0, -math.pi / 6, 0.8, 1.0]]])
    assert lines(OBB, {"detections": row}, NAMES) == ["bus 0.80: centre (10, 20), size 30 x 40 px, turned -30 degrees"]


def test_top_five_classes() -> None:
    probabilities = torch.tensor([[0.05, 0.4, 0.3, 0.1, 0.08, 0.07]])
    assert lines(CLASSIFY, {"probabilities": probabilities}, NAMES) == [
        "bus 40.0%",
        "dog 30.0%",
        "class 3 10.0%",
        "class 4 8.0%",
        "class 5 7.0%",
    ]
    words = lines(CLASSIFY, {"probabilities": probabilities}, NAMES, confidence=0.5)
    assert words == ["nothing above probability 0.5; the best 3:", "bus 40.0%", "dog 30.0%", "class 3 10.0%"]


def test_shares_of_a_class_map() -> None:
    classes = torch.tensor([[[1, 1, 1, 2], [1, 1, 2, 0]]], dtype=torch.uint8)
    outputs = {"classes": classes, "logits": torch.zeros(1, 3, 1, 1)}
    assert lines(SEMANTIC, outputs, NAMES) == [
        "bus 62.5% of the image", "dog 25.0% of the image", "person 12.5% of the image"
    ]  # fmt: skip
    assert lines(SEMANTIC, outputs, NAMES, limit=1) == ["bus 62.5% of the image", "and 2 more classes"]


def test_depths_are_in_meters() -> None:
    depth = torch.tensor([[[[1.0, 2.0], [4.0, 8.126]]]])
    assert lines(DEPTH, {"depth": depth}, {0: "depth"}) == ["1.00 to 8.13 m, median 2.00 m"]


def test_fewer_classes_than_five() -> None:
    assert len(lines(CLASSIFY, {"probabilities": torch.tensor([[0.9, 0.1]])}, NAMES)) == 2


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_an_answer_in_its_named_format(task: str) -> None:
    sizes = {
        "B": 1,
        "K": 3,
        "H": 32,
        "W": 32,
        "H4": 8,
        "W4": 8,
        "H8": 4,
        "W8": 4,
        "EXTRA": 5,
        "KEYPOINTS": 4,
        "VALUES": 3,
        "CLASSES": 7,
    }
    outputs: dict[str, Tensor] = {
        spec.name: torch.ones(spec.shape, dtype=getattr(torch, spec.dtype))
        for spec in TASKS[task].output_specs("named", sizes)
    }
    assert lines(TASKS[task], outputs, NAMES)
    first = next(iter(outputs))
    with pytest.raises(KeyError):
        lines(TASKS[task], {name: value for name, value in outputs.items() if name != first}, NAMES)
