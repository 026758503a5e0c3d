"""A benchmark from its artifacts to its report: which rows there are, a process for each, rounds in turns."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ..errors import printable
from ..system import probe
from .matrix import Settings, find_image, plan, read_manifests
from .process import WORKER, Job, NoAnswer, Process
from .records import TENSORRTS, Achieved, Ceilings, Latency, Load, Machine, Memory, Report, Round, Row, Work, module_of

OnProgress: TypeAlias = Callable[[str], None]

_SIDE_BY_SIDE = 12
"""Processes that are held open together and take turns; only one works at a time."""


@dataclass
class _Pending:
    """A row that is being measured."""

    row: Row
    process: Process
    rounds: list[Round]


def measure(
    folders: Sequence[Path], settings: Settings, *, command: str, progress: OnProgress, worker: Sequence[str] = WORKER
) -> Report:
    """Measure artifacts and their peers.

    Each row has a process of its own; up to `_SIDE_BY_SIDE` of them are open together and take turns, round by round,
    so that what drifts (clocks, heat, other programs) hits all alike. After an interruption (KeyboardInterrupt) the
    report has the rounds that are through.

    Args:
        folders: the artifacts; their files' hashes are checked before anything runs.
        settings: how.
        command: what was typed, for the report.
        progress: called with a line of words for each step.
        worker: the command to start instead of `WORKER`.

    Raises:
        UsageError: the picture is not there, or two folders are one.
        ArtifactError: a folder is no intact artifact.
    """
    manifests, image, facts = read_manifests(folders), find_image(settings), probe.probe()
    rows = plan(manifests, settings, gpu=bool(facts.gpus))
    logs = Path(tempfile.mkdtemp(prefix="yolo26-et-bench-"))
    session = _Session(settings, image, logs, progress, worker)
    try:
        ceilings, work = session.roofline(rows)
        rows, interrupted = session.rows(rows)
    finally:
        if not session.kept:
            shutil.rmtree(logs, ignore_errors=True)
    rows = [_with_rates(row, work.get(row.artifact), ceilings) for row in rows]
    commit, modified = _commit()
    from .timing import METHOD

    gpu = facts.gpus[0] if facts.gpus else None
    return Report(
        command=command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit,
        modified=modified,
        machine=Machine(
            gpu=gpu.name if gpu else None, capability=gpu.capability if gpu else None,
            driver=facts.driver.version if facts.driver else None, cpu=facts.cpu, cores=facts.cores, os=facts.os,
        ),
        versions=_versions(),
        method=METHOD,
        interrupted=interrupted or session.interrupted,
        ceilings=tuple(ceilings),
        work={folder: _with_floor(one, rows, folder, ceilings) for folder, one in work.items()},
        warnings=tuple(session.warnings),
        rows=tuple(rows),
    )  # fmt: skip


class _Session:
    """What all steps share."""

    def __init__(self, settings: Settings, image: str, logs: Path, progress: OnProgress, worker: Sequence[str]) -> None:
        self.warnings: list[str] = []
        self.interrupted = False
        self.kept = False
        """Whether a log is worth keeping."""
        self._settings = settings
        self._image = image
        self._logs = logs
        self._progress = progress
        self._worker = worker
        self._numbers = itertools.count(1)

    def roofline(self, rows: Sequence[Row]) -> tuple[list[Ceilings], dict[str, Work]]:
        """Measure the ceilings, once for each precision, and count each model's work; what cannot be is a warning."""
        ceilings: list[Ceilings] = []
        work: dict[str, Work] = {}
        wanted = [row for row in rows if row.outcome == "measured"]
        try:
            for device, precision in dict.fromkeys((_device(row), row.precision) for row in wanted):
                self._progress(f"what this machine's {device} does at most in {precision}")
                answers = self._answers([Job("ceilings", device=device, precision=precision)])
                ceilings += [Ceilings(**answer) for answer in answers if answer]
            for folders in _groups(list(dict.fromkeys(row.artifact for row in wanted)), self._settings.jobs):
                self._progress(f"what one call has to do: {', '.join(folders)}")
                answers = self._answers([self._job("work", folder) for folder in folders])
                work |= {folder: Work(**one) for folder, one in zip(folders, answers, strict=True) if one}
        except KeyboardInterrupt:
            self.interrupted = True
        return ceilings, work

    def rows(self, rows: Sequence[Row]) -> tuple[list[Row], bool]:
        """Measure the rows that can be; returns all, in their order, and whether that was interrupted."""
        found = dict(enumerate(rows))
        due = [number for number, row in found.items() if row.outcome == "measured"]
        for batch in _groups(due, max(_SIDE_BY_SIDE, self._settings.jobs)):
            if self.interrupted:
                found |= {number: _failed(found[number], "interrupted") for number in batch}
                continue
            with contextlib.ExitStack() as stack:
                self._measure(batch, found, stack)
        return [found[number] for number in range(len(rows))], self.interrupted

    def _measure(self, numbers: Sequence[int], found: dict[int, Row], stack: contextlib.ExitStack) -> None:
        """Open some rows one after the other, then measure them in turns; what becomes of them goes to `found`."""
        settings = self._settings
        pending: dict[int, _Pending] = {}
        request = {
            "runs": -(-settings.runs // settings.rounds), "seconds": settings.round_s, "warm_s": settings.warm_s,
        }  # fmt: skip
        try:
            for group in _groups(numbers, settings.jobs):
                opening: dict[int, Process] = {}
                for number in group:
                    with self._reporting(number, found):
                        self._progress(f"{_words(found[number])}: opening")
                        opening[number] = stack.enter_context(self._open(found[number]))
                for number, process in opening.items():
                    with self._reporting(number, found):
                        pending[number] = _Pending(self._ready(found[number], process.answer()), process, [])
            for turn in range(settings.rounds):
                for number, one in [*pending.items()]:
                    with self._reporting(number, found, pending):
                        one.rounds.append(Round(**one.process.ask(request)))
                        done = one.rounds[-1]
                        words = f"{done.p50_ms:.3f} ms, {done.runs} calls"
                        self._progress(f"{_words(one.row)}: round {turn + 1} of {settings.rounds}: {words}")
            for one in pending.values():
                one.process.close()
        except KeyboardInterrupt:
            self.interrupted = True
        for number in numbers:
            if found[number].outcome != "measured":
                continue
            one_row = pending.get(number)
            if one_row is None or not one_row.rounds:
                found[number] = _failed(found[number], "interrupted")
                continue
            rounds = tuple(one_row.rounds)
            note = f"interrupted after round {len(rounds)}" if len(rounds) < settings.rounds else None
            found[number] = replace(one_row.row, message=note, rounds=rounds, latency=Latency.of(rounds))

    def _open(self, row: Row) -> Process:
        return self._start(self._job("row", row.artifact, subject=row.subject, mode=row.mode))

    def _ready(self, row: Row, said: dict[str, Any]) -> Row:
        """Return a row with what its worker said when it was ready."""
        load, memory = Load(**said.pop("load")), Memory(**said.pop("memory"))
        alone = self._settings.jobs == 1
        return replace(
            row, **said, load=load if alone else None, memory=memory if alone else replace(memory, gpu_bytes=None)
        )

    @contextlib.contextmanager
    def _reporting(
        self, number: int, found: dict[int, Row], pending: dict[int, _Pending] | None = None
    ) -> Iterator[None]:
        """Turn a worker's failure into its row's outcome."""
        try:
            yield
        except NoAnswer as why:
            row = found[number]
            found[number] = replace(row, outcome=why.outcome, message=str(why))
            self.kept = self.kept or why.outcome == "failed"
            if pending:
                pending.pop(number)
            self._progress(f"{_words(row)}: {why.outcome}: {why}")

    def _answers(self, jobs: Sequence[Job]) -> list[dict[str, Any] | None]:
        """Return the one answer of each of some workers side by side; None, and a warning, where there is none."""
        found: list[dict[str, Any] | None] = [None] * len(jobs)
        with contextlib.ExitStack() as stack:
            started: dict[int, Process] = {}
            for index, job in enumerate(jobs):
                with self._warning(job):
                    started[index] = stack.enter_context(self._start(job))
            for index, process in started.items():
                with self._warning(jobs[index]):
                    found[index] = process.answer()
        return found

    @contextlib.contextmanager
    def _warning(self, job: Job) -> Iterator[None]:
        try:
            yield
        except NoAnswer as why:
            self.warnings.append(f"{job.kind} {job.folder or job.precision}: {why}")

    def _start(self, job: Job) -> Process:
        log = self._logs / f"{next(self._numbers):03} {job.kind} {job.subject} {job.mode}.log"
        return Process(job, log, worker=self._worker, limit_s=self._settings.limit_s)

    def _job(self, kind: str, folder: str, *, subject: str = "", mode: str = "") -> Job:
        settings = self._settings
        return Job(
            kind, folder, subject, mode,
            runner=settings.runner, compile_mode=settings.compile_mode, image=self._image,
            checkpoint=str(settings.checkpoint) if settings.checkpoint else None,
            weights_dir=str(settings.weights_dir) if settings.weights_dir else None,
            trusted=settings.trusted,
        )  # fmt: skip


_T = TypeVar("_T")


def _groups(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _failed(row: Row, message: str) -> Row:
    return replace(row, outcome="failed", message=message)


def _device(row: Row) -> str:
    return "cuda" if row.backend == "cuda" else "cpu"


def _words(row: Row) -> str:
    return printable(f"{row.artifact}, {row.subject}, {row.mode}")


def _ceilings_of(row: Row, ceilings: Sequence[Ceilings]) -> Ceilings | None:
    return next((one for one in ceilings if (one.device, one.precision) == (_device(row), row.precision)), None)


def _with_rates(row: Row, work: Work | None, ceilings: Sequence[Ceilings]) -> Row:
    """Say how much of the ceilings a row reaches; a picture file's row does more than the model."""
    if row.latency is None or work is None or row.mode == "file":
        return row
    seconds, most = row.latency.p50_ms / 1000, _ceilings_of(row, ceilings)
    gflop_s, gb_s = work.gflop / seconds, work.gb / seconds
    return replace(
        row,
        achieved=Achieved(gflop_s, gb_s, gflop_s / most.gflop_s if most else None, gb_s / most.gb_s if most else None),
    )


def _with_floor(work: Work, rows: Sequence[Row], folder: str, ceilings: Sequence[Ceilings]) -> Work:
    most = next((_ceilings_of(row, ceilings) for row in rows if row.artifact == folder), None)
    return replace(work, floor_ms=max(work.gflop / most.gflop_s, work.gb / most.gb_s) * 1000 if most else None)


def _versions() -> dict[str, str]:
    found = probe.versions()
    distributions = importlib.metadata.packages_distributions()
    for module in ("onnxruntime", "onnx", *map(module_of, TENSORRTS)):  # each comes under several names
        found |= {name: importlib.metadata.version(name) for name in distributions.get(module, ())}
    return found


def _commit() -> tuple[str | None, bool | None]:
    """Return the checkout's commit and whether it was modified since; (None, None) outside a checkout of ours."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed inside some other project's checkout
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
