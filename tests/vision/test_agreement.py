"""The comparison of two models' results, on results that are made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from ultralytics.engine.results import Results

from yolo26_executorch.vision.agreement import LIMITS, Agreement, compare, mask_iou, match

IMGSZ = (320, 320)
BOXES = torch.tensor([[10.0, 10, 50, 50, 0.9, 1], [100, 20, 180, 60, 0.6, 0], [30, 100, 60, 160, 0.3, 1]])
"""Corners, confidence, class."""


def result(boxes: Tensor = BOXES, **more: Any) -> Results:
    """Return a result for an image of 640 x 640: half its scale in the network."""
    image = np.zeros((640, 640, 3), np.uint8)
    return Results(image, path="a.jpg", names={0: "square", 1: "disc"}, boxes=boxes.clone(), **more)


def masks(shift: int = 0) -> Tensor:
    """Return masks of 40 x 40 pixels in each box's corner."""
    made = torch.zeros(3, 320, 320, dtype=torch.uint8)
    for mask, (x, y) in zip(made, BOXES[:, :2].int().tolist(), strict=True):
        mask[y : y + 40, x + shift : x + shift + 40] = 1
    return made


def agreement(ours: Results, theirs: Results, kind: str = "rankings") -> Agreement:
    return compare(kind, [(ours, theirs)], IMGSZ)


def test_a_result_agrees_with_itself() -> None:
    found = agreement(result(masks=masks()), result(masks=masks()))
    assert (found.images, found.objects, found.missing, found.extra, found.unmatched) == (1, 3, 0, 0, 0)
    assert found.mask_iou is not None and (found.mask_iou.mean, found.mask_iou.worst) == (1, 1)
    assert found.box_px is not None and found.box_px.worst == 0
    assert found.failures("fp32") == []


def test_order_does_not_matter() -> None:
    order = [2, 0, 1]
    found = agreement(result(BOXES[order], masks=masks()[order]), result(masks=masks()))
    assert found.failures("fp32") == []
    assert dict(match(result(BOXES[order]), result())) == {0: 2, 1: 0, 2: 1}


@pytest.mark.parametrize(
    ("change", "missing", "extra"),
    [
        (lambda boxes: boxes[:2], 1, 0),
        (lambda boxes: boxes[:0], 3, 0),
        (lambda boxes: torch.cat([boxes, torch.tensor([[300.0, 300, 400, 400, 0.5, 0]])]), 0, 1),
        (lambda boxes: boxes + torch.tensor([0, 0, 0, 0, 0, 1.0]) * (boxes[:, 4:5] == 0.6), 1, 1),  # another class
        (lambda boxes: boxes + torch.tensor([30.0, 0, 30, 0, 0, 0]) * (boxes[:, 4:5] > 0.8), 1, 1),  # elsewhere
        (lambda boxes: boxes - torch.tensor([0, 0, 0, 0, 0.08, 0]), 0, 0),  # 0.22 is below 0.25, and a partner
    ],
)
def test_objects_in_one_result_alone(change: Callable[[Tensor], Tensor], missing: int, extra: int) -> None:
    found = agreement(result(change(BOXES)), result())
    assert (found.missing, found.extra) == (missing, extra)
    assert bool([words for words in found.failures("bf16") if "in one result alone" in words]) is (
        missing > 0 or extra > 0
    )


def test_what_neither_is_sure_of_needs_no_partner() -> None:
    unsure = torch.cat([BOXES, torch.tensor([[300.0, 300, 400, 400, 0.22, 0]])])
    for pair in ((result(unsure), result()), (result(), result(unsure))):
        assert agreement(*pair).failures("fp32") == []


def test_distances_are_in_pixels_of_the_network() -> None:
    found = agreement(result(BOXES + torch.tensor([2.0, 0, 2, 0, 0, 0])), result())
    assert found.box_px is not None and found.box_px.mean == pytest.approx(1)
    assert found.failures("bf16") == []
    assert found.failures("fp16") == ["the boxes lie 1.00 px apart on average (limit 0.5)"]


def test_masks_beside_their_place_are_seen() -> None:
    found = agreement(result(masks=masks(shift=1)), result(masks=masks()))
    assert found.mask_iou is not None and found.mask_iou.mean == pytest.approx(39 / 41)
    assert found.failures("fp16") == ["the masks' mean IoU is 0.9512 (limit 0.995)"]
    assert found.failures("int8") == []


