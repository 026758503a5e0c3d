"""How far two models' results agree, image by image: an artifact's and PyTorch's, as `predict` gives them.

Metrics of a data set hardly move where every mask's edge is a little wrong; what is compared here does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .results import boxes_of

if TYPE_CHECKING:
    from ultralytics.engine.results import Results

CONFIDENCE = 0.25
"""Objects below it, Ultralytics' own default, need no partner."""

MARGIN = 0.05
"""How far below `CONFIDENCE` a partner may lie: rounding moves confidences over any threshold."""

_SAME_OBJECT = 0.5
"""IoU of boxes of one class from which they can be the same object."""


@dataclass(frozen=True)
class Limits:
    """What counts as agreement."""

    unmatched: float
    """Share of the objects that may be in one result alone."""
    mask_iou: float
    """Least mean IoU of masks."""
    box_px: float
    """Largest mean distance of the boxes' edges, pixels of the network's input."""
    confidence: float
    """Largest mean difference of confidences; for classify of all probabilities."""
    pixels: float
    """Least mean share of an image's pixels that are of the same class."""
    depth: float
    """Largest mean, over the images, of the worst pixel's relative error."""


LIMITS = {
    "fp32": Limits(unmatched=0.002, mask_iou=0.999, box_px=0.1, confidence=0.001, pixels=0.999, depth=0.005),
    "tf32": Limits(unmatched=0.02, mask_iou=0.995, box_px=0.5, confidence=0.01, pixels=0.99, depth=0.04),
    "fp16": Limits(unmatched=0.02, mask_iou=0.995, box_px=0.5, confidence=0.01, pixels=0.99, depth=0.04),
    "bf16": Limits(unmatched=0.1, mask_iou=0.96, box_px=2, confidence=0.05, pixels=0.96, depth=0.25),
    "int8": Limits(unmatched=0.2, mask_iou=0.9, box_px=4, confidence=0.1, pixels=0.9, depth=0.5),
}
"""By the precision that the artifact computes in. Of maps (PyTorch on a CPU, see `parity.tolerances`) 0.1 % of a
trained model's pixels were of another class in tf32 and fp16 and 0.7 % in bf16, and its worst depth was off by 1.6 and
8 %; of int8 nothing was measured."""


@dataclass(frozen=True)
class Spread:
    """A quantity over all matched objects."""

    mean: float
    worst: float

    @classmethod
    def of(cls, values: list[float], worst: Any) -> Spread | None:
        """Return None where there are no values; `worst` is `min` or `max`."""
        return cls(math.fsum(values) / len(values), worst(values)) if values else None


@dataclass(frozen=True)
class Agreement:
    """What two models found in the same images."""

    images: int
    objects: int
    """Of confidence `CONFIDENCE` or more in PyTorch's results; for classify the images, for maps none."""
    missing: int
    """Of those, what the artifact's results lack; for classify images with another likeliest class."""
    extra: int
    """Objects of confidence `CONFIDENCE` or more in the artifact's results that PyTorch's lack."""
    confidence: Spread | None
    """Difference of confidences, or of all probabilities."""
    box_px: Spread | None
    """Largest distance of corners along an axis (rotated boxes: of all four corners), pixels of the network's input."""
    mask_iou: Spread | None
    """IoU of masks at the resolution that `predict` gives them in."""
    keypoint_px: Spread | None
    """Largest distance of visible keypoints along an axis, pixels of the network's input."""
    pixels: Spread | None = None
    """Share of an image's pixels that are of the same class."""
    depth_m: Spread | None = None
    """Mean error of an image's depths, metres."""
    depth_relative: Spread | None = None
    """Largest error of an image's depths, each divided by PyTorch's depth."""

    @property
    def unmatched(self) -> float:
        """The share of objects that are in one result alone, 0..1."""
        return (self.missing + self.extra) / max(1, 2 * self.objects - self.missing + self.extra)

    def failures(self, precision: str) -> list[str]:
        """Return in words what lies outside the limits of a precision; empty where all agree."""
        limits = LIMITS[precision]
        found = []
        if self.unmatched > limits.unmatched:
            found.append(f"{self.unmatched:.1%} of the objects are in one result alone (limit {limits.unmatched:.1%})")
        if self.mask_iou is not None and not self.mask_iou.mean >= limits.mask_iou:
            found.append(f"the masks' mean IoU is {self.mask_iou.mean:.4f} (limit {limits.mask_iou:g})")
        distances = (("boxes", self.box_px), ("keypoints", self.keypoint_px))
        for name, spread in distances:
            if spread is not None and not spread.mean <= limits.box_px:
                found.append(f"the {name} lie {spread.mean:.2f} px apart on average (limit {limits.box_px:g})")
        if self.confidence is not None and not self.confidence.mean <= limits.confidence:
            found.append(f"confidences differ by {self.confidence.mean:.4f} on average (limit {limits.confidence:g})")
        if self.pixels is not None and not self.pixels.mean >= limits.pixels:
            found.append(f"{self.pixels.mean:.2%} of the pixels are of the same class (limit {limits.pixels:.1%})")
        if self.depth_relative is not None and not self.depth_relative.mean <= limits.depth:
            found.append(
                f"an image's worst depth is off by {self.depth_relative.mean:.2%} on average (limit {limits.depth:.1%})"
            )
        return found


