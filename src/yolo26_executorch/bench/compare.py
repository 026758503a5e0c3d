"""Two runs of the benchmark, side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..system.tables import print_table
from .display import ms, name_table, names_of
from .records import Report, Row

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Change:
    """A row that both runs measured."""

    before: Row
    now: Row

    @property
    def medians_ms(self) -> tuple[float, float]:
        """The median of a call before and now."""
        assert self.before.latency and self.now.latency
        return self.before.latency.p50_ms, self.now.latency.p50_ms

    @property
    def ratio(self) -> float:
        """The median now, in times of the median before."""
        before, now = self.medians_ms
        return now / before if before else float("nan")

    @property
    def is_noise(self) -> bool:
        """Whether the medians differ by no more than those of one run's rounds."""
        before, now = self.medians_ms
        return abs(now - before) <= max(row.latency.spread_ms for row in (self.before, self.now) if row.latency)


@dataclass(frozen=True)
class Comparison:
    """What has changed from one run to another."""

    changes: tuple[Change, ...]
    only_before: tuple[Row, ...]
    """Measured then alone."""
    only_now: tuple[Row, ...]
    conditions: tuple[str, ...]
    """What else differs between the runs, in words: the GPU, versions, …"""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        changes = []
        for change in self.changes:
            before, now = change.medians_ms
            figures = {"before_p50_ms": before, "p50_ms": now, "ratio": change.ratio, "is_noise": change.is_noise}
            changes.append({**_key(change.now), **figures})
        return {
            "changes": changes,
            "only_before": [_key(row) for row in self.only_before],
            "only_now": [_key(row) for row in self.only_now],
            "conditions": list(self.conditions),
        }


def compare(before: Report, now: Report) -> Comparison:
    """Match the rows of two runs that were measured; of several alike the first."""
    old, new = _by_key(before), _by_key(now)
    return Comparison(
        tuple(Change(old[key], row) for key, row in new.items() if key in old),
        tuple(row for key, row in old.items() if key not in new),
        tuple(row for key, row in new.items() if key not in old),
        tuple(_conditions(before, now)),
    )


def print_comparison(found: Comparison, out: Console, name: str) -> None:
    """Print how each row has changed since the run of a file."""
    for condition in found.conditions:
        out.print(printable(f"not as in {name}: {condition}"), soft_wrap=True)
    if found.changes:
        table = name_table(printable(f"p50 beside {name}, ms"))
        for heading in ("before", "now", "change"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("note", no_wrap=True)
        for change in found.changes:
            words = "within the spread" if change.is_noise else ""
            table.add_row(*names_of(change.now), *map(ms, change.medians_ms), f"{change.ratio - 1:+.1%}", words)
        print_table(out, table)
    for rows, where in ((found.only_before, f"in {name}"), (found.only_now, "in this run")):
        for row in rows:
            out.print(printable(f"only {where}: {' '.join(names_of(row))}"), soft_wrap=True)


def _key(row: Row) -> dict[str, Any]:
    """Return what makes rows of two runs the same; the artifacts' folders may differ."""
    names = ("name", "task", "backend", "precision", "imgsz", "batch", "input", "subject", "mode")
    return {name: getattr(row, name) for name in names}


def _by_key(report: Report) -> dict[tuple[object, ...], Row]:
    found: dict[tuple[object, ...], Row] = {}
    for row in report.rows:
        if row.measured:
            found.setdefault(tuple(_key(row).values()), row)
    return found


def _conditions(before: Report, now: Report) -> list[str]:
    old, new = ({**report.versions, **asdict(report.machine)} for report in (before, now))
    return [
        f"{name} {new.get(name, 'none')}, was {old.get(name, 'none')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
