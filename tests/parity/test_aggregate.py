from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from yolo26_executorch.parity.aggregate import CONFIDENT, Aggregate, Confident, Figures
from yolo26_executorch.parity.records import Agreement, Item, ParityReport, Quantity

NAMES = {0: "person", 1: "bus"}
ITEM = Item(
    image=0, row=0, label=0, confidence=0.9, row_confidence=0.9, box=(10.0, 20.0, 4.0, 4.0), matched=True,
    class_equal=True, box_iou=0.99, mask_iou=None, errors={"box_px": 0.01}, ratios={"box_px": 0.5},
)  # fmt: skip


def item(**changes: Any) -> Item:
    return Item(**{**vars(ITEM), **changes})


def report(errors: Tensor, *items: Item, tolerance: float = 1.0, **agreement: Any) -> ParityReport:
    """The report of one picture whose boxes are off by `errors`."""
    quantity = Quantity(
        "box_px", "px", len(errors), float(errors.max()), float(errors.mean()), 0.0, tolerance, 0.0,
        float(errors.max()), float(errors.max()) / tolerance,
    )  # fmt: skip
    counts: dict[str, Any] = {
        "rows": len(errors), "matched": len(errors), "classes_equal": len(errors), "near_ties": 0,
        "min_box_iou": 0.9, "min_mask_iou": None, "mask_pixels_differing": None,
    }  # fmt: skip
    return ParityReport((quantity,), Agreement(**{**counts, **agreement}), (), items, {"box_px": errors})


def total(**reports: ParityReport) -> Figures:
    totals = Aggregate(NAMES)
    for picture, one in reports.items():
        totals.add(picture, one)
    return totals.figures()


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e4])
def test_figures_are_those_of_all_errors_together(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(count, generator=generator) * scale for count in (7, 1000, 300, 64)]
    figures = total(**{f"p{n}": report(part) for n, part in enumerate(parts)})
    [quantity] = figures.quantities
    everything = torch.cat(parts)
    assert quantity.values == len(everything)
    assert quantity.max == float(everything.max())
    assert quantity.mean == pytest.approx(float(everything.mean()), rel=1e-5)
    assert quantity.p99 == pytest.approx(float(everything.kthvalue(-(-99 * len(everything) // 100)).values), rel=0.02)


def test_percentiles_of_no_error_and_of_wild_errors() -> None:
    [quantity] = total(one=report(torch.zeros(300)), two=report(torch.zeros(5))).quantities
    assert (quantity.max, quantity.mean, quantity.p99) == (0, 0, 0)
    [quantity] = total(one=report(torch.tensor([0.0] * 50 + [1e30] * 50))).quantities
    assert quantity.p99 <= quantity.max == pytest.approx(1e30)
    # One wild error in a thousand does not move it.
    [quantity] = total(one=report(torch.tensor([0.5] * 999 + [100.0]))).quantities
    assert (quantity.max, quantity.p99) == (100, pytest.approx(0.5, rel=0.02))


def test_the_widest_tolerance_and_the_worst_ratio_are_told() -> None:
    [quantity] = total(
        wide=report(torch.tensor([4.0]), tolerance=8.0), narrow=report(torch.tensor([2.0]), tolerance=1.0)
    ).quantities
    assert (quantity.max, quantity.absolute, quantity.ratio, quantity.passed) == (4, 8, 2, False)


def test_the_worst_object_is_the_farthest_out_of_tolerance() -> None:
    small = item(label=1, confidence=0.3, errors={"box_px": 0.2}, ratios={"box_px": 2.0})
    large = item(errors={"box_px": 0.3}, ratios={"box_px": 1.0})
    figures = total(
        a=report(torch.tensor([0.1]), ITEM),
        b=report(torch.tensor([0.3, 0.2]), large, small, tolerance=0.1),
        c=report(torch.tensor([0.1]), ITEM),
    )
    worst = figures.worst["box_px"]
    assert (worst.picture, worst.label, worst.name, worst.value, worst.confidence) == ("b", 1, "bus", 0.2, 0.3)
    # A quantity of no object, such as prototypes, has a picture at least.
    worst = total(a=report(torch.tensor([0.1])), b=report(torch.tensor([0.2]))).worst["box_px"]
    assert (worst.picture, worst.value, worst.label, worst.box) == ("b", pytest.approx(0.2), None, None)


def test_agreements_are_summed_up() -> None:
    figures = total(
        a=report(torch.ones(3), min_box_iou=0.5, min_mask_iou=0.7, mask_pixels_differing=0.3),
        b=report(torch.ones(5), matched=4, near_ties=2, min_box_iou=None, mask_pixels_differing=0.0),
        c=ParityReport((), None, ("outputs are none",)),
        d=report(torch.ones(2), classes_equal=1, mask_pixels_differing=0.0),
    )
    assert figures.agreement == Agreement(10, 9, 9, 2, 0.5, 0.7, pytest.approx(0.1))


def test_nothing_compared_is_nothing_told() -> None:
    assert total(a=ParityReport((), None, ("outputs are none",))) == Figures((), {}, None, Confident())


def test_confident_objects_are_counted_apart() -> None:
    found = Confident.of(
        [
            ITEM,
            item(confidence=CONFIDENT, box_iou=0.8, mask_iou=0.95, errors={"box_px": 3.0, "score": 0.1}, matched=False),
            item(row=None, row_confidence=None, matched=False, class_equal=False, box_iou=None, errors={}, ratios={}),
            item(confidence=0.2, row_confidence=0.26, errors={"box_px": 50.0}),  # it is a match, a little more sure
            item(confidence=0.01, row_confidence=0.9, matched=False, errors={"box_px": 99.0}),
            item(label=None, confidence=None, row_confidence=0.5, matched=False, errors={}),
            item(confidence=0.1, row_confidence=0.1, matched=False),
        ],
        "bus.jpg",
        NAMES,
    )
    assert (found.objects, found.matched, found.classes_equal, found.unexpected) == (3, 1, 2, 2)
    assert found.box_iou is not None and (found.box_iou.value, found.box_iou.confidence) == (0.8, CONFIDENT)
    assert found.mask_iou is not None and found.mask_iou.value == 0.95
    assert {name: where.value for name, where in found.errors.items()} == {"box_px": 3.0, "score": 0.1}
    both = found + Confident.of([item(box_iou=0.1, errors={"box_px": 1.0})], "zidane.jpg", NAMES)
    assert (both.objects, both.matched) == (4, 2)
    assert both.box_iou is not None and both.box_iou.picture == "zidane.jpg"
    assert both.errors["box_px"].picture == "bus.jpg"
