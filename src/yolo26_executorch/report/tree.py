"""What is known of a tree of exports: its artifacts, the reports of the runs that made them, logs and accuracies.

    BASE/NAME/manifest.json    an artifact
    BASE/report.json           the latest `yolo26-et export` into BASE
    BASE/.logs/NAME.log        what an export that went wrong printed
    BASE/*.val.json            what `yolo26-et val --report` measured

The same holds for folders of artifacts further down. All of it may be foreign: nothing is believed to be of its type
before it was looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..artifacts.manifest import PLAIN_NAME, Manifest
from ..artifacts.reading import Checked, check_tree
from ..errors import UsageError
from ..exporter.child_process import LOGS
from ..exporter.jobs import Record
from ..models.tasks import TASKS
from ..models.variants import ALL_VARIANTS, SIZES
from . import val_report
from .val_report import UNREADABLE, ValReport, cause, mapping, model_of, number, time

REPORT = "report.json"
VAL_REPORTS = "*.val.json"

OUTCOMES = ("exported", "skipped", "failed", "interrupted", "damaged", "missing")
"""Those of `jobs`; an artifact that is not intact any more; one that was made and is not there."""

_LOG_LINES = 60
_LOG_BYTES = 16384


@dataclass(frozen=True)
class Run:
    """The latest export into a folder, as its report tells."""

    source: str
    """The report's path, from the base path on."""
    created: datetime
    command: str
    machine: Mapping[str, Any]
    """`Environment.to_json`."""
    records: Mapping[str, Record]
    """By name."""


@dataclass(frozen=True)
class Entry:
    """One model of the tree."""

    place: str
    """Its folder, from the base path on."""
    name: str
    variant: str | None
    task: str | None
    backend: str
    precision: str
    outcome: str
    """One of `OUTCOMES`."""
    message: str | None = None
    """What went wrong, in one line."""
    manifest: Manifest | None = None
    record: Record | None = None
    log: str | None = None
    """The end of its export's log."""
    accuracies: tuple[ValReport, ...] = ()
    """The newest first."""
    notes: tuple[str, ...] = ()
    """What has to be known beside the figures."""
    sources: tuple[str, ...] = ()
    """The files that the figures come from."""
    test: Mapping[str, Any] = field(default_factory=dict)
    """`trial.run_trial`'s figures; empty where there are none."""

    @property
    def size(self) -> str | None:
        """Ultralytics' letter for the size of the network; None for a checkpoint of the user's own."""
        return ALL_VARIANTS[self.variant].size if self.variant in ALL_VARIANTS else None

    @property
    def files(self) -> dict[str, int]:
        """Bytes of each file."""
        if self.manifest:
            return {name: record.bytes for name, record in self.manifest.files.items()}
        return self.record.files if self.record else {}

    @property
    def size_mb(self) -> float | None:
        """Size of all files in MB (10^6 bytes)."""
        return sum(self.files.values()) / 1e6 if self.files else None

    @property
    def seconds(self) -> dict[str, float]:
        """Time of each stage of the export."""
        found = self.manifest.seconds if self.manifest else self.record.seconds if self.record else {}
        return {stage: seconds for stage, seconds in found.items() if number(seconds) is not None}

    @property
    def latency_ms(self) -> float | None:
        """The median of a call from host memory and back, milliseconds."""
        return number(mapping(self.test.get("latency_ms")).get("p50"))

    @property
    def parity(self) -> float | None:
        """The test's worst error ÷ tolerance; above 1 failed."""
        return number(mapping(self.test.get("largest")).get("ratio"))

    @property
    def accuracy(self) -> ValReport | None:
        """The newest measurement."""
        return self.accuracies[0] if self.accuracies else None


@dataclass(frozen=True)
class Tree:
    """All that is known of a tree."""

    entries: tuple[Entry, ...]
    runs: tuple[Run, ...]
    warnings: tuple[str, ...]
    """What was found and could not be used, a line each."""


