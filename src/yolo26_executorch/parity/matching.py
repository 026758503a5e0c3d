"""Match the rows of a ranking with the predictions they stand for, as sets.

Kernels that round differently swap rows whose confidences (nearly) tie, and at the last rank swap one prediction for
another; so a row is never compared with the row of the same number. It gets a prediction of its own among all (anchor,
class) entries that the reference had before its ranking, and the reference's clear winners must all be there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.export_model import Dense
from ..models.tasks import Task, TensorSpec
from .masks import CHUNK, compare_masks
from .tolerances import MEASURES, Tolerance

_FORBIDDEN = 1e7
"""Cost of a pair that may not be: more than all others together."""


@dataclass(frozen=True)
class Rows:
    """One image's rows of the candidate; boxes are x, y, w, h."""

    boxes: Tensor  # (K, 4)
    scores: Tensor  # (K,)
    labels: Tensor  # (K,) float32
    extra: (
        Tensor | None
    )  # (K, E); None where masks alone stand for the coefficients, as in artifacts made before they were outputs
    masks: Tensor | None  # uint8 (K, H/4, W/4)
    protos: Tensor | None = None  # (E, H/4, W/4)

    @property
    def finite(self) -> Tensor:
        """Which rows hold only numbers, bool (K,)."""
        extra = [] if self.extra is None else [self.extra]
        return torch.cat([self.boxes, self.scores[:, None], self.labels[:, None], *extra], 1).isfinite().all(1)


