"""The files that `yolo26-et val --report` writes, read back for a model's card and for the report of a tree.

Anybody may have written them: a value that is not of its type counts as missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..artifacts.card import Accuracy
from ..artifacts.manifest import Manifest
from ..errors import UsageError, first_line, printable

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading somebody else's JSON may raise."""

_KINDS = {"(B)": "box", "(M)": "mask", "(P)": "keypoint"}
"""How Ultralytics marks what a metric is of."""

_SHARE = "0..1"

_UNITS = {"metrics/rmse": "m", "metrics/silog": "0.01 ln", "metrics/abs_rel": "of the depth"}
"""Of Ultralytics' metrics that are no shares."""


@dataclass(frozen=True)
class ValReport:
    """One artifact's accuracy on a labelled data set."""

    source: str
    """The file, as the report of a tree names it."""
    model: tuple[object, ...]
    """What was measured: see `model_of`."""
    data: str
    split: str
    images: int
    runner: str
    device: str
    metrics: dict[str, float]
    """By Ultralytics' keys, such as metrics/mAP50-95(B), 0..1."""
    pytorch: dict[str, float] | None
    """The same of the checkpoint in PyTorch fp32; None where it was not measured."""
    metric: str
    """The key of the task's own metric."""
    created: datetime

    @property
    def value(self) -> float:
        """The task's own metric, 0..1."""
        return self.metrics[self.metric]

    @property
    def difference(self) -> float | None:
        """Artifact - PyTorch in fp32, of the task's own metric."""
        return None if self.pytorch is None else self.value - self.pytorch[self.metric]


def read(path: Path, source: str | None = None) -> ValReport:
    """Read a file that `yolo26-et val --report` wrote; `source` is what it is called, its name unless given.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    try:
        data = json.loads(path.read_bytes())
        height, width = data["imgsz"]
        artifact, pytorch = data["artifact"], data["pytorch"]
        metrics = _metrics(artifact["metrics"])
        report = ValReport(
            source=source or path.name,
            model=(data["name"], data["task"], data["backend"], data["precision"], f"{height}×{width}", data["batch"]),
            data=str(data["data"]),
            split=str(data["split"]),
            images=int(data["pictures"]),
            runner=str(artifact["runner"]),
            device=str(artifact["device"]),
            metrics=metrics,
            pytorch=None if pytorch is None else {key: _metrics(pytorch["metrics"])[key] for key in metrics},
            metric=str(data["primary"]),
            created=time(data["created"]),
        )
        hash(report.model), report.value
        return report
    except UNREADABLE as error:
        raise UsageError(
            f"{path} is no report of `yolo26-et val`: {cause(error)}; `yolo26-et val DIR --data … --report FILE` "
            "writes one"
        ) from error


def accuracy_of(path: Path, manifest: Manifest) -> Accuracy:
    """Read a report about an artifact, for its card.

    Raises:
        UsageError: as `read`; or the report is about another model.
    """
    try:
        report = read(path)
    except UsageError as error:
        raise UsageError(f"--val {error}") from error
    fields = ("name", "task", "backend", "precision", "input size", "batch")
    for field, expected, given in zip(fields, model_of(manifest), report.model, strict=True):
        if given != expected:
            raise UsageError(
                f"--val {path}: expected a report about this artifact ({field} {expected}), and it is about "
                f"{printable(str(given))}; make one with `yolo26-et val`"
            )
    return Accuracy(
        data=Path(report.data).name,
        split=report.split,
        pictures=report.images,
        precision=manifest.precision,
        runner=report.runner,
        device=report.device,
        metrics={_with_unit(key): value for key, value in report.metrics.items()},
        pytorch=report.pytorch and {_with_unit(key): value for key, value in report.pytorch.items()},
        created=report.created.isoformat(),
    )


def model_of(manifest: Manifest) -> tuple[object, ...]:
    """Return what a val report says of its model: name, task, backend, precision, input size, batch."""
    height, width = manifest.options.size
    return (
        manifest.name, manifest.task, manifest.backend, manifest.precision, f"{height}×{width}",
        manifest.options.batch,
    )  # fmt: skip


def metric_name(key: str) -> str:
    """Return one of Ultralytics' keys in words: metrics/mAP50(B) is "box mAP50"."""
    name = key.removeprefix("metrics/").removeprefix("accuracy_")
    kind = _KINDS.get(name[-3:])
    return f"{kind} {name[:-3]}" if kind else name


def metric_unit(key: str) -> str:
    """Return the unit of one of Ultralytics' metrics."""
    return _UNITS.get(key, _SHARE)


def _with_unit(key: str) -> str:
    name, unit = metric_name(key), metric_unit(key)
    return name if unit == _SHARE else f"{name} ({unit})"


def number(value: object) -> float | None:
    """Return a finite number as it is, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None  # NaN is not, either


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; none for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def time(text: object) -> datetime:
    """Read an ISO 8601 time; raises ValueError or TypeError."""
    found = datetime.fromisoformat(text)  # type: ignore[arg-type]
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def cause(error: Exception) -> str:
    """Say in a few words what made data unreadable."""
    return f"it has no {error}" if isinstance(error, KeyError) else first_line(error)


def _metrics(data: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics by key; raises ValueError for one that is no number."""
    found = {str(key): number(value) for key, value in data.items()}
    if missing := [key for key, value in found.items() if value is None]:
        raise ValueError(f"{missing[0]} is no number")
    return {key: value for key, value in found.items() if value is not None}
