"""The process that exports one model: a job on standard input, events on standard output (`fleet` says which)."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from .environment import probe, toolkit_variables
from .export import export_one
from .jobs import Job


def main() -> int:
    """Export the job on standard input; returns the exit status, 0 also for a failure that was reported in words."""
    # Ending by SystemExit lets the draft's folder be removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    job = Job.from_json(json.load(sys.stdin))
    # Compilers and libraries print what they like; only events may reach standard output.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Ultralytics would install whatever package a checkpoint names.
    os.environ["YOLO_AUTOINSTALL"] = "false"
    if job.options.backend == "cuda":
        os.environ.update(toolkit_variables(probe()))

    def say(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    record = export_one(job, say)
    say({"event": "record", "record": record.to_json()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
