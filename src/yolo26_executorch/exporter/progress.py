"""Exports on the terminal: their progress while they run, and the table afterwards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import printable
from ..models.options import ExportOptions
from ..system.tables import print_table
from . import scheduler
from .expected import History
from .jobs import Job, Record

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.spinner import Spinner
    from typing_extensions import Self


@dataclass
class _Running:
    """An export that has begun."""

    began: float
    stages: tuple[str, ...] = ()
    expected: dict[str, float] = field(default_factory=dict)
    """Seconds for each of its stages; empty where nothing is known."""
    stage: str | None = None
    stage_began: float = 0.0


class Tracker:
    """How far exports are and how long they will take, by their events."""

    def __init__(
        self,
        jobs: Sequence[Job],
        history: History | None = None,
        *,
        copies: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            jobs: what will be exported.
            history: earlier exports.
            copies: exports of each job: one for each kind of GPU in a cluster, whose labels end in the job's name.
            clock: returns seconds.
        """
        self.total = len(jobs) * copies
        self.ended = 0
        self._jobs = {job.source.name: job for job in jobs}
        self._history = history or History()
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._waiting = [job.source.name for job in jobs] * copies
        self._most_running = 1

    def take(self, label: str, event: scheduler.Event) -> None:
        """Take in an event."""
        name, now = label.rpartition("/")[2], self._clock()
        job = self._jobs.get(name)
        if event["event"] in ("start", "stage") and label not in self._running:
            if name in self._waiting:
                self._waiting.remove(name)
            self._running[label] = _Running(
                now, job.stages if job else (), self._history.expected(job) if job else {}, stage_began=now
            )
            self._most_running = max(self._most_running, len(self._running))
        if event["event"] == "stage":
            running = self._running[label]
            if running.stage is None or running.stages[:1] == (event["stage"],):  # waiting is no part of it
                running.began = now
            running.stage, running.stage_began = event["stage"], now
        elif event["event"] == "record":
            self.ended += 1
            if self._running.pop(label, None) is None and name in self._waiting:  # interrupted before its start
                self._waiting.remove(name)
            if job:
                self._history.add(Record.from_json(event["record"]), job.options)

    def stage(self, label: str) -> str:
        """Return an export's stage: "lower, stage 3 of 5"."""
        running = self._running[label]
        if running.stage is None:
            return "start"
        if running.stage not in running.stages:
            return running.stage
        return f"{running.stage}, stage {running.stages.index(running.stage) + 1} of {len(running.stages)}"

    def elapsed(self, label: str) -> float:
        """Return the seconds since an export's first stage began."""
        return self._clock() - self._running[label].began

    def remaining(self, label: str) -> float | None:
        """Return the seconds that an export will still take; None where nothing is known."""
        running = self._running[label]
        if running.stage not in running.expected:
            return sum(running.expected.values()) or None
        at = running.stages.index(running.stage)
        in_stage = running.expected[running.stage] - (self._clock() - running.stage_began)
        return max(0.0, in_stage) + sum(running.expected[stage] for stage in running.stages[at + 1 :])

    def times(self, label: str) -> str:
        """Return how long an export has taken, and will take: "27 s of about 3 min"."""
        elapsed, remaining = self.elapsed(label), self.remaining(label)
        taken = duration(elapsed)
        return taken if remaining is None else f"{taken} of about {duration(elapsed + remaining)}"

    def overall(self) -> str:
        """Return how far all are together: "1 of 4 done, 1 running, 2 waiting: yolo26s, yolo26m; about 5 min to go"."""
        running = f", {len(self._running)} running" if self._running else ""
        waiting = f", {len(self._waiting)} waiting: {_few(self._waiting)}" if self._waiting else ""
        left = self._all_remaining()
        to_go = "" if left is None else f"; about {duration(left)} to go"
        return f"{self.ended} of {self.total} done{running}{waiting}{to_go}"

    def _all_remaining(self) -> float | None:
        of_waiting = [sum(self._history.expected(self._jobs[name]).values()) or None for name in self._waiting]
        seconds = [*map(self.remaining, self._running), *of_waiting]
        if not seconds or None in seconds:
            return None
        known = [one for one in seconds if one is not None]
        return max(max(known), sum(known) / self._most_running)


def duration(seconds: float) -> str:
    """Return a duration in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Display:
    """Shows the exports while they run: a line with the time for each change of stage, for pipes and logs."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, name: str, event: scheduler.Event) -> None:
        """Show an export's event."""
        self._tracker.take(name, event)
        for text in self._texts(name, event):
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}: {printable(text)}", flush=True)

    def _texts(self, name: str, event: scheduler.Event) -> list[str]:
        texts = _texts(event)
        if event["event"] == "stage":
            remaining = self._tracker.remaining(name)
            to_go = "" if remaining is None else f"; about {duration(remaining)} to go"
            return [f"{self._tracker.stage(name)}{to_go}"]
        if event["event"] == "record" and self._tracker.total > 1:
            return [*texts, self._tracker.overall()]
        return texts


