"""A process that exports one model: a job on standard input, events on standard output (listed in `export_process`)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any, NoReturn

from ..system.probe import cache_folder, toolkit_variables
from .child_process import PARENT, leave
from .jobs import Job
from .pipeline import export_one


def main() -> int:
    """Export the job on standard input; returns the exit status, 0 also for a failure that was reported in words."""
    signal.signal(signal.SIGTERM, _end)
    _end_with_parent()
    job = Job.from_json(json.load(sys.stdin))
    # Compilers and libraries print what they like; only events may reach standard output.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Ultralytics would install whatever package a checkpoint names.
    os.environ["YOLO_AUTOINSTALL"] = "false"
    if job.options.backend == "cuda":
        os.environ.update(toolkit_variables())
        _keep_kernels()

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    record = export_one(job, emit)
    emit({"event": "record", "record": record.to_json()})
    return 0


def _keep_kernels() -> None:
    """Have compiled kernels kept, for the next variants and runs, in a folder of the user's own.

    PyTorch's default lies in the folder for temporary files, under a name that others can guess; it is left where the
    user has no other place.
    """
    folder = cache_folder() / "inductor"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def _end(*_: object) -> NoReturn:
    """End this process and all it has started; leaving by SystemExit removes the draft's folder on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    sys.exit(143)


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it is gone, even by SIGKILL; Linux alone can."""
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != int(parent):  # gone before we asked
        sys.exit(143)


if __name__ == "__main__":
    leave(main())
