"""One image's predictions in words: what a person wants to read after a test or a prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .tasks import Task

_FEW = 3
"""Rows shown where none is confident enough, and keypoints whose place is written out."""

_VISIBLE = 0.5
_MASK_STRIDE = 4
"""Masks have a quarter of the input's resolution each way."""


def lines(
    task: Task,
    outputs: Mapping[str, Tensor],
    names: Mapping[int, str],
    *,
    confidence: float = 0.25,
    limit: int = 10,
    image: int = 0,
) -> list[str]:
    """Return one image's predictions in words, a line per object or class.

    Args:
        task: the model's task.
        outputs: the outputs in the named format, by name, as `tasks.py` describes them; places are in pixels of the
            network's input.
        names: the class names.
        confidence: rows below it are left out; where none reaches it, the best three are shown, after a line that says
            so.
        limit: the most objects to show.
        image: which image of the batch.

    Raises:
        KeyError: an output of the task is missing.
    """
    return task.summarize(task, outputs, names, confidence, limit, image)


def objects(
    task: Task, outputs: Mapping[str, Tensor], names: Mapping[int, str], confidence: float, limit: int, image: int
) -> list[str]:
    """Word ranked rows; see `lines`."""
    first, *others = task.named
    more_words = [(other.name, other.words) for other in others if other.words]
    rows = [dict(zip(first.columns, row, strict=True)) for row in outputs[first.name][image].tolist()]
    # Rows come sorted, but this does not depend on it.
    order = sorted(range(len(rows)), key=lambda index: -rows[index]["confidence"])
    confident = [index for index in order if rows[index]["confidence"] >= confidence]
    shown = confident[:limit] if confident else order[:_FEW]
    words = []
    for index in shown:
        row = rows[index]
        place = f"centre ({row['x']:.0f}, {row['y']:.0f}), size {row['w']:.0f} x {row['h']:.0f} px"
        angle = f", turned {math.degrees(row['angle']):.0f} degrees" if "angle" in row else ""
        more = "".join(f", {word(outputs[name][image, index])}" for name, word in more_words)
        words.append(f"{_name(names, int(row['class_id']))} {row['confidence']:.2f}: {place}{angle}{more}")
    if not confident:
        return [f"nothing above confidence {confidence:g}; the best {len(words)}:", *words]
    if len(confident) > len(words):
        words.append(f"and {len(confident) - len(words)} more above confidence {confidence:g}")
    return words


def classes(
    task: Task, outputs: Mapping[str, Tensor], names: Mapping[int, str], confidence: float, limit: int, image: int
) -> list[str]:
    """Word class probabilities; see `lines`."""
    probabilities: list[float] = outputs[task.named[0].name][image].tolist()
    best = sorted(range(len(probabilities)), key=lambda label: -probabilities[label])[: min(5, limit)]
    words = [f"{_name(names, label)} {probabilities[label]:.1%}" for label in best]
    if probabilities[best[0]] < confidence:
        return [f"nothing above probability {confidence:g}; the best {len(words[:_FEW])}:", *words[:_FEW]]
    return words


def class_map(
    task: Task, outputs: Mapping[str, Tensor], names: Mapping[int, str], confidence: float, limit: int, image: int
) -> list[str]:
    """Word which share of an image each class fills, the largest first; see `lines`."""
    pixels = outputs[task.named[0].name][image].flatten()
    counts = enumerate(pixels.long().bincount().tolist())
    shares = sorted(((count / pixels.numel(), label) for label, count in counts if count), reverse=True)
    words = [f"{_name(names, label)} {share:.1%} of the image" for share, label in shares[:limit]]
    return words + ([f"and {len(shares) - limit} more classes"] if len(shares) > limit else [])


def depth_map(
    task: Task, outputs: Mapping[str, Tensor], names: Mapping[int, str], confidence: float, limit: int, image: int
) -> list[str]:
    """Word an image's distances; see `lines`."""
    (row,) = task.named
    values, unit = outputs[row.name][image].float(), row.units[0]
    low, middle, high = float(values.min()), float(values.median()), float(values.max())
    return [f"{low:.2f} to {high:.2f} {unit}, median {middle:.2f} {unit}"]


def mask_area(mask: Tensor) -> str:
    """Word a mask, 0 or 1 (H/4, W/4)."""
    return f"mask of {int((mask > 0).sum()) * _MASK_STRIDE**2} px"


def keypoints(points: Tensor) -> str:
    """Word keypoints (N, 2 or 3): x, y and, where the model has it, visibility."""
    values: list[list[float]] = points.tolist()
    # A model without visibility vouches for all of its keypoints.
    seen = [point for point in values if len(point) < 3 or point[2] >= _VISIBLE]
    places = " ".join(f"({point[0]:.0f}, {point[1]:.0f})" for point in seen[:_FEW])
    count = f"{len(values)} keypoints" + (f", {len(seen)} visible" if values and len(values[0]) > 2 else "")
    return f"{count}: {places}{' …' if len(seen) > _FEW else ''}" if seen else count


def _name(names: Mapping[int, str], label: int) -> str:
    return names.get(label, f"class {label}")
