"""What a report of `yolo26-et val` says of an artifact, read back for its card."""

from __future__ import annotations

import json
from pathlib import Path

from ..artifacts.card import Accuracy
from ..artifacts.manifest import Manifest
from ..errors import UsageError, first_line, printable

_KINDS = {"(B)": "boxes", "(M)": "masks", "(P)": "keypoints"}
"""How Ultralytics marks what a metric is of."""


def read_accuracy(path: Path, manifest: Manifest) -> Accuracy:
    """Read a report that `yolo26-et val --report` wrote about an artifact.

    Raises:
        UsageError: it is no such report, or one about another model.
    """
    try:
        report = json.loads(path.read_bytes())
        artifact, pytorch = report["artifact"], report["pytorch"]
        metrics = {key: float(value) for key, value in artifact["metrics"].items()}
        found = Accuracy(
            data=Path(str(report["data"])).name,
            split=str(report["split"]),
            pictures=int(report["pictures"]),
            precision=str(report["precision"]),
            runner=str(artifact["runner"]),
            device=str(artifact["device"]),
            metrics={_words(key): value for key, value in metrics.items()},
            pytorch=pytorch and {_words(key): float(pytorch["metrics"][key]) for key in metrics},
            created=str(report["created"]),
        )
    except OSError as error:
        raise UsageError(f"--val {path}: cannot be read ({first_line(error)}); `yolo26-et val` writes it") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UsageError(f"--val {path}: expected a report of `yolo26-et val --report`, and this is none") from error
    options = manifest.options
    about = {
        "name": (manifest.name,),
        "task": (manifest.task,),
        "backend": (manifest.backend,),
        "precision": (options.precision, "fp32"),  # what tf32 means where there is none
        "imgsz": (list(options.size),),
        "batch": (options.batch,),
    }
    for field, expected in about.items():
        if report.get(field) not in expected:
            raise UsageError(
                f"--val {path}: expected a report about this artifact ({field} {expected[0]}), and it is about "
                f"{printable(str(report.get(field)))}; make one with `yolo26-et val`"
            )
    return found


def _words(key: str) -> str:
    """Return one of Ultralytics' keys in words: metrics/mAP50(B) is mAP50 of boxes."""
    name = key.removeprefix("metrics/").removeprefix("accuracy_")
    kind = _KINDS.get(name[-3:])
    return f"{name[:-3]} of {kind}" if kind else name
