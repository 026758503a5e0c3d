"""Aggregate the comparisons of many images in memory that does not grow with their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .records import Agreement, Item, ParityReport, Quantity

CONFIDENT = 0.25
"""Ultralytics' default threshold: predictions below it are not shown to anybody."""


@dataclass(frozen=True)
class Where:
    """A figure, and the object (or the image that is classified) it comes from."""

    value: float
    picture: str
    label: int | None = None
    """PyTorch's class; None where the figure belongs to no one object."""
    name: str | None = None
    """The class' name."""
    confidence: float | None = None
    """PyTorch's."""
    box: tuple[float, ...] | None = None
    """PyTorch's: x, y, w, h in pixels of the network's input."""


@dataclass(frozen=True)
class Confident:
    """What became of the objects that PyTorch is sure of: with a confidence of `CONFIDENT` or more.

    Images that are classified count as objects, by the probability of their top-1.
    """

    objects: int = 0
    matched: int = 0
    """Objects for which the exported model has a row within every tolerance (classify: with the same top-1)."""
    classes_equal: int = 0
    """Objects whose row, the nearest where none matches, has the same class."""
    unexpected: int = 0
    """Rows with such a confidence that match nothing of PyTorch's."""
    box_iou: Where | None = None
    """The smallest."""
    mask_iou: Where | None = None
    """The smallest."""
    errors: Mapping[str, Where] = field(default_factory=dict)
    """The largest by quantity, in its unit."""

    @classmethod
    def of(cls, items: Iterable[Item], picture: str, names: Mapping[int, str]) -> Confident:
        """Count an image's objects."""
        total = cls()
        for item in items:
            if _sure(item.confidence):
                total += cls(
                    1, int(item.matched), int(item.class_equal), 0,
                    None if item.box_iou is None else _where(item.box_iou, item, picture, names),
                    None if item.mask_iou is None else _where(item.mask_iou, item, picture, names),
                    {name: _where(error, item, picture, names) for name, error in item.errors.items()},
                )  # fmt: skip
            elif _sure(item.row_confidence) and not item.matched:
                total += cls(unexpected=1)
        return total

    def __add__(self, other: Confident) -> Confident:
        """Sum up two counts and keep the worse of their figures."""
        quantities = dict.fromkeys((*self.errors, *other.errors))
        return Confident(
            self.objects + other.objects,
            self.matched + other.matched,
            self.classes_equal + other.classes_equal,
            self.unexpected + other.unexpected,
            _worse(min, self.box_iou, other.box_iou),
            _worse(min, self.mask_iou, other.mask_iou),
            {name: _worse(max, self.errors.get(name), other.errors.get(name)) for name in quantities},  # type: ignore[misc]
        )


@dataclass(frozen=True)
class Figures:
    """What all images together gave, against one reference."""

    quantities: tuple[Quantity, ...]
    """Over all rows of all images. `p99` is exact to 1 %; the tolerances are the largest that were used: those of the
    reduced precisions follow what rounding does to an image in PyTorch itself."""
    worst: Mapping[str, Where]
    """By quantity, the object whose error ÷ tolerance is the largest; the value is that error."""
    agreement: Agreement | None
    """Sums and minima; `mask_pixels_differing` is the mean of the images'."""
    confident: Confident

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "quantities": [
                {
                    **quantity.to_json(),
                    "worst": asdict(self.worst[quantity.name]) if quantity.name in self.worst else None,
                }
                for quantity in self.quantities
            ],
            "agreement": asdict(self.agreement) if self.agreement else None,
            "confident": asdict(self.confident),
        }


