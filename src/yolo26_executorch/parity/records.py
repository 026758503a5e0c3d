"""What a comparison with PyTorch yields: figures for people, failures for the exit status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ParityError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Quantity:
    """The errors of one quantity over all rows, against its tolerance."""

    name: str
    unit: str
    values: int
    """How many values were compared."""
    max: float
    mean: float
    p99: float
    """99th percentile."""
    absolute: float
    relative: float
    """The tolerance used: `absolute` + `relative` × the scale that `tolerances.MEASURES` names."""
    smallest_tolerance: float
    """The smallest `absolute` that would have passed, `relative` being as it is."""
    ratio: float
    """The worst of error ÷ tolerance; above 1 the quantity failed."""

    @property
    def passed(self) -> bool:
        """Whether every error is within its tolerance."""
        return self.ratio <= 1

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Agreement:
    """What the figures mean for the task. A row is a detection, or an image that is classified."""

    rows: int
    matched: int
    """Rows with a reference prediction of their own within every tolerance (classify: whose top-5 are the same)."""
    classes_equal: int
    """Rows whose class is the reference's (classify: the top-1)."""
    near_ties: int
    """Matched rows that stand at another rank than in the reference (classify: same top-5, in another order)."""
    min_box_iou: float | None
    """Smallest IoU of a row's box with the reference's (rotated: Ultralytics' ProbIoU, whose best is just below 1)."""
    min_mask_iou: float | None
    """Smallest IoU of a row's mask with the reference's, at a quarter of the input's resolution or at the input's own,
    whichever is less."""
    mask_pixels_differing: float | None
    """Pixels that differ ÷ pixels that are in either mask, over all masks."""


@dataclass(frozen=True)
class Item:
    """One row beside the prediction of PyTorch's that it stands for; or an image that is classified, as a whole."""

    image: int
    """Which image of the batch."""
    row: int | None
    """Which row of the image; None for a prediction of PyTorch's that has no row."""
    label: int | None
    """PyTorch's class; None for a row that stands for no prediction of PyTorch's."""
    confidence: float | None
    """PyTorch's confidence in that class."""
    row_confidence: float | None
    """The row's own confidence."""
    box: tuple[float, ...] | None
    """PyTorch's box: x, y, w, h in pixels of the network's input; None for an image that is classified."""
    matched: bool
    """Whether they agree within every tolerance, masks aside (classify: whether the top-1 is the same)."""
    class_equal: bool
    box_iou: float | None
    mask_iou: float | None
    """At a quarter of the input's resolution or at the input's own, whichever is less."""
    errors: Mapping[str, float]
    """The largest error by quantity."""
    ratios: Mapping[str, float]
    """The worst of error ÷ tolerance by quantity."""


@dataclass(frozen=True)
class ParityReport:
    """The outcome of one comparison."""

    quantities: tuple[Quantity, ...]
    agreement: Agreement | None
    """None where names and shapes left nothing to compare."""
    failures: tuple[str, ...]
    items: tuple[Item, ...] = field(default=(), repr=False, compare=False)
    """What was compared, one by one."""
    errors: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    """By quantity, every error that its figures are made of, flat."""

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def largest(self) -> Quantity | None:
        """The quantity that comes closest to its tolerance, or exceeds it most."""
        return max(self.quantities, key=lambda quantity: quantity.ratio, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data for the manifest and the report."""
        return {
            "passed": self.passed,
            "failures": list(self.failures),
            "agreement": asdict(self.agreement) if self.agreement else None,
            "quantities": [quantity.to_json() for quantity in self.quantities],
        }

    def require(self) -> None:
        """Raise ParityError, in one line, unless everything passed."""
        if self.failures:
            raise ParityError(in_words(self.failures))


def in_words(failures: Sequence[str]) -> str:
    """Say in one line that outputs differ: the first failure, and how many more there are."""
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"outputs differ from PyTorch's: {failures[0]}{more}"
