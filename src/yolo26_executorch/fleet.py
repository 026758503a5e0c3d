"""Many exports, each in a process of its own, so that a crash costs one variant and all its memory comes back.

A worker reads one job as JSON from standard input and writes events as JSON lines on standard output:

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
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from .environment import cores
from .jobs import Job, Record

Event = Mapping[str, Any]
OnEvent = Callable[[str, Event], None]

WORKER = (sys.executable, "-P", "-m", "yolo26_executorch.worker")
"""What is started for each job. -P: a stray `random.py` where the user stands must not be imported."""

LOGS = ".logs"
GRACE_S = 10.0
"""How long a worker may take to end after an interruption before it is killed."""
CORES_PER_CUDA_JOB = 4
"""Triton's and the C++ compiler's processes keep about so many cores busy while one model is compiled."""

_TICK_S = 0.2
_TAIL_LINES = 3
_TAIL_BYTES = 4096


def default_parallel(backend: str, jobs: int) -> int:
    """Return how many jobs to run at a time; an XNNPACK export uses every core by itself, a CUDA export does not."""
    return max(1, min(jobs, cores() // CORES_PER_CUDA_JOB)) if backend == "cuda" else 1


def run(
    jobs: Sequence[Job],
    *,
    parallel: int,
    on_event: OnEvent,
    worker: Sequence[str] | None = None,
    keep_logs: bool = False,
) -> list[Record]:
    """Run the jobs, up to `parallel` at a time, and return their records in the same order.

    SIGINT, SIGTERM and SIGHUP end the workers and mark what was not done as "interrupted"; a second signal kills them.

    Args:
        jobs: what to do; names are distinct.
        parallel: workers at a time, 1 or more.
        on_event: called in this thread with a job's name and each of its events: `{"event": "start"}` first, the
            worker's own, and exactly one `{"event": "record", …}` last, also for a worker that died without one.
        worker: the command to start instead of `WORKER`.
        keep_logs: keep the logs of the jobs that went well, too.
    """
    waiting = deque(jobs)
    running: list[_Worker] = []
    environment = _share_of_cores(min(parallel, len(jobs)))
    records: dict[str, Record] = {}

    def finish(name: str, record: Record) -> None:
        records[name] = record
        on_event(name, {"event": "record", "record": record.to_json()})

    with _signals_collected() as signals:
        try:
            while waiting or running:
                while waiting and len(running) < parallel and not signals:
                    job = waiting.popleft()
                    on_event(job.source.name, {"event": "start"})
                    try:
                        running.append(_Worker(job, worker or WORKER, environment, on_event))
                    except OSError as error:
                        finish(job.source.name, job.record("failed", message=f"its process could not start: {error}"))
                if signals:
                    for job in waiting:
                        finish(job.source.name, job.record("interrupted"))
                    waiting.clear()
                    for one in running:
                        one.stop(now=len(signals) > 1)
                wait([one.stdout.fileno() for one in running if not one.stdout.closed], timeout=_TICK_S)
                for one in list(running):
                    ended = one.poll()
                    one.read()
                    if ended:
                        running.remove(one)
                        finish(one.job.source.name, one.close(keep_logs))
        finally:
            for one in running:  # only after an error of ours or of on_event
                one.kill()
    for folder in {job.base_path / LOGS for job in jobs}:
        with contextlib.suppress(OSError):
            folder.rmdir()  # fails, as it should, while logs are in it
    return [records[job.source.name] for job in jobs]


def _share_of_cores(workers: int) -> dict[str, str]:
    """Return the environment of workers that run beside each other: without it, each would take every core.

    The compilers' share is twice the threads', since they wait for each other more than they compute together.
    """
    share = max(1, cores() // max(1, workers))
    ours = {"OMP_NUM_THREADS": str(share), "YOLO26_ET_COMPILE_THREADS": str(min(cores(), 2 * share))}
    return {**ours, **os.environ}


class _Worker:
    """One worker process, with what it has said so far."""

    def __init__(self, job: Job, command: Sequence[str], environment: Mapping[str, str], on_event: OnEvent) -> None:
        """Start it; raises OSError."""
        self.job = job
        self._on_event = on_event
        self._record: Record | None = None
        self._stage: str | None = None
        self._rest = b""
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
                env=environment,
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
        """Return whether it has ended, and see to it that it ends once its grace is over."""
        if self._process.poll() is not None:
            self._signal(signal.SIGKILL)  # compilers it left behind; they may hold its pipe open
            return True
        if self._stop_deadline is not None and time.monotonic() > self._stop_deadline:
            self._signal(signal.SIGKILL)
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
        if self._stop_deadline is not None and (record is None or not record.ok):
            record = self.job.record("interrupted", stage=self._stage)
        elif record is None:
            record = self.job.record("failed", stage=self._stage, message=self._obituary())
        if record.ok and not keep_log:
            self.log.unlink(missing_ok=True)
        return record

    def _take(self, line: bytes) -> None:
        """Handle one line of its output; what is no event goes to the log."""
        try:
            said = json.loads(line)
            event: Event
            match said["event"]:
                case "stage":
                    self._stage = str(said["stage"])
                    event = {"event": "stage", "stage": self._stage}
                case "answer":
                    event = {"event": "answer", "lines": [str(text) for text in said["lines"]]}
                case "record":
                    self._record = Record.from_json(said["record"])
                    return  # `run` passes it on once the process has ended
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
        said = _tail(self.log)
        return f"{how}; last words: {said} (all of them: {self.log})" if said else how


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


@contextlib.contextmanager
def _signals_collected() -> Iterator[list[int]]:
    """Collect the signals that ask us to end instead of dying of them: the workers would go on without us."""
    caught: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if handler is not None and handler is not signal.SIG_IGN:  # nohup, and shells' background jobs
                before[number] = signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
