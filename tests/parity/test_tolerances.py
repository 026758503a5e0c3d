from __future__ import annotations

import pytest
import torch

from yolo26_executorch.models.options import PRECISIONS
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.parity.tolerances import MEASURES, TOLERANCES, Tolerance


def test_every_precision_limits_every_quantity() -> None:
    assert set(TOLERANCES) == set(PRECISIONS)
    for row in TOLERANCES.values():
        assert set(row) == set(MEASURES)
        assert all(tolerance.absolute > 0 and tolerance.relative >= 0 for tolerance in row.values())


def test_every_value_that_a_task_predicts_is_measured() -> None:
    assert {name for task in TASKS.values() for name in task.extra} <= set(MEASURES)


@pytest.mark.parametrize("name", list(MEASURES))
def test_coarser_arithmetic_gets_no_tighter_limits(name: str) -> None:
    fp32, tf32, bf16 = (TOLERANCES[precision][name] for precision in ("fp32", "tf32", "bf16"))
    assert fp32.absolute <= tf32.absolute <= bf16.absolute
    assert fp32.relative <= tf32.relative <= bf16.relative


def test_a_limit_is_an_absolute_part_and_one_that_grows() -> None:
    assert Tolerance(0.5, 0.01).of(torch.tensor([0.0, 100.0])).tolist() == [0.5, 1.5]


def test_scales() -> None:
    boxes = torch.tensor([[10.0, 20.0, 4.0, 6.0]])

    def scale(name: str, values: list[float]) -> list[float]:
        return MEASURES[name].scale(torch.tensor([values]), boxes)[0].tolist()

    assert scale("box_px", boxes[0].tolist()) == [6, 6, 6, 6]
    assert scale("keypoint_px", [11, 21, 9, 19]) == [6, 6, 6, 6]
    assert scale("keypoint_px", [11, 21, 30, 19]) == [20, 20, 20, 20]
    assert scale("score", [0.0, 0.5, 1.0]) == [0, 0.25, 0]
    assert scale("coefficient", [1, -3, 2]) == [3, 3, 3]
    assert scale("angle_rad", [-2]) == [2]