def test_confidences_are_compared() -> None:
    found = agreement(result(BOXES - torch.tensor([0, 0, 0, 0, 0.02, 0])), result())
    assert found.confidence is not None and found.confidence.worst == pytest.approx(0.02)
    assert found.failures("fp16") == ["confidences differ by 0.0200 on average (limit 0.01)"]


def test_keypoints_that_are_seen_are_compared() -> None:
    points = torch.zeros(3, 2, 3)
    points[:, 0, 2] = 0.9
    moved = points.clone()
    moved[:, :, 0] += torch.tensor([4.0, 100])  # the second is not visible
    found = agreement(result(keypoints=moved), result(keypoints=points))
    assert found.keypoint_px is not None and found.keypoint_px.worst == pytest.approx(2)


def test_rotated_boxes_whose_first_corner_is_another_are_the_same() -> None:
    def rotated(width: float, height: float, angle: float) -> Results:
        image = np.zeros((640, 640, 3), np.uint8)
        box = torch.tensor([[100.0, 100, width, height, angle, 0.9, 0]])
        return Results(image, path="a.jpg", names={0: "square"}, obb=box)

    found = agreement(rotated(40, 80, 0.001), rotated(80, 40, torch.pi / 2 - 0.001))
    assert (found.missing, found.extra) == (0, 0)
    assert found.box_px is not None and found.box_px.worst < 0.1


def test_classes_of_images_are_compared() -> None:
    def classified(*values: float) -> Results:
        image = np.zeros((8, 8, 3), np.uint8)
        return Results(image, path="a.jpg", names={0: "a", 1: "b"}, probs=torch.tensor(values))

    same, other = (
        agreement(classified(0.6, 0.4), classified(0.6, 0.4), "probabilities"),
        agreement(classified(0.4, 0.6), classified(0.6, 0.4), "probabilities"),
    )
    assert (same.objects, same.missing, same.failures("fp32")) == (1, 0, [])
    assert other.missing == 1 and other.failures("bf16")


def test_classes_of_pixels_are_compared() -> None:
    def mapped(pixels: Tensor) -> Results:
        return Results(np.zeros((20, 50, 3), np.uint8), path="a.jpg", names={0: "a", 1: "b"}, semantic_mask=pixels)

    expected = torch.zeros(20, 50, dtype=torch.uint8)
    expected[5:, 10:] = 1
    other = expected.clone()
    other[0, :3] = 1
    found = agreement(mapped(other), mapped(expected), "class_map")
    assert found.pixels is not None and found.pixels.worst == pytest.approx(0.997)
    assert found.failures("fp32") == ["99.70% of the pixels are of the same class (limit 99.9%)"]
    assert found.failures("fp16") == [] == agreement(mapped(expected), mapped(expected), "class_map").failures("fp32")


def test_depths_are_compared_in_metres_and_to_their_size() -> None:
    def measured(metres: Tensor) -> Results:
        return Results(np.zeros((2, 4, 3), np.uint8), path="a.jpg", names={0: "depth"}, depth=metres)

    expected = torch.full((2, 4), 4.0)
    other = expected.clone()
    other[1, 2] = 4.08
    found = agreement(measured(other), measured(expected), "depth_map")
    assert found.depth_m is not None and found.depth_m.mean == pytest.approx(0.01, abs=1e-6)
    assert found.depth_relative is not None and found.depth_relative.worst == pytest.approx(0.02, abs=1e-6)
    assert found.failures("fp32") == ["an image's worst depth is off by 2.00% on average (limit 0.5%)"]
    assert (
        found.failures("fp16") == [] == agreement(measured(expected), measured(expected), "depth_map").failures("fp32")
    )
    other[1, 2] = torch.nan
    assert agreement(measured(other), measured(expected), "depth_map").failures("int8")


def test_numbers_that_are_none_fail() -> None:
    broken = BOXES.clone()
    broken[0, :4] = torch.nan
    assert agreement(result(broken), result()).failures("int8")


def test_iou_of_masks() -> None:
    one = torch.zeros(3, 4, 4, dtype=torch.bool)
    one[0, :2], one[1, 0, 0] = True, True
    other = torch.zeros(3, 4, 4)
    other[0, 1:3] = 1
    assert mask_iou(one, other).tolist() == pytest.approx([1 / 3, 0, 1])


def test_every_precision_has_limits() -> None:
    from yolo26_executorch.models.options import PRECISIONS

    assert set(PRECISIONS) <= set(LIMITS)
