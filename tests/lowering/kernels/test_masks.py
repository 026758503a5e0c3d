from __future__ import annotations

import pytest
import torch

from support import interpreter
from support.interpreter import Interpreter
from yolo26_executorch.lowering.kernels.masks import masks
from yolo26_executorch.models.export_model import aten_masks


@pytest.mark.parametrize(
    ("count", "height", "width", "channels"), [(70, 12, 30, 32), (3, 5, 7, 3), (64, 16, 16, 16), (1, 1, 1, 40)]
)
def test_the_kernel_assembles_and_crops(
    interpret: Interpreter, count: int, height: int, width: int, channels: int
) -> None:
    """Small whole numbers, whose products are exact; boxes with corners on, between and beyond the pixels."""
    generator = torch.Generator().manual_seed(count)
    coefficients, protos = (
        torch.randint(-3, 4, shape, generator=generator).float()
        for shape in ((2, count, channels), (2, height, width, channels))
    )
    corners = torch.randint(-8, 4 * width + 8, (2, count, 2, 2), generator=generator) * 0.5
    boxes = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
    given = interpret(interpreter.masks, coefficients.numpy(), protos.numpy(), boxes.numpy(), "ieee")
    expected = aten_masks(coefficients, protos.permute(0, 3, 1, 2), boxes)
    assert torch.equal(torch.from_numpy(given), expected)
    assert torch.equal(masks(coefficients, protos.permute(0, 3, 1, 2), boxes, "ieee"), expected)
    if count > 3:
        assert 0 < int(expected.sum()) < expected.numel()


def test_a_logit_that_is_no_number_is_outside(interpret: Interpreter) -> None:
    coefficients, protos = torch.full((1, 2, 16), float("nan")), torch.ones((1, 4, 4, 16))
    boxes = torch.tensor([[[0.0, 0.0, 16.0, 16.0]] * 2])
    assert not interpret(interpreter.masks, coefficients.numpy(), protos.numpy(), boxes.numpy(), "ieee").any()
