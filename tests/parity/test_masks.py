"""Masks against those of Ultralytics' `process_mask`, at both resolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolo26_executorch.parity.masks import compare_full_masks, compare_masks


def squares() -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (2, 4) over pixels 6 to 25 of the masks, coefficients (2, 2) and prototypes (2, 32, 32).

    One object fills the picture's left half, one its right.
    """
    boxes = torch.tensor([[62.0, 62, 80, 80]]).repeat(2, 1)
    protos = torch.full((2, 32, 32), -1.0)
    protos[0, :, :16] = 1
    protos[1, :, 16:] = 1
    return boxes, torch.eye(2), protos


def test_masks_are_compared_inside_both_boxes() -> None:
    boxes, coefficients, protos = squares()
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, 6:26, 6:16] = 1
    masks[1, 6:26, 16:26] = 1
    same = compare_masks(masks, boxes, boxes, coefficients, protos)
    assert same.differ.tolist() == same.error.tolist() == [0, 0]
    assert same.either.tolist() == [200, 200]
    assert same.iou.tolist() == [1, 1]

    # The masks' own boxes begin a little lower, beyond the corner of a row of pixels: that row is not judged.
    own = boxes + torch.tensor([0, 2.5, 0, 0])
    masks[:, 6] = 0
    lower = compare_masks(masks, own, boxes, coefficients, protos)
    assert lower.differ.tolist() == [10, 10]
    assert lower.error.tolist() == [0, 0]
    # Without such boxes the same masks are wrong.
    wrong = compare_masks(masks, boxes, boxes, coefficients, protos)
    assert wrong.error.tolist() == pytest.approx([0.05, 0.05])
    assert wrong.iou.tolist() == pytest.approx([0.95, 0.95])


def test_pixels_outside_both_boxes_are_judged() -> None:
    boxes, coefficients, protos = squares()
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, :, :16] = 1
    masks[1, :, 16:] = 1
    counts = compare_masks(masks, boxes, boxes, coefficients, protos)
    assert counts.error.tolist() == pytest.approx([1 - 200 / 512] * 2)


def test_two_empty_masks_agree() -> None:
    boxes, coefficients, protos = squares()
    counts = compare_masks(torch.zeros(2, 32, 32, dtype=torch.uint8), boxes, boxes, -coefficients * 0, protos)
    assert counts.iou.tolist() == [1, 1]
    assert counts.error.tolist() == [0, 0]


def scattered(count: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes anywhere around an input of 96 x 128 pixels, coefficients and smooth prototypes."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 110.0]) - 10
    sides = torch.rand(count, 2, generator=generator) * 90 + 5
    coefficients = torch.randn(count, 4, generator=generator)
    protos = torch.randn(4, 24, 32, generator=generator)
    return torch.cat([places, sides], 1), coefficients, protos


def ultralytics_masks(boxes: Tensor, coefficients: Tensor, protos: Tensor) -> Tensor:
    """Masks (N, H, W) as Ultralytics makes them of boxes as centre and size."""
    from ultralytics.utils.ops import process_mask

    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    masks: Tensor = process_mask(protos, coefficients, corners, (96, 128), upsample=True)
    return masks


def test_full_masks_are_those_of_process_mask() -> None:
    boxes, coefficients, protos = scattered()
    others = coefficients + 0.3
    ours, theirs = ultralytics_masks(boxes, coefficients, protos), ultralytics_masks(boxes, others, protos)
    counts = compare_full_masks((boxes, coefficients, protos), (boxes, others, protos))
    assert counts.differ.tolist() == (ours != theirs).sum((1, 2)).tolist()
    assert counts.either.tolist() == (ours | theirs).sum((1, 2)).tolist()
    assert float(counts.differ.max()) > 100 and float(counts.error.max()) > 0.1
    same = compare_full_masks((boxes, coefficients, protos), (boxes, coefficients, protos))
    assert not same.differ.any() and not same.error.any() and same.iou.tolist() == [1] * 12


def test_pixels_between_the_edges_of_two_boxes_are_not_judged() -> None:
    boxes, coefficients, _ = squares()
    protos = torch.ones(2, 32, 32)
    given = compare_full_masks(
        (boxes + torch.tensor([0, 2.5, 0, 0]), coefficients, protos), (boxes, coefficients, protos)
    )
    assert given.differ.tolist() == [80 * 6, 80 * 6]  # three rows of pixels at either end
    assert given.error.tolist() == [0, 0]


def test_boxes_outside_the_image_have_empty_masks() -> None:
    boxes = torch.tensor([[-500.0, -500, 20, 20], [900.0, 50, 10, 10], [64.0, 64, -8, 8]])
    coefficients, protos = torch.ones(3, 4), torch.ones(4, 24, 32)
    counts = compare_full_masks((boxes, coefficients, protos), (boxes, coefficients, protos))
    assert counts.either.tolist() == [0, 0, 0] and counts.iou.tolist() == [1, 1, 1]


def test_only_full_resolution_shows_logits_of_the_right_sign_and_wrong_size() -> None:
    """What enlarging thresholded masks does: at a quarter of the resolution nothing differs."""
    boxes, coefficients, protos = scattered()
    coefficients = torch.eye(4).repeat(3, 1)
    coarse = protos.sign()
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    from ultralytics.utils.ops import process_mask

    masks = process_mask(coarse, coefficients, corners, (96, 128))
    assert not compare_masks(masks, boxes, boxes, coefficients, protos).differ.any()
    counts = compare_full_masks((boxes, coefficients, coarse), (boxes, coefficients, protos))
    assert float(counts.error.max()) > 0.05
