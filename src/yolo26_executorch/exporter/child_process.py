"""One worker process, watched from its start to its end: what it says, how long it takes, how much memory it holds.

A worker reads one job as JSON from standard input and writes events as JSON lines on standard output:

    {"event": "wait", "holder": "…"}            another export holds its place; its time does not count
    {"event": "stage", "stage": "compile"}      when a stage begins
    {"event": "answer", "lines": ["…"]}         what the model says of the test picture
    {"event": "record", "record": {…}}          how it ended; nothing follows

Everything else it or its libraries print goes to a log in the hidden folder `LOGS` of the base path.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from .jobs import Job, Record

Event = Mapping[str, Any]
OnEvent = Callable[[str, Event], None]

LOGS = ".logs"
GRACE_S = 10.0
"""How long a worker may take to end after an interruption before it is killed."""

_MEMORY_TICK_S = 1.0
_TAIL_LINES = 3
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """What one worker, with the processes that it starts, may take; None is no limit."""

    seconds: float | None = None
    """From its first stage on."""
    memory_bytes: int | None = None
    """Proportional set size: memory that processes share is counted once."""


class Worker:
    """One worker process, with what it has said so far."""

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
        self._rest = b""
        self._began = time.monotonic()
        self._waiting = False
        self._memory_due = self._began
        self._overrun: str | None = None
        self._stop_deadline: float | None = None
        self.log = job.base_path / LOGS / f"{job.source.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        request = json.dumps(job.to_json()).encode()
        self._log = self.log.open("wb", buffering=0)
        try:
            # A session of its own: the terminal's Ctrl-C must reach it through us, and the compilers it starts must
            # end with it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
                env={**environment, PARENT: str(os.getpid())},
            )
        except OSError:
            self._log.close()
            raise
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("both were asked for")
        self.stdout = self._process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(request)

    def poll(self) -> bool:
        """Return whether it has ended, and see to it that it ends once its grace or a limit is over."""
        if self._process.poll() is not None:
            self._signal(signal.SIGKILL)  # compilers it left behind; they may hold its pipe open
            return True
        now = time.monotonic()
        if self._stop_deadline is not None:
            if now > self._stop_deadline:
                self._signal(signal.SIGKILL)
        elif overrun := self._over_limits(now):
            self._overrun = overrun
            self.stop(now=False)
        return False

    def read(self) -> None:
        """Take what it has written since, without waiting for more."""
        while not self.stdout.closed:
            chunk = self.stdout.read(1 << 16)
            if chunk is None:  # nothing more for now
                return
            if not chunk:
                self.stdout.close()
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)

    def stop(self, *, now: bool) -> None:
        """Ask it to end, or end it."""
        if now:
            self._signal(signal.SIGKILL)
        elif self._stop_deadline is None:
            self._signal(signal.SIGTERM)
        if self._stop_deadline is None:
            self._stop_deadline = time.monotonic() + GRACE_S

    def kill(self) -> None:
        """End it without ceremony."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self.stdout.close()
        self._log.close()

    def close(self, keep_log: bool) -> Record:
        """Return the record of a worker that has ended: its own, or one made from how it died."""
        self._take(self._rest)
        self.stdout.close()
        self._log.close()
        record = self._record
        if record is None or not record.ok:
            if self._overrun is not None:
                record = self.job.record("failed", stage=self._stage, message=f"{self._overrun}{self._last_words()}")
            elif self._stop_deadline is not None:
                record = self.job.record("interrupted", stage=self._stage)
            elif record is None:
                record = self.job.record("failed", stage=self._stage, message=self._obituary())
        if record.ok and not keep_log:
            self.log.unlink(missing_ok=True)
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
            held = memory_of(self._process.pid)
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
            said = json.loads(line)
            event: Event
            match said["event"]:
                case "wait":
                    event = {"event": "wait", "holder": str(said["holder"])}
                    self._waiting = True
                case "stage":
                    if self._waiting:
                        self._waiting, self._began = False, time.monotonic()
                    self._stage = str(said["stage"])
                    event = {"event": "stage", "stage": self._stage}
                case "answer":
                    event = {"event": "answer", "lines": [str(text) for text in said["lines"]]}
                case "record":
                    self._record = Record.from_json(said["record"])
                    return  # passed on once the process has ended
                case _:
                    raise ValueError("no event of ours")
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.strip():
                with contextlib.suppress(OSError):  # a full disk is the worker's to report
                    self._log.write(line + b"\n")
            return
        self._on_event(self.job.source.name, event)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _obituary(self) -> str:
        """Say in one line how it died and what it said last."""
        status = self._process.returncode
        at = "" if self._stage else " before its first stage"  # the record names the stage
        if status == -signal.SIGKILL:
            how = (
                f"its process was killed{at}, probably by the kernel for want of memory; try --jobs 1, a smaller "
                "--imgsz or --batch, or close other programs"
            )
        elif status < 0:
            how = f"its process crashed{at} ({_signal_name(-status)})"
        else:
            how = f"its process ended{at} with status {status} and no record"
        return how + self._last_words()

    def _last_words(self) -> str:
        said = _tail(self.log)
        return f"; last words: {said} (all of them: {self.log})" if said else ""


PARENT = "YOLO26_ET_PARENT"
"""Environment variable that tells a worker whose child it is."""


def leave(status: int) -> NoReturn:
    """End this process at once: taking PyTorch, CUDA and the compilers' pool apart takes seconds, and somebody waits.

    What is left of a worker's session is ended by who started it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def memory_of(pid: int) -> int:
    """Return the bytes that a process and all it has started hold together; 0 once it has ended."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                try:
                    total += int(process.memory_full_info().pss)
                except (AttributeError, psutil.AccessDenied):  # no such figure on this system
                    total += int(process.memory_info().rss)
    return total


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(log: Path) -> str:
    """Return a log's last lines as one printable line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in text.splitlines()]
    return " | ".join([line for line in lines if any(map(str.isalnum, line))][-_TAIL_LINES:])
