"""How far PyTorch strays, and that no more is forgiven than that asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support import random_model
from yolo26_executorch.models.export_model import Dense
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import CLASSIFY, DETECT, OBB, SEGMENT
from yolo26_executorch.parity.tolerance_scaling import MARGIN, MAX_SCALE, own_ratios, round_operands, scaled_tolerances
from yolo26_executorch.parity.tolerances import TOLERANCES


def dense(extra: int = 0) -> Dense:
    """Fifty predictions of three classes, boxes of 40 pixels."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1, 50, 2, generator=generator) * 600
    boxes = torch.cat([corners, corners + 40], -1)
    scores = torch.rand(1, 50, 3, generator=generator) * 0.5
    return Dense(boxes, scores, torch.rand(1, 50, extra, generator=generator), None)


def test_nothing_is_scaled_where_pytorch_is_not_off() -> None:
    exact = dense()
    assert scaled_tolerances(DETECT, [exact], exact, precision="tf32") == TOLERANCES["tf32"]


def test_the_largest_error_is_found() -> None:
    exact = dense()
    boxes = exact.boxes.clone()
    boxes[0, 17, [0, 2]] += 1.4  # twice what tf32's 0.5 px + 0.5 % of 40 px allow
    ratios = own_ratios(DETECT, replace(exact, boxes=boxes), exact, precision="tf32")
    assert ratios["box_px"] == pytest.approx(2, abs=0.01)
    assert ratios["score"] == 0


@pytest.mark.parametrize(("shift_px", "factor"), [(0.1, 1.0), (0.7, MARGIN), (70.0, MAX_SCALE)])
def test_limits_follow_pytorchs_own_error_within_bounds(shift_px: float, factor: float) -> None:
    exact = dense()
    boxes = exact.boxes.clone()
    boxes[..., [0, 2]] += shift_px
    found = scaled_tolerances(DETECT, [exact, replace(exact, boxes=boxes)], exact, precision="tf32")
    table = TOLERANCES["tf32"]
    assert found["box_px"].absolute == pytest.approx(table["box_px"].absolute * factor, rel=0.01)
    assert found["box_px"].relative == pytest.approx(table["box_px"].relative * factor, rel=0.01)
    assert found["score"] == table["score"]


def test_predictions_that_do_not_rank_do_not_count() -> None:
    exact = dense()
    many = Dense(exact.boxes.repeat(1, 20, 1), exact.scores.repeat(1, 20, 1), exact.extra.repeat(1, 20, 1), None)
    many.scores[:, 100:] *= 1e-6
    boxes = many.boxes.clone()
    boxes[:, 500:] += 100
    assert own_ratios(DETECT, replace(many, boxes=boxes), many, precision="fp16")["box_px"] == 0


def test_the_tasks_own_values_are_measured() -> None:
    exact = dense(extra=1)
    angles = exact.extra + 0.06
    ratios = own_ratios(OBB, replace(exact, extra=angles), exact, precision="fp16")
    assert 1 < ratios["angle_rad"] <= 2.01


def test_prototypes_are_measured_and_masks_follow_them() -> None:
    exact = replace(dense(extra=2), protos=torch.ones(1, 2, 4, 4))
    assert exact.protos is not None
    reduced = replace(exact, protos=exact.protos + 0.08)
    assert own_ratios(SEGMENT, reduced, exact, precision="fp16")["proto"] == pytest.approx(2)
    table, found = TOLERANCES["fp16"], scaled_tolerances(SEGMENT, [reduced], exact, precision="fp16")
    for name in ("proto", "mask_iou", "full_mask_iou"):
        assert found[name].absolute == pytest.approx(table[name].absolute * MAX_SCALE)


def test_classifiers() -> None:
    exact: Tensor = torch.full((1, 4), 0.25)
    reduced = exact + torch.tensor([[0.03, -0.03, 0, 0]])
    found = scaled_tolerances(CLASSIFY, [reduced], exact, precision="fp16")
    assert found["probability"].absolute == pytest.approx(TOLERANCES["fp16"]["probability"].absolute * MAX_SCALE)


def test_values_that_are_no_numbers_forgive_nothing() -> None:
    exact = dense()
    broken = replace(exact, boxes=exact.boxes * float("nan"))
    assert scaled_tolerances(DETECT, [broken], exact, precision="bf16") == TOLERANCES["bf16"]


def test_unlike_predictions_are_a_mistake() -> None:
    with pytest.raises(TypeError):
        own_ratios(DETECT, dense(), torch.zeros(1, 4), precision="fp16")


@pytest.mark.parametrize("name", ["yolo26n-seg", "yolo26n-cls"])
def test_operands_are_rounded_and_nothing_else_changes(name: str) -> None:
    exact, rounded = random_model(name, precision="fp32"), random_model(name, precision="fp32")
    round_operands(rounded)
    seen: list[tuple[bool, Tensor]] = []

    def see(layer: Any, inputs: tuple[Tensor], _: Tensor) -> None:
        seen.append((getattr(layer, "groups", 1) == 1, inputs[0]))

    for layer in rounded.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(see)
    images = random_input(exact.input_spec, 1)
    with torch.no_grad():
        given, expected = rounded(images), exact(images)
    low = [bool((value.contiguous().view(torch.int32) & 0x1FFF).any()) for product, value in seen if product]
    assert len(low) > 20 and not any(low)
    weights = zip(rounded.modules(), exact.modules(), strict=True)
    for one, other in weights:
        if isinstance(one, nn.Conv2d):
            assert torch.equal(one.weight, other.weight) == (one.groups > 1)
    assert not torch.equal(given[0], expected[0])
    if not exact.task.ranked:
        torch.testing.assert_close(given[0], expected[0], atol=2e-3, rtol=0)