class Aggregate:
    """Aggregates reports; holds figures only, never what was compared."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._quantities: dict[str, _Sum] = {}
        self._worst: dict[str, tuple[float, Where]] = {}
        self._agreements: list[tuple[Agreement, int]] = []
        self._confident = Confident()

    def add(self, picture: str, report: ParityReport) -> Confident:
        """Take in one image's report; returns what became of its confident objects."""
        for quantity in report.quantities:
            self._quantities.setdefault(quantity.name, _Sum()).add(quantity, report.errors[quantity.name])
            self._look_for_worst(picture, quantity, report.items)
        if report.agreement:
            self._agreements = [_added([*self._agreements, (report.agreement, 1)])]
        confident = Confident.of(report.items, picture, self._names)
        self._confident += confident
        return confident

    def figures(self) -> Figures:
        """Return what was added up."""
        return Figures(
            tuple(total.quantity() for total in self._quantities.values()),
            {name: where for name, (_, where) in self._worst.items()},
            self._agreements[0][0] if self._agreements else None,
            self._confident,
        )

    def _look_for_worst(self, picture: str, quantity: Quantity, items: Iterable[Item]) -> None:
        name = quantity.name
        if name in self._worst and quantity.ratio <= self._worst[name][0]:
            return
        item = max((item for item in items if name in item.ratios), key=lambda item: item.ratios[name], default=None)
        where = _where(item.errors[name], item, picture, self._names) if item else Where(quantity.max, picture)
        self._worst[name] = quantity.ratio, where


class _Sum:
    """One quantity over many images: extremes, a sum, and a histogram for the percentile."""

    # Bins between 2^-40 and 2^24 that are 1/64 of an octave, or 1.1 %, wide; the first also holds everything smaller.
    _BINS, _AN_OCTAVE, _LOWEST = 64 * 64, 64, -40

    def __init__(self) -> None:
        self._last: Quantity | None = None
        self._sum = 0.0
        self._counts = torch.zeros(self._BINS, dtype=torch.int64)

    def add(self, quantity: Quantity, errors: Tensor) -> None:
        """Take in an image's figures and the errors that they are made of."""
        self._sum += float(errors.double().sum())
        bins = ((errors.double().log2() - self._LOWEST) * self._AN_OCTAVE).floor().clamp(0, self._BINS - 1)
        self._counts += torch.bincount(bins.long(), minlength=self._BINS)
        last = self._last or quantity
        self._last = replace(
            quantity,
            **{
                name: max(getattr(last, name), getattr(quantity, name))
                for name in ("max", "absolute", "relative", "smallest_tolerance", "ratio")
            },
        )

    def quantity(self) -> Quantity:
        """Return the figures so far."""
        assert self._last is not None
        values = int(self._counts.sum())
        at = int((self._counts.cumsum(0) < math.ceil(0.99 * values)).sum())
        p99 = 2.0 ** ((at + 1) / self._AN_OCTAVE + self._LOWEST) if at else 0.0
        return replace(self._last, values=values, mean=self._sum / values, p99=min(p99, self._last.max))


def _added(agreements: list[tuple[Agreement, int]]) -> tuple[Agreement, int]:
    """Sum up agreements, each with the number of images that it stands for."""
    found = [agreement for agreement, _ in agreements]
    pictures = sum(count for _, count in agreements)
    shares = [(a.mask_pixels_differing, count) for a, count in agreements if a.mask_pixels_differing is not None]
    total = Agreement(
        rows=sum(one.rows for one in found),
        matched=sum(one.matched for one in found),
        classes_equal=sum(one.classes_equal for one in found),
        near_ties=sum(one.near_ties for one in found),
        min_box_iou=min((one.min_box_iou for one in found if one.min_box_iou is not None), default=None),
        min_mask_iou=min((one.min_mask_iou for one in found if one.min_mask_iou is not None), default=None),
        mask_pixels_differing=sum(share * count for share, count in shares) / pictures if shares else None,
    )
    return total, pictures


def _sure(confidence: float | None) -> bool:
    return confidence is not None and confidence >= CONFIDENT


def _where(value: float, item: Item, picture: str, names: Mapping[int, str]) -> Where:
    name = None if item.label is None else names.get(item.label)
    return Where(value, picture, item.label, name, item.confidence, item.box)


def _worse(choose: Callable[..., Where], *found: Where | None) -> Where | None:
    return choose((one for one in found if one is not None), key=lambda one: one.value, default=None)
