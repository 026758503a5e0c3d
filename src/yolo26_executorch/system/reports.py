"""The file that `--report` names: checked before the work, written after it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import UsageError, Yolo26Error

REPORT = "report.json"


def check_report(path: Path) -> None:
    """Refuse, before any work, a place where no report can be written; raises UsageError."""
    if path.is_dir():
        raise UsageError(f"--report {path}: expected a file's name, and this is a folder; try --report {path / REPORT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"--report {path}: cannot be written ({error.strerror}); try --report ./{REPORT}") from error


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write the report aside and rename it into place; raises Yolo26Error where that cannot be done."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # In a folder that others can write to, the name may have been taken for a link to elsewhere.
        part.unlink(missing_ok=True)
        with part.open("x", encoding="utf-8") as file:
            file.write(json.dumps(report, indent=2) + "\n")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise Yolo26Error(f"--report {path}: the report could not be written ({error.strerror})") from error