@dataclass(frozen=True)
class Entries:
    """One image's predictions by the reference; boxes are x, y, w, h. Entry number = anchor × classes + class."""

    boxes: Tensor  # (A, 4)
    scores: Tensor  # (A, C)
    extra: Tensor  # (A, E)
    columns: Mapping[str, list[int]]  # the extra values' columns by quantity
    protos: Tensor | None  # (E, H/4, W/4)

    def split(self, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Return the anchor and the class of each entry."""
        return entry // self.scores.shape[1], entry % self.scores.shape[1]

    def has_class(self, labels: Tensor) -> Tensor:
        """Which labels are a class's number, bool of the same shape."""
        return (labels == labels.round()) & (labels >= 0) & (labels < self.scores.shape[1])


@dataclass(frozen=True)
class Pairing:
    """Which entry each row of an image stands for."""

    entry: Tensor
    """int64 (K,): the row's own entry; -1 for rows with values that are no numbers."""
    matched: Tensor
    """bool (K,): whether row and entry agree within every tolerance. Where not, the pair is there for its figures."""
    ranked: Tensor
    """int64 (K,): the entries in the reference's order."""
    missing: Tensor
    """int64: entries that must be among the rows and are not."""


def rows_of(specs: Sequence[TensorSpec], outputs: Mapping[str, Tensor]) -> list[Rows]:
    """Read either output format by the names of its columns; returns an image's rows each, [] without the rows."""
    spec = next(spec for spec in specs if "confidence" in spec.columns)
    if spec.name not in outputs:
        return []
    values = outputs[spec.name]
    column = {name: values[..., index] for index, name in enumerate(spec.columns)}
    if "x1" in column:
        boxes = centred(torch.stack([column[name] for name in ("x1", "y1", "x2", "y2")], -1))
    else:
        boxes = torch.stack([column[name] for name in ("x", "y", "w", "h")], -1)
    extra = None
    if "angle" in column:
        extra = column["angle"][..., None]
    elif values.shape[-1] > len(spec.columns):
        extra = values[..., len(spec.columns) :]
    elif spare := next((name for name in ("keypoints", "coefficients") if name in outputs), None):
        extra = outputs[spare].flatten(2)
    masks, protos = outputs.get("masks"), outputs.get("protos")
    return [
        Rows(
            boxes[image],
            column["confidence"][image],
            column["class_id"][image],
            None if extra is None else extra[image],
            None if masks is None else masks[image],
            None if protos is None else protos[image],
        )
        for image in range(len(values))
    ]


def entries_of(task: Task, dense: Dense, keypoint_shape: tuple[int, int] | None) -> list[Entries]:
    """Return each image's predictions; `keypoint_shape` is (keypoints, values) for a model that has keypoints."""
    # Keypoints without visibility have the first two of the task's three quantities.
    cycle = itertools.cycle(task.extra[: keypoint_shape[1]] if keypoint_shape else task.extra)
    columns: dict[str, list[int]] = {}
    for index, name in enumerate(itertools.islice(cycle, dense.extra.shape[-1])):
        columns.setdefault(name, []).append(index)
    boxes, scores, extra = (value.detach().cpu() for value in (dense.boxes, dense.scores, dense.extra))
    boxes = boxes if task.rotated else centred(boxes)
    protos = None if dense.protos is None else dense.protos.detach().cpu()
    return [
        Entries(boxes[image], scores[image], extra[image], columns, None if protos is None else protos[image])
        for image in range(len(boxes))
    ]


def centred(corners: Tensor) -> Tensor:
    """Turn corners (…, 4) into center and size, by the model's own arithmetic."""
    top_left, bottom_right = corners[..., :2], corners[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def pair(rows: Rows, entries: Entries, tolerances: Mapping[str, Tolerance]) -> Pairing:
    """Give each row an entry of its own.

    As many rows as can be get one within every tolerance; among those pairings, one that covers the most of the entries
    that must be there; among those, the one with the smallest errors. The other rows get the nearest of what is left,
    so that their errors can be told.
    """
    k = len(rows.scores)
    best, ranked = entries.scores.flatten().topk(k)
    # What the candidate left out cannot, by its own scores, be above the rows that it kept.
    allowed = tolerances["score"].of(MEASURES["score"].scale(best, best))
    due = ranked[best - allowed > rows.scores.nan_to_num(0).min()]

    entry = torch.full((k,), -1)
    matched = torch.zeros(k, dtype=torch.bool)
    row, near, cost = _near(rows, entries, tolerances)
    if len(row):
        some_rows, row = torch.unique(row, return_inverse=True)
        some, near = torch.unique(near, return_inverse=True)
        # The three aims by weight: a cost is at most 1, and there are at most 300 rows.
        costs = torch.full((len(some_rows), len(some)), _FORBIDDEN, dtype=torch.float64)
        costs[row, near] = cost.double() - 1e3 * torch.isin(some[near], due)
        i, j = _assign(costs)
        kept = costs[i, j] < _FORBIDDEN / 2
        entry[some_rows[i[kept]]] = some[j[kept]]
        matched[some_rows[i[kept]]] = True
    missing = due[~torch.isin(due, entry)]

    rest = (~matched & rows.finite).nonzero().flatten()
    if len(rest):
        # What is left of the ranking is enough for everyone; the nearest of each row's class may rank below it.
        unused = torch.unique(torch.cat([ranked, _nearest(rows, entries, rest)]))
        unused = unused[~torch.isin(unused, entry)]
        anchor, label = entries.split(unused)
        costs = _distance(rows, rest, entries.boxes[anchor], entries.scores[anchor, label, None])
        i, j = _assign(costs.T + (rows.labels[rest, None] != label))
        entry[rest[i]] = unused[j]
    return Pairing(entry, matched, ranked, missing)


def _near(rows: Rows, entries: Entries, tolerances: Mapping[str, Tolerance]) -> tuple[Tensor, Tensor, Tensor]:
    """Return every (row, entry) that agree within all tolerances, with the worst of error ÷ tolerance, each (P,)."""

    def limit(name: str, values: Tensor) -> Tensor:
        return tolerances[name].of(MEASURES[name].scale(values, entries.boxes))

    usable = (rows.finite & entries.has_class(rows.labels)).nonzero().flatten()
    box_limit, score_limit = limit("box_px", entries.boxes), limit("score", entries.scores)
    extra_limit = torch.ones_like(entries.extra)
    for name, columns in entries.columns.items():
        extra_limit[:, columns] = limit(name, entries.extra[:, columns])
    found = [(usable[:0], usable[:0], torch.empty(0))]
    for row in torch.split(usable, max(1, CHUNK // len(entries.boxes))):
        label = rows.labels[row].long()
        cost = (entries.scores[:, label] - rows.scores[row]).abs() / score_limit[:, label]
        for axis in range(4):
            error = (entries.boxes[:, axis, None] - rows.boxes[row, axis]).abs() / box_limit[:, axis, None]
            cost = torch.maximum(cost, error)
        anchor, at = (cost <= 1).nonzero(as_tuple=True)
        cost = cost[anchor, at]
        if rows.extra is not None:
            error = (entries.extra[anchor] - rows.extra[row[at]]).abs() / extra_limit[anchor]
            cost = torch.cat([cost[:, None], error], 1).amax(1)
        kept = cost <= 1
        found.append((row[at][kept], (anchor * entries.scores.shape[1] + label[at])[kept], cost[kept]))
    row, entry, cost = (torch.cat(parts) for parts in zip(*found, strict=True))
    if rows.masks is not None and entries.protos is not None:
        # Masks cannot refuse a pair, since they have a failure of their own, but they say which of several is meant.
        several = torch.bincount(row, minlength=len(rows.scores))[row] > 1
        at, (anchor, _) = row[several], entries.split(entry[several])
        masks = compare_masks(
            rows.masks[at], rows.boxes[at], entries.boxes[anchor], entries.extra[anchor], entries.protos
        )
        cost[several] = (cost[several] + (masks.error / tolerances["mask_iou"].absolute).clamp(max=1)) / 2
    return row, entry, cost


def _nearest(rows: Rows, entries: Entries, some: Tensor) -> Tensor:
    """Return the nearest entry of the same class for some rows, (N,), the first class's where a row has none."""
    found = [some[:0]]
    for row in torch.split(some, max(1, CHUNK // len(entries.boxes))):
        label = torch.where(entries.has_class(rows.labels[row]), rows.labels[row], 0).long()
        anchor = _distance(rows, row, entries.boxes, entries.scores[:, label]).argmin(0)
        found.append(anchor * entries.scores.shape[1] + label)
    return torch.cat(found)


def _distance(rows: Rows, some: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """Return a rough distance of boxes (M, 4) and scores (M, N or 1) from some rows, (M, N); 1 is another object."""
    apart = torch.cdist(boxes.double(), rows.boxes[some].double(), p=1) / (1 + boxes[:, 2:].abs().amax(1, keepdim=True))
    return apart + 4 * (scores - rows.scores[some]).abs()


def _assign(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and the columns of the cheapest assignment."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    row, column = linear_sum_assignment(costs.numpy())
    return torch.from_numpy(row), torch.from_numpy(column)
