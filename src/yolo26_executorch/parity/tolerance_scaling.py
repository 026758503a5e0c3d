"""How far PyTorch itself is off in a reduced precision, and the tolerances that follow from it.

The tolerances of `tolerances` hold for well-behaved weights. A network that amplifies rounding errors is farther from
float32 in PyTorch, too, and an exported model cannot be asked to be nearer than PyTorch is. So each tolerance is scaled
up where PyTorch's own error, on the same input, is larger; by `MAX_SCALE` at most, beyond which little would be tested.

In tf32 PyTorch's error says less than it seems: cuDNN is free to multiply in float32 after all, and does so for many
small layers. What rounding costs is seen where every operand is rounded (`round_operands`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..models.export_model import Dense
from ..models.tasks import MAX_DETECTIONS, Task
from .matching import Entries, entries_of
from .tolerances import MEASURES, TOLERANCES, Tolerance

MARGIN = 3.0
"""An exported model's error may be so many times PyTorch's: both are off from float32, on either side, and the largest
of a few hundred errors varies from one kernel to the next."""

MAX_SCALE = 5.0
"""No tolerance is scaled farther than this."""

_DERIVED = {"mask_iou": ("coefficient", "proto"), "full_mask_iou": ("coefficient", "proto"), "class_pixels": ("logit",)}
"""Quantities that have no dense form, scaled with those they are computed from."""


def round_operands(model: nn.Module) -> None:
    """Round to tf32, in place, the operands of every matrix product: weights now, inputs whenever a layer is called.

    Depthwise convolutions are left alone: they are no matrix products, and no matrix unit computes them.
    """
    from ..lowering.kernels.tf32 import round_tf32

    def rounded(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(round_tf32(value) for value in inputs)

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and getattr(layer, "groups", 1) == 1:
            layer.weight.data = round_tf32(layer.weight.data)
            layer.register_forward_pre_hook(rounded)


def scaled_tolerances(
    task: Task,
    reduced: Sequence[Dense | Tensor],
    exact: Dense | Tensor,
    *,
    precision: str,
    keypoint_shape: tuple[int, int] | None = None,
) -> dict[str, Tolerance]:
    """Return the tolerances of a precision, each scaled by PyTorch's own error.

    Args:
        task: the model's task.
        reduced: eager PyTorch's predictions in that precision, before the ranking, computed in one way or several.
        exact: the same in float32.
        precision: names the row of `TOLERANCES`.
        keypoint_shape: (keypoints, values) for a model that has keypoints.
    """
    every = [own_ratios(task, one, exact, precision=precision, keypoint_shape=keypoint_shape) for one in reduced]
    found = {}
    for name, tolerance in TOLERANCES[precision].items():
        sources = (name, *_DERIVED.get(name, ()))
        ratios = [worst[source] for worst in every for source in sources if source in worst]
        factor = min(MAX_SCALE, max(1.0, MARGIN * max(ratios, default=0.0)))
        found[name] = replace(tolerance, absolute=tolerance.absolute * factor, relative=tolerance.relative * factor)
    for name in _DERIVED:
        found[name] = replace(found[name], absolute=min(0.5, found[name].absolute))
    return found


def own_ratios(
    task: Task,
    reduced: Dense | Tensor,
    exact: Dense | Tensor,
    *,
    precision: str,
    keypoint_shape: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Return, by quantity, the largest of PyTorch's errors ÷ the table's tolerance, over the predictions that rank."""
    tolerances = TOLERANCES[precision]
    if isinstance(exact, Tensor) and isinstance(reduced, Tensor):
        (name,) = task.extra
        return {name: _ratio(name, reduced.flatten(1), exact.flatten(1), torch.zeros(len(exact), 4), tolerances)}
    if isinstance(exact, Tensor) or isinstance(reduced, Tensor):
        raise TypeError("one of the predictions is ranked and the other is not")
    ratios: dict[str, float] = {}
    pairs = zip(entries_of(task, reduced, keypoint_shape), entries_of(task, exact, keypoint_shape), strict=True)
    for ours, theirs in pairs:
        anchors, labels = theirs.split(_ranking(ours, theirs))
        boxes = theirs.boxes[anchors]
        values = {
            "box_px": (ours.boxes[anchors], boxes),
            "score": (ours.scores[anchors, labels][:, None], theirs.scores[anchors, labels][:, None]),
        }
        for name, columns in theirs.columns.items():
            values[name] = (ours.extra[anchors][:, columns], theirs.extra[anchors][:, columns])
        for name, (given, expected) in values.items():
            ratios[name] = max(ratios.get(name, 0.0), _ratio(name, given, expected, boxes, tolerances))
    if reduced.protos is not None and exact.protos is not None:
        given, expected = reduced.protos.flatten(1), exact.protos.flatten(1)
        ratios["proto"] = _ratio("proto", given, expected, expected.new_zeros(len(expected), 4), tolerances)
    return ratios


def _ranking(ours: Entries, theirs: Entries) -> Tensor:
    """Return the entries that rank in either precision."""
    count = min(MAX_DETECTIONS, theirs.scores.numel())
    ranked = [entries.scores.flatten().topk(count).indices for entries in (ours, theirs)]
    entries: Tensor = torch.unique(torch.cat(ranked))
    return entries


def _ratio(name: str, given: Tensor, expected: Tensor, boxes: Tensor, tolerances: Mapping[str, Tolerance]) -> float:
    error = (given - expected).abs() / tolerances[name].of(MEASURES[name].scale(expected, boxes))
    return float(error.max()) if error.isfinite().all() else 0.0
