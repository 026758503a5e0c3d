"""What Ultralytics' results say, by `Task.kind`: in words, as JSON, as columns of a table.

Knows `ultralytics/engine/results.py` (8.4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultralytics.engine.results import Results

_FEW = 5
"""Classes of an image that are named, those that fill most of it."""


@dataclass(frozen=True)
class Kind:
    """How the results of one kind of task are read."""

    words: Callable[[Results], str]
    """What was found, in a line; empty where there is nothing."""
    record: Callable[[Results], dict[str, Any]]
    """The same as JSON."""
    columns: Callable[[Results], dict[str, Any]]
    """The same as a row of `ray_data`'s columns."""
    names: Callable[[Results], list[str]] | None
    """The class names of what is counted over many images; None where nothing is."""


def boxes_of(result: Results) -> Any:
    """Return the boxes, rotated or not, of a result of ranked rows."""
    return result.boxes if result.obb is None else result.obb


def _verbose(result: Results) -> str:
    words: str = result.verbose()
    return words.rstrip(", ")


def _objects(result: Results) -> str:
    boxes = boxes_of(result)
    if not boxes.is_track:
        return _verbose(result)
    numbers: dict[int, list[int]] = {}
    for label, number in zip(boxes.cls.int().tolist(), boxes.id.int().tolist(), strict=True):
        numbers.setdefault(label, []).append(number)
    return ", ".join(
        f"{len(found)} {result.names[label]}{'s' * (len(found) > 1)} ({' '.join(f'#{n}' for n in sorted(found))})"
        for label, found in sorted(numbers.items())
    )


def _object_columns(result: Results) -> dict[str, Any]:
    boxes = boxes_of(result)
    classes = boxes.cls.int().tolist()
    row = {
        "boxes": boxes.xyxy.tolist(), "classes": classes, "names": [result.names[index] for index in classes],
        "confidences": boxes.conf.tolist(),
    }  # fmt: skip
    if result.obb is not None:
        row["rotated"] = result.obb.xywhr.tolist()
    if result.keypoints is not None:
        row["keypoints"] = result.keypoints.data.tolist()
    if result.masks is not None:
        row["masks"] = [outline.tolist() for outline in result.masks.xy]
    return row


def _class_columns(result: Results) -> dict[str, Any]:
    best = list(result.probs.top5)
    return {
        "classes": best, "names": [result.names[index] for index in best],
        "confidences": result.probs.top5conf.tolist(),
    }  # fmt: skip


def _class_map(result: Results) -> str:
    shares = sorted(result.summary(), key=lambda row: -row["pixel_ratio"])
    return ", ".join(f"{row['name']} {row['pixel_ratio']:.1%}" for row in shares[:_FEW])


def _class_map_columns(result: Results) -> dict[str, Any]:
    import numpy as np

    found = result.summary()
    pixels = result.semantic_mask.cpu().numpy().data
    return {
        "classes": [row["class"] for row in found], "names": [row["name"] for row in found],
        "class_map": list(pixels.astype(np.int32)),
    }  # fmt: skip


def _depth_map(result: Results) -> str:
    found = _depths(result)
    return f"depth {found['min']:.2f} to {found['max']:.2f} m, median {found['median']:.2f} m"


def _depths(result: Results) -> dict[str, float]:
    metres = result.depth.data.float()
    return {name: round(float(getattr(metres, name)()), 5) for name in ("min", "median", "max")}


def _depth_map_columns(result: Results) -> dict[str, Any]:
    return {"depth": list(result.depth.cpu().numpy().data)}


def _summary(result: Results) -> dict[str, Any]:
    return {"objects": result.summary()}


KINDS: dict[str, Kind] = {
    "rankings": Kind(
        _objects, _summary, _object_columns,
        lambda result: [result.names[label] for label in boxes_of(result).cls.int().tolist()],
    ),
    "probabilities": Kind(_verbose, _summary, _class_columns, lambda result: [result.names[result.probs.top1]]),
    "class_map": Kind(_class_map, _summary, _class_map_columns, None),
    "depth_map": Kind(
        _depth_map, lambda result: {"objects": [], "depth_m": _depths(result)}, _depth_map_columns, None
    ),
}  # fmt: skip
"""By `Task.kind`."""


class Totals:
    """What a run of many images comes to: how many, and what was found in all."""

    def __init__(self, kind: Kind, *, track: bool) -> None:
        self._kind, self._track = kind, track
        self.images = 0
        self.objects: Counter[str] = Counter()
        """By class name; of tracked objects each is counted once."""
        self._tracked: set[tuple[str, int]] = set()

    @property
    def counted(self) -> bool:
        """Whether there is anything to count."""
        return self.images > 0 and self._kind.names is not None

    def add(self, result: Results) -> None:
        """Take in a result."""
        self.images += 1
        if self._kind.names is None:
            return
        names = self._kind.names(result)
        if not self._track:
            self.objects.update(names)
            return
        boxes = boxes_of(result)
        if not boxes.is_track:  # nothing has a number yet
            return
        new = {*zip(names, boxes.id.int().tolist(), strict=True)} - self._tracked
        self._tracked |= new
        self.objects.update(name for name, _ in new)