def read(base: Path, val_reports: Sequence[Path] = ()) -> Tree:
    """Read a tree of exports; nothing of the artifacts is loaded.

    Args:
        base: the folder; an artifact's own will do.
        val_reports: files that `yolo26-et val --report` wrote, beside those that lie in the tree (`VAL_REPORTS`).

    Raises:
        UsageError: no such folder, nothing exported in it, or one of `val_reports` is none.
    """
    checked = {one.folder: one for one in check_tree(base)}
    folders = sorted({base, *(folder.parent for folder in checked if folder != base)})
    warnings: list[str] = []
    runs = {folder: run for folder in folders if (run := _run(folder, base, warnings))}
    accuracies = [val_report.read(path, path.name) for path in val_reports]
    given = {path.resolve() for path in val_reports}
    for path in (path for folder in folders for path in sorted(folder.glob(VAL_REPORTS))):
        try:
            if path.resolve() not in given:
                accuracies.append(val_report.read(path, _relative(path, base)))
        except UsageError as error:
            warnings.append(str(error))
    places = set(checked) | {folder / name for folder, run in runs.items() for name in run.records}
    if not places:
        raise UsageError(f"{base} holds no exports; `yolo26-et export --base-path {base}` makes some")
    entries = [_entry(place, base, checked.get(place), runs.get(place.parent), accuracies) for place in places]
    used = {one.source for entry in entries for one in entry.accuracies}
    warnings += [
        f"{one.source} measures no artifact here, or a former one: {' '.join(map(str, one.model))}"
        for one in accuracies
        if one.source not in used
    ]
    entries.sort(key=lambda entry: (*_order(entry), entry.place))
    return Tree(tuple(entries), tuple(runs.values()), tuple(warnings))


def _entry(place: Path, base: Path, checked: Checked | None, run: Run | None, accuracies: Iterable[ValReport]) -> Entry:
    """Put together what is known of one model."""
    manifest = checked.manifest if checked else None
    record = run.records.get(place.name) if run else None
    if run and record and manifest and not record.ok and time(manifest.created) >= run.created:
        record = None  # it failed once, and was exported since by a run whose report lies elsewhere
    outcome, message = "exported", None
    if record:
        outcome, message = record.outcome, record.message
        if record.ok and checked is None:
            outcome, message = "missing", "it was exported, and its folder is not there any more"
    if checked and checked.problem:
        outcome, message = "damaged", checked.problem
    known: Manifest | Record | None = manifest or record
    test = known.test if known else None
    found = [one for one in accuracies if manifest and one.model == model_of(manifest)]
    found = [one for one in found if manifest and one.created >= time(manifest.created)]
    log = None if record is None or record.ok else _log(place.parent / LOGS / f"{place.name}.log")
    return Entry(
        place=_relative(place, base),
        name=known.name if known else place.name,
        variant=known.variant if known else None,
        task=known.task if known and known.task in TASKS else None,
        backend=known.backend if known else "",
        precision=known.precision if known else "",
        outcome=outcome,
        message=message,
        manifest=manifest,
        record=record,
        log=log,
        accuracies=tuple(sorted(found, key=lambda one: one.created, reverse=True)),
        notes=tuple(_notes(manifest, record, outcome)),
        sources=(
            *([_relative(place / "manifest.json", base)] if manifest else []),
            *([run.source] if run and record else []),
            *(one.source for one in found),
        ),
        test=mapping(test),
    )


def _notes(manifest: Manifest | None, record: Record | None, outcome: str) -> Iterable[str]:
    if manifest is None:
        return
    if manifest.checkpoint.origin == "random":
        seed = manifest.checkpoint.seed
        yield f"Random weights (seed {seed}): good for trying out and timing; its answers mean nothing."
    if manifest.backend != "cuda":
        yield "CPU only: lowered to XNNPACK, it never uses a GPU."
    if manifest.test is None:
        yield "Not tested after its export (--no-test): latency and parity are not known."
    if outcome in ("failed", "interrupted"):
        yield f"The latest export {outcome}; the figures are those of the former artifact, of {manifest.created}."
    if record and record.attempts > 1:
        yield f"Exported at try {record.attempts}."


def _run(folder: Path, base: Path, warnings: list[str]) -> Run | None:
    """Return a folder's report; one that cannot be read becomes a warning."""
    path = folder / REPORT
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_bytes())
        records = [Record.from_json(record) for record in data["records"]]
        if wrong := [record.name for record in records if not PLAIN_NAME.fullmatch(record.name)]:
            raise ValueError(f"{wrong[0]!r} cannot be an artifact's name")
        return Run(
            source=_relative(path, base),
            created=time(data["created"]),
            command=str(data["command"]),
            machine=mapping(data["machine"]),
            records={record.name: record for record in records},
        )
    except UNREADABLE as error:
        warnings.append(f"{path} is no report of `yolo26-et export`: {cause(error)}; what it says is left out")
        return None


def _log(path: Path) -> str | None:
    """Return the end of a log, printable; None where there is none."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    # Progress bars write over their line; only what is left of it at the end was meant to stay.
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    printable = ["".join(c if c.isprintable() or c == "\t" else " " for c in line).rstrip() for line in lines]
    return "\n".join(printable[-_LOG_LINES:]).strip("\n") or None


def _order(entry: Entry) -> tuple[int, int, str]:
    tasks, sizes = [*TASKS], SIZES
    task = tasks.index(entry.task) if entry.task else len(tasks)
    return task, sizes.index(entry.size) if entry.size else len(sizes), entry.name


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path != base else base.resolve().name