@dataclass
class Tally:
    """Gathers what `Agreement` holds, image by image."""

    kind: str
    """Of the results, `Task.kind`."""
    imgsz: tuple[int, int]
    """Height and width of the network's input, pixels."""
    images: int = 0
    objects: int = 0
    missing: int = 0
    extra: int = 0
    confidence: list[float] = field(default_factory=list)
    box_px: list[float] = field(default_factory=list)
    mask_iou: list[float] = field(default_factory=list)
    keypoint_px: list[float] = field(default_factory=list)
    pixels: list[float] = field(default_factory=list)
    depth_m: list[float] = field(default_factory=list)
    depth_relative: list[float] = field(default_factory=list)

    def add(self, ours: Results, theirs: Results) -> None:
        """Compare an image's results; those of rankings were made with the confidence `CONFIDENCE - MARGIN`."""
        self.images += 1
        _ADD[self.kind](self, ours, theirs)

    def add_probabilities(self, ours: Results, theirs: Results) -> None:
        """Compare class probabilities."""
        self.objects += 1
        self.missing += int(ours.probs.top1 != theirs.probs.top1)
        self.confidence.append(float((_host(ours.probs.data) - _host(theirs.probs.data)).abs().max()))

    def add_class_maps(self, ours: Results, theirs: Results) -> None:
        """Compare the classes of an image's pixels."""
        same = _host(ours.semantic_mask.data) == _host(theirs.semantic_mask.data)
        self.pixels.append(float(same.double().mean()))

    def add_depth_maps(self, ours: Results, theirs: Results) -> None:
        """Compare an image's depths; one that is no number is off by all of itself."""
        given, expected = _host(ours.depth.data), _host(theirs.depth.data)
        error = (given - expected).abs().where(given.isfinite(), expected)
        self.depth_m.append(float(error.double().mean()))
        self.depth_relative.append(float((error / expected).max()))

    def add_rankings(self, ours: Results, theirs: Results) -> None:
        """Compare objects: what each becomes in the other result, and how far it lies from that."""
        own, other = (boxes_of(result) for result in (ours, theirs))
        pairs = list(match(ours, theirs))
        mine, beside = {i for i, _ in pairs}, {j for _, j in pairs}
        sure_own, sure_other = (_host(boxes.conf) >= CONFIDENCE for boxes in (own, other))
        self.objects += int(sure_other.sum())
        self.missing += sum(bool(sure) and j not in beside for j, sure in enumerate(sure_other))
        self.extra += sum(bool(sure) and i not in mine for i, sure in enumerate(sure_own))
        if not pairs:
            return
        i, j = (torch.tensor(side) for side in zip(*pairs, strict=True))
        scale = min(size / side for size, side in zip(self.imgsz, theirs.orig_shape, strict=True))
        self.confidence += (_host(own.conf)[i] - _host(other.conf)[j]).abs().tolist()
        corners, expected = (
            _host(boxes.xyxy.view(-1, 2, 2) if theirs.obb is None else boxes.xyxyxyxy) for boxes in (own, other)
        )
        # A rotated box's first corner is another one on either side of an angle.
        turns = range(corners.shape[1]) if theirs.obb is not None else (0,)
        apart = torch.stack([(corners[i].roll(turn, 1) - expected[j]).abs().flatten(1).amax(1) for turn in turns])
        self.box_px += (scale * apart.amin(0)).tolist()
        if theirs.masks is not None:
            self.mask_iou += mask_iou(ours.masks.data[i.to(ours.masks.data.device)], theirs.masks.data[j]).tolist()
        if theirs.keypoints is not None:
            points, wanted = _host(ours.keypoints.data)[i], _host(theirs.keypoints.data)[j]
            apart = (points[..., :2] - wanted[..., :2]).abs().amax(-1)
            if wanted.shape[-1] > 2:
                apart = apart * (wanted[..., 2] >= 0.5)
            self.keypoint_px += (scale * apart.amax(1)).tolist()

    def agreement(self) -> Agreement:
        """Return what was gathered."""
        return Agreement(
            self.images, self.objects, self.missing, self.extra, Spread.of(self.confidence, max),
            Spread.of(self.box_px, max), Spread.of(self.mask_iou, min), Spread.of(self.keypoint_px, max),
            Spread.of(self.pixels, min), Spread.of(self.depth_m, max), Spread.of(self.depth_relative, max),
        )  # fmt: skip


