"""The records of results/*.json, read and checked: what a run was, an export that passed, a benchmark's row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from yolo26_executorch import VARIANTS, ExportOptions, Yolo26Error
from yolo26_executorch.bench.records import ARTIFACT

ROW = ("name", "input", "subject", "mode")
"""What makes a benchmark's row, within the options that all of a file have in common."""

Table = list[list[str]]


class ResultsError(Yolo26Error):
    """A file of results is damaged, or README has no place for them."""


@dataclass(frozen=True)
class Run:
    """One command that was run."""

    name: str
    commit: str
    options: ExportOptions

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        """Read a run; raises ValueError, KeyError, TypeError or OptionError on damaged data."""
        if not re.fullmatch("[0-9a-f]{40}", data["commit"]):
            raise ValueError(f"run {data['run']}: expected a full commit hash, given {data['commit']!r}")
        return cls(data["run"], data["commit"], ExportOptions.from_json(data["options"]))

    def __str__(self) -> str:
        """Name the run and its commit, as the tables do."""
        return f"{self.name} {self.commit[:7]}"

    def differences(self) -> list[str]:
        """Return the options that are not the usual ones, as flags; the precision is not among them."""
        usual = ExportOptions()
        found = [
            f"--{field.name} {value}"
            for field in fields(usual)
            if field.name in ("batch", "outputs", "input", "io")
            and (value := getattr(self.options, field.name)) != getattr(usual, field.name)
        ]
        if self.options.imgsz != usual.imgsz:
            found.insert(0, f"--imgsz {' '.join(map(str, self.options.imgsz or ['native']))}")
        return found


@dataclass(frozen=True)
class Passed:
    """The figures of an export that passed its test."""

    variant: str
    run: Run
    size_mb: float
    seconds: float
    latency_ms: float | None
    """None where outputs stay on the GPU: those calls do not go back to host memory."""
    ratio: float
    quantity: str
    matched: int
    rows: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any], runs: Mapping[str, Run]) -> Passed:
        """Read a record and check that it says the same everywhere; raises like `Run.from_json`."""
        run, test, name = runs[data["run"]], data["test"], model_of(data)
        inputs = test["inputs"]
        ratio, quantity = max((number(q["ratio"]), q["name"]) for one in inputs for q in one["quantities"])
        latency = number(test["latency_ms"]["p50"])
        checks = {
            "outcome": data["outcome"] == "exported",
            "test": test["passed"] is True and all(one["passed"] is True for one in inputs) and ratio <= 1,
            "largest_error": (data["largest_error"]["ratio"], data["largest_error"]["quantity"]) == (ratio, quantity),
            "latency_ms": data["latency_ms"] == latency,
            "precision": data["precision"] == run.options.precision,
            "folder": not data["folder"].startswith(("/", "~", "..")),
        }
        if wrong := [key for key, good in checks.items() if not good]:
            raise ValueError(f"{name} of {run.name} does not hold together: {', '.join(wrong)}")
        agreements = [one["agreement"] for one in inputs]
        return cls(
            variant=name,
            run=run,
            size_mb=sum(number(size) for size in data["files"].values()) / 1e6,
            seconds=sum(number(seconds) for seconds in data["seconds"].values()),
            latency_ms=latency if run.options.io == "host" else None,
            ratio=ratio,
            quantity=quantity,
            matched=sum(int(one["matched"]) for one in agreements),
            rows=sum(int(one["rows"]) for one in agreements),
        )

    def cells(self) -> list[str]:
        """Return the figures as the table's cells, without the variant."""
        return [
            f"{self.size_mb:.1f}",
            f"{self.seconds:.0f}",
            "–" if self.latency_ms is None else f"{self.latency_ms:.2f}",
            f"{self.ratio:.2f} `{self.quantity}`",
            f"{self.matched} of {self.rows}",
            str(self.run),
        ]


@dataclass(frozen=True)
class Compared:
    """One artifact's row of a benchmark, and its peers'."""

    variant: str
    input: str
    mode: str
    run: Run
    p20_ms: float
    p50_ms: float
    p80_ms: float
    of_compute: float | None
    """The part of the measured ceiling that is reached, 0..1."""
    peers: Mapping[str, float]
    """Medians, ms."""

    @classmethod
    def of(cls, variant: str, given: str, mode: str, subjects: Mapping[str, Mapping[str, Any]], run: Run) -> Compared:
        """Take the figures of a row's records; raises like `Run.from_json`."""
        own = subjects[ARTIFACT]
        low, middle, high = (number(own["latency"][key]) for key in ("p20_ms", "p50_ms", "p80_ms"))
        reached = own["achieved"] and own["achieved"]["of_compute"]
        peers = {
            name: number(one["latency"]["p50_ms"])
            for name, one in subjects.items()
            if name != ARTIFACT and one["run"] == run.name  # together or not at all
        }
        return cls(variant, given, mode, run, low, middle, high, reached, peers)

    def cells(self, peers: Sequence[str]) -> list[str]:
        """Return the row of the table."""
        name = self.variant if self.input == ExportOptions().input else f"{self.variant}, {self.input}"
        told = []
        for peer in peers:
            ms = self.peers.get(peer)
            told += ["–", "–"] if ms is None else [f"{ms:.3f}", f"{ms / self.p50_ms:.2f}"]
        reached = "–" if self.of_compute is None else f"{self.of_compute:.1%}"
        span = f"{self.p20_ms:.3f} to {self.p80_ms:.3f}"
        return [name, self.mode, f"{self.p50_ms:.3f}", span, *told, reached, str(self.run)]


def model_of(record: Mapping[str, Any]) -> str:
    """Return the variant's name, or that of a checkpoint which is none."""
    name = str(record["name"] if record["variant"] is None else record["variant"])
    if record["variant"] is not None and name not in VARIANTS:
        raise ValueError(f"{name!r} is none of the 25 variants")
    return name


def row_of(record: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what makes a benchmark record's row."""
    return tuple(record[key] for key in ROW)


def number(value: object) -> float:
    """Return a figure; raises ValueError where it is no finite number from 0 up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"expected a number from 0 up, given {value!r}")
    return float(value)