class Live(Display):
    """A moving line for each running export, with its stage and time; what has ended scrolls up as text."""

    def __init__(self, tracker: Tracker, out: Console) -> None:
        from rich.console import Group
        from rich.live import Live as RichLive

        super().__init__(tracker)
        self._lock = threading.Lock()
        """Held while rows change or are drawn, which a thread of rich's does, but never while rich is called."""
        self._rows: dict[str, Spinner] = {}
        self._group = Group
        self._waiting: set[str] = set()
        self._live = RichLive(get_renderable=self._drawn, console=out, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, name: str, event: scheduler.Event) -> None:
        """Move the export's line, or end it."""
        from rich.spinner import Spinner

        with self._lock:
            self._tracker.take(name, event)
            if event["event"] == "start":
                self._rows[name] = Spinner("dots")
            elif event["event"] in ("wait", "retry"):
                self._waiting.add(name)
            elif event["event"] == "stage":
                self._waiting.discard(name)
            elif event["event"] == "record":
                self._rows.pop(name, None)
        for text in [] if event["event"] == "stage" else _texts(event):
            self._live.console.print(f"{name}: {printable(text)}", soft_wrap=True)
        self._live.refresh()

    def _drawn(self) -> RenderableType:
        from rich.text import Text

        with self._lock:
            for label, row in self._rows.items():
                stage = "waiting" if label in self._waiting else self._tracker.stage(label)
                row.update(text=Text(f"{label}: {stage}, {self._tracker.times(label)}"))
            overall = [Text(self._tracker.overall())] if self._tracker.total > 1 else []
            return self._group(*self._rows.values(), *overall)


def display(tracker: Tracker, out: Console | None = None) -> Display:
    """Return what shows exports: moving lines on a terminal, plain ones elsewhere.

    Args:
        tracker: of the exports.
        out: where to; None is standard output.
    """
    from rich.console import Console

    out = out or Console(highlight=False, markup=False, emoji=False)
    return Live(tracker, out) if out.is_terminal else Display(tracker)


def _texts(event: scheduler.Event) -> list[str]:
    """Return an event in words, a line each."""
    if event["event"] == "wait":
        return [f"waiting: it is being exported to the same place by {event['holder']}"]
    if event["event"] == "stale":
        return [f"what is there is not skipped: {event['reason']}"]
    if event["event"] == "retry":
        return [f"failed: {event['message']}; trying again in {event['in_s']:g} s"]
    if event["event"] == "answer":
        return list(event["lines"])
    if event["event"] == "record":
        record = Record.from_json(event["record"])
        if record.outcome == "failed":
            return [failure(record)]
        figures = [
            f"{record.size_mb:.1f} MB" if record.size_mb is not None else "",
            f"{record.total_s:.0f} s" if record.total_s is not None else "",
            f"{record.latency_ms:.2f} ms a run" if record.latency_ms is not None else "",
        ]
        return [", ".join(filter(None, [record.outcome, *figures]))]
    return []


def print_summary(out: Console, records: Sequence[Record], options: ExportOptions) -> None:
    """Print the final table, what failed and why, and how many ended how."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("variant", "outcome"):
        table.add_column(heading, no_wrap=True)
    for heading in ("size MB", "time s", "latency ms", "largest error"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    for record in records:
        error = record.largest_error
        table.add_row(
            record.name,
            record.outcome,
            _figure(record.size_mb, ".1f"),
            _figure(record.total_s, ".1f"),
            _figure(record.latency_ms, ".2f"),
            f"{error['value']:.2g} {error['unit']}".strip() if error else "-",
            _note(record),
        )
    print_table(out, table)
    for record in records:
        if record.outcome == "failed":
            out.print(printable(f"{record.name}: {failure(record)}"), soft_wrap=True)
    counts = Counter(record.outcome for record in records)
    size = "×".join(map(str, options.imgsz)) if options.imgsz else "native size"
    weights = [f"random weights (seed {options.seed})"] if options.random_weights else []
    made = [
        options.backend,
        *dict.fromkeys(record.precision for record in records),
        size,
        f"batch {options.batch}",
        *weights,
    ]
    ended = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    out.print(f"{ended} · {', '.join(made)}", soft_wrap=True)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _note(record: Record) -> str:
    if record.outcome == "skipped":
        return "complete, intact, made with the same options, and fit to run here"
    if record.ok:
        notes = ("not tested" if record.test is None else "", f"try {record.attempts}" if record.attempts > 1 else "")
        return ", ".join(filter(None, notes))
    return f"at the stage {record.stage!r}" if record.stage else ""


def failure(record: Record) -> str:
    """Say where and why an export failed."""
    at = f" at the stage {record.stage!r}" if record.stage else ""
    return f"failed{at}: {record.message or 'no reason given'}"