_ADD: dict[str, Callable[[Tally, Results, Results], None]] = {
    "rankings": Tally.add_rankings,
    "probabilities": Tally.add_probabilities,
    "class_map": Tally.add_class_maps,
    "depth_map": Tally.add_depth_maps,
}
"""By `Task.kind`."""


def compare(kind: str, pairs: Iterable[tuple[Results, Results]], imgsz: tuple[int, int]) -> Agreement:
    """Compare an artifact's results, of a `Task.kind`, with PyTorch's for the same images, in this order."""
    tally = Tally(kind, imgsz)
    for ours, theirs in pairs:
        tally.add(ours, theirs)
    return tally.agreement()


def match(ours: Results, theirs: Results) -> Iterator[tuple[int, int]]:
    """Yield the indices of the objects that are the same in both results: of one class, and the best IoU in all."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    own, other = (boxes_of(result) for result in (ours, theirs))
    if not len(own) or not len(other):
        return
    iou = _box_iou(own, other) * (_host(own.cls)[:, None] == _host(other.cls))
    iou = iou.nan_to_num(0) * (iou >= _SAME_OBJECT)
    for i, j in zip(*linear_sum_assignment(-iou.numpy()), strict=True):
        if iou[i, j] > 0:
            yield int(i), int(j)


def mask_iou(masks: Tensor, others: Tensor) -> Tensor:
    """Return the IoU of masks (N, H, W), each with the other of its index; 1 for two empty ones, float32 (N,)."""
    one, two = masks > 0, others.to(masks.device) > 0
    if not len(one):
        return torch.ones(0)
    parts = [
        torch.stack([(a & b).sum((1, 2)), (a | b).sum((1, 2))])
        for a, b in zip(torch.split(one, 64), torch.split(two, 64), strict=True)
    ]
    shared, either = torch.cat(parts, 1).float().cpu()
    return torch.where(either > 0, shared / either.clamp(min=1), 1.0)


def _box_iou(own: Any, other: Any) -> Tensor:
    """Return the IoU of all pairs of boxes, (N, M); for rotated ones the probabilistic one."""
    from ultralytics.utils.metrics import batch_probiou, box_iou

    if hasattr(own, "xywhr"):
        iou: Tensor = batch_probiou(_host(own.xywhr), _host(other.xywhr))
        return iou
    iou = box_iou(_host(own.xyxy), _host(other.xyxy))
    return iou


def _host(values: Tensor) -> Tensor:
    return values.detach().cpu().float()
