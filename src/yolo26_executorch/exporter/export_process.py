"""One export's process, watched from its start to its end: its events, how long it takes, how much memory it holds.

It reads one job as JSON from standard input and writes events as JSON lines on standard output:

    {"event": "wait", "holder": "…"}            another export holds its place; its time does not count
    {"event": "stale", "reason": "…"}           why what is there is not skipped
    {"event": "stage", "stage": "compile"}      when a stage begins
    {"event": "answer", "lines": ["…"]}         what the model finds in the test image
    {"event": "record", "record": {…}}          how it ended; nothing follows

Everything else that it or its libraries print goes to a log in the hidden folder `LOGS` of the base path.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import child_process
from .child_process import LOGS, ChildProcess, memory_of
from .jobs import Job, Record

Event = Mapping[str, Any]
OnEvent = Callable[[str, Event], None]

_MEMORY_TICK_S = 1.0


@dataclass(frozen=True)
class Limits:
    """What one export, with the processes that it starts, may take; None is no limit."""

    seconds: float | None = None
    """From its first stage on."""
    memory_bytes: int | None = None


class ExportProcess:
    """The process of one job, and what it has reported so far."""

    def __init__(
        self, job: Job, command: Sequence[str], environment: Mapping[str, str], limits: Limits, on_event: OnEvent
    ) -> None:
        """Start it; raises OSError."""
        self.job = job
        self.peak_bytes = 0
        self._limits = limits
        self._on_event = on_event
        self._record: Record | None = None
        self._stage: str | None = None
        self._began = time.monotonic()
        self._waiting = False
        self._memory_due = self._began
        self._overrun: str | None = None
        self._stop_deadline: float | None = None
        log = job.base_path / LOGS / f"{job.source.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.process = ChildProcess(command, log, environment)
        self.process.send(job.to_json())
        self.process.close_input()

    def poll(self) -> bool:
        """Return whether it has ended, and make sure that it does once its grace or a limit is over."""
        if self.process.returncode is not None:
            self.process.kill()  # compilers it left behind; they may hold its pipe open
            return True
        now = time.monotonic()
        if self._stop_deadline is not None:
            if now > self._stop_deadline:
                self.process.kill()
        elif overrun := self._over_limits(now):
            self._overrun = overrun
            self.stop(now=False)
        return False

    def read(self) -> None:
        """Take the events that it has written since, without waiting for more."""
        for line in self.process.lines():
            self._take(line)

    def stop(self, *, now: bool) -> None:
        """Ask it to end, or end it."""
        if now:
            self.process.kill()
        elif self._stop_deadline is None:
            self.process.ask_to_end()
        if self._stop_deadline is None:
            self._stop_deadline = time.monotonic() + child_process.GRACE_S

    def close(self, keep_log: bool) -> Record:
        """Return the record of a process that has ended: its own, or one made from how it ended."""
        for line in self.process.lines(last=True):
            self._take(line)
        self.process.close()
        record = self._record
        if record is None or not record.ok:
            if self._overrun is not None:
                record = self._failed(self._overrun)
            elif self._stop_deadline is not None:
                record = self.job.record("interrupted", stage=self._stage)
            elif record is None:
                record = self._failed(self._how_it_ended())
        if record.ok and not keep_log:
            self.process.log.unlink(missing_ok=True)
        return replace(record, peak_memory_bytes=self.peak_bytes or None)

    def _over_limits(self, now: float) -> str | None:
        """Say which limit it has passed; its memory is looked at every `_MEMORY_TICK_S`."""
        limit_s, limit_bytes = self._limits.seconds, self._limits.memory_bytes
        if limit_s is not None and not self._waiting and now - self._began > limit_s:
            return (
                f"stopped because it took longer than the {limit_s / 60:g} min of --time-limit; raise it if that is "
                "slow rather than stuck"
            )
        if now >= self._memory_due:
            self._memory_due = now + _MEMORY_TICK_S
            held = memory_of(self.process.pid)
            self.peak_bytes = max(self.peak_bytes, held)
            if limit_bytes is not None and held > limit_bytes:
                return (
                    f"stopped because it held {held / 1e9:.2f} GB of memory, more than the {limit_bytes / 1e9:.2f} GB "
                    "of --memory-limit; try a smaller --imgsz or --batch, or a higher limit"
                )
        return None

    def _take(self, line: bytes) -> None:
        """Handle one line of its output; what is no event goes to the log."""
        try:
            data = json.loads(line)
            event: Event
            match data["event"]:
                case "wait":
                    event = {"event": "wait", "holder": str(data["holder"])}
                    self._waiting = True
                case "stage":
                    if self._waiting:
                        self._waiting, self._began = False, time.monotonic()
                    self._stage = str(data["stage"])
                    event = {"event": "stage", "stage": self._stage}
                case "stale":
                    event = {"event": "stale", "reason": str(data["reason"])}
                case "answer":
                    event = {"event": "answer", "lines": [str(text) for text in data["lines"]]}
                case "record":
                    self._record = Record.from_json(data["record"])
                    return  # passed on once the process has ended
                case _:
                    raise ValueError("no event of ours")
        except (ValueError, KeyError, TypeError, RecursionError):
            self.process.note(line)
            return
        self._on_event(self.job.source.name, event)

    def _failed(self, why: str) -> Record:
        tail = self.process.log_tail()
        message = f"{why}; log tail: {tail} (all of it: {self.process.log})" if tail else why
        return self.job.record("failed", stage=self._stage, message=message)

    def _how_it_ended(self) -> str:
        """Say in one line how it ended without a record."""
        status = self.process.returncode or 0
        at = "" if self._stage else " before its first stage"  # the record names the stage
        if status == -signal.SIGKILL:
            return (
                f"its process was killed{at}, probably by the kernel because memory ran out; try --jobs 1, a smaller "
                "--imgsz or --batch, or close other programs"
            )
        if status < 0:
            return f"its process crashed{at} ({_signal_name(-status)})"
        return f"its process ended{at} with status {status} and no record"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
