"""Jobs that wait for their turn and how they ended: what exports on one machine and on a cluster have in common."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from .export_process import OnEvent
from .jobs import Job, Record


@dataclass(eq=False)
class Task:
    """A job that has not ended."""

    label: str
    """What its events and its record bear."""
    job: Job
    not_before: float = 0.0
    """When it may start, in seconds of `time.monotonic`."""
    shown: bool = False
    """Whether its `start` was reported."""


AnyTask = TypeVar("AnyTask", bound=Task)


class TaskQueue(Generic[AnyTask]):
    """The tasks that wait and the records of those that have ended.

    Each task's events are reported between exactly one `{"event": "start"}` and one `{"event": "record", …}`, the
    former left out for what was interrupted before it began.
    """

    def __init__(self, tasks: list[AnyTask], on_event: OnEvent) -> None:
        self.waiting = tasks
        self.records: dict[str, Record] = {}
        self._on_event = on_event

    def due(self, most: int | None) -> list[AnyTask]:
        """Take out and return the tasks that may start now, the first ones, at most so many; None is no limit."""
        now = time.monotonic()
        due = [task for task in self.waiting if now >= task.not_before][:most]
        self.waiting = [task for task in self.waiting if task not in due]
        return due

    def report(self, task: AnyTask, event: str, **fields: Any) -> None:
        """Report an event, after the task's start."""
        if not task.shown:
            task.shown = True
            self._on_event(task.label, {"event": "start"})
        if event != "start":
            self._on_event(task.label, {"event": event, **fields})

    def put_off(self, task: AnyTask, seconds: float) -> None:
        """Have a task wait that long, first in line then."""
        task.not_before = time.monotonic() + seconds
        self.waiting.insert(0, task)

    def finish(self, task: AnyTask, record: Record) -> None:
        """Keep and report how a task ended."""
        self.report(task, "start")
        self._keep(task, record)

    def interrupt(self) -> None:
        """Finish all that waits."""
        for task in self.waiting:
            self._keep(task, task.job.record("interrupted"))
        self.waiting = []

    def _keep(self, task: AnyTask, record: Record) -> None:
        record = self.records[task.label] = replace(record, name=task.label)
        self._on_event(task.label, {"event": "record", "record": record.to_json()})


@contextlib.contextmanager
def signals_collected() -> Iterator[list[int]]:
    """Collect the signals that ask this process to end, which would otherwise leave its child processes running."""
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
