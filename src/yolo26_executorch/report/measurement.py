"""What `yolo26-et val --report` measured, for the report of a tree: which model, and its task's own metric."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..artifacts.manifest import Manifest, computed_precision
from ..errors import UsageError
from ..exporter.jobs import Record
from .foreign import UNREADABLE, cause, mapping, number, time


@dataclass(frozen=True)
class Measurement:
    """One measurement by `yolo26-et val`."""

    source: str
    metric: str
    """Ultralytics' key, such as metrics/mAP50-95(B)."""
    value: float
    """0..1."""
    difference: float | None
    """Artifact - PyTorch in fp32; None where that was not measured."""
    data: str
    split: str
    pictures: int
    created: datetime
    model: tuple[object, ...]
    """What was measured: see `model_of`."""


def read(path: Path, source: str) -> Measurement:
    """Read a file that `yolo26-et val --report` wrote; raises UsageError for anything else."""
    try:
        data = json.loads(path.read_bytes())
        metric, (height, width) = str(data["primary"]), data["imgsz"]
        value = number(data["artifact"]["metrics"][metric])
        if value is None:
            raise ValueError(f"{metric} is no number")
        return Measurement(
            source=source,
            metric=metric,
            value=value,
            difference=number(mapping(data["differences"]).get(metric)),
            data=str(data["data"]),
            split=str(data["split"]),
            pictures=int(data["pictures"]),
            created=time(data["created"]),
            model=(data["name"], data["task"], data["backend"], data["precision"], f"{height}×{width}", data["batch"]),
        )
    except UNREADABLE as error:
        raise UsageError(
            f"{path} is no report of `yolo26-et val`: {cause(error)}; `yolo26-et val DIR --data … --report FILE` "
            "writes one"
        ) from error


def model_of(manifest: Manifest) -> tuple[object, ...]:
    """Return what a measurement says of its model."""
    height, width = manifest.options.size
    precision, batch = precision_of(manifest), manifest.options.batch
    return (manifest.name, manifest.task, manifest.backend, precision, f"{height}×{width}", batch)


def precision_of(known: Manifest | Record) -> str:
    """Return the precision that a model computes in."""
    named = known.options.precision if isinstance(known, Manifest) else known.precision
    return computed_precision(known.backend, named)
