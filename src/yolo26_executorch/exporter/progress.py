"""Exports on the terminal: their progress while they run, and the table afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import printable
from ..models.options import ExportOptions
from . import scheduler
from .jobs import Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from typing_extensions import Self


class Display:
    """Shows the exports while they run: a line with the time for each change of stage, for pipes and logs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, name: str, event: scheduler.Event) -> None:
        """Show an export's event."""
        for text in _texts(event):
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}: {printable(text)}", flush=True)


class Live(Display):
    """A moving line for each running export, with its stage and time; what has ended scrolls up as text."""

    def __init__(self, out: Console, jobs: int) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._jobs = jobs
        self._ended = 0
        self._rows: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[stage]}", markup=False), TimeElapsedColumn(), console=out, transient=True,
        )  # fmt: skip
        self._overall = self._progress.add_task("all", stage=f"0 of {jobs}", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, name: str, event: scheduler.Event) -> None:
        """Move the export's line, or end it."""
        if event["event"] == "start":
            self._rows[name] = self._progress.add_task(name, stage="start", total=None)
        elif event["event"] == "stage":
            self._progress.update(self._rows[name], stage=event["stage"])
        elif event["event"] in ("wait", "retry"):
            self._progress.update(self._rows[name], stage="waiting")
        elif event["event"] == "record":
            self._ended += 1
            self._progress.update(self._overall, stage=f"{self._ended} of {self._jobs}")
            if name in self._rows:
                self._progress.remove_task(self._rows.pop(name))
        for text in _texts(event):
            self._progress.console.print(f"{name}: {printable(text)}", soft_wrap=True)
        self._progress.refresh()


def display(jobs: int, out: Console | None = None) -> Display:
    """Return what shows a number of exports: moving lines on a terminal, plain ones elsewhere.

    Args:
        jobs: how many.
        out: where to; None is standard output.
    """
    from rich.console import Console

    out = out or Console(highlight=False, markup=False, emoji=False)
    return Live(out, jobs) if out.is_terminal else Display()


def _texts(event: scheduler.Event) -> list[str]:
    """Return an event in words, a line each."""
    if event["event"] == "stage":
        return [event["stage"]]
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
    out.print(table)
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
