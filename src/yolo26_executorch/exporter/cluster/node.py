"""One export on one machine of a cluster: what Ray runs there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...system import requirements
from ...system.processes import is_running
from .. import scheduler
from ..child_process import LOGS
from ..export_process import Event, Limits
from ..jobs import Job, Record


@dataclass(frozen=True)
class Task:
    """What a machine is asked to do."""

    label: str
    """What its events bear; see `stores` for how places are named."""
    job: Job
    """Its paths are the driver's."""
    checkpoint: str | None
    """Name of the file of weights that travels along; None leaves it to the machine to have them or download them."""
    cpus: int
    """The CPUs that Ray sets aside for it."""
    limits: Limits
    retries: int
    log: str
    """Where its log will be found, for messages."""
    keep_log: bool
    worker: Sequence[str] | None
    """The worker's command, None for `scheduler.WORKER`."""


@dataclass(frozen=True)
class Delivery:
    """What comes back."""

    record: Record
    files: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """The artifact, where one was made: name → bytes (n,)."""
    log: bytes | None = None
    """What the worker and its libraries printed, where it is worth keeping."""


def export(task: Task, weights: NDArray[np.uint8] | None, events: Any) -> Delivery:
    """Export one model in a scratch folder and return it whole.

    Args:
        task: what to do.
        weights: bytes (n,) of the file of weights.
        events: the `ray.util.queue.Queue` for `(label, event)`: first `{"event": "begin", "host": str, "pid": int}`,
            then those of the worker, but for its record, which is returned.
    """
    host = socket.gethostname()

    def emit(event: Event) -> None:
        with contextlib.suppress(Exception):  # whatever became of the queue, the export goes on
            events.put((task.label, dict(event)))

    emit({"event": "begin", "host": host, "pid": os.getpid()})
    if task.worker is None and (problem := _problem(task.job)):
        return Delivery(task.job.record("failed", message=f"{host} cannot do it: {problem}"))
    # Ray's own setting of OMP_NUM_THREADS comes through; the compilers' share is ours to set.
    os.environ["YOLO26_ET_COMPILE_THREADS"] = str(2 * max(1, task.cpus))
    with _scratch() as scratch:
        job = _here(task, weights, scratch)
        (record,) = scheduler.run(
            [job],
            parallel=1,
            on_event=lambda _, event: emit(event) if event["event"] not in ("start", "record") else None,
            worker=task.worker,
            keep_logs=task.keep_log,
            limits=task.limits,
            retries=task.retries,
        )
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "") if job.options.backend == "cuda" else ""
        log = job.base_path / LOGS / f"{job.source.name}.log"
        message = record.message and record.message.replace(str(log), task.log)
        record = replace(record, device=f"{host}:{gpus}" if gpus else host, message=message)
        place = job.base_path / job.source.name
        return Delivery(
            record,
            {path.name: np.fromfile(path, np.uint8) for path in place.iterdir()} if record.ok else {},
            log.read_bytes() if log.is_file() else None,
        )


def _problem(job: Job) -> str | None:
    """Return why this machine cannot do it, as the command does for its own."""
    if job.options.backend == "cuda":
        able = requirements.usable_cuda()
    else:
        able = requirements.executorch_runtime_fits() if job.test else requirements.Usable(True)
    return None if able else str(able)


def _here(task: Task, weights: NDArray[np.uint8] | None, scratch: Path) -> Job:
    """Return the job with this machine's paths, its weights in place."""
    job = replace(task.job, base_path=scratch / "made", weights_dir=None, skip_existing=False)
    if weights is None or task.checkpoint is None:
        return job
    path = scratch / task.checkpoint
    weights.tofile(path)
    if job.source.path is None:
        return replace(job, weights_dir=scratch)
    return replace(job, source=replace(job.source, path=path))


def scratch_folders() -> list[tuple[int, Path]]:
    """Return the folders that exports work in on this machine, and the process that each belongs to."""
    found = []
    for path in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        owner = path.name.removeprefix(_prefix()).partition("-")[0]
        with contextlib.suppress(FileNotFoundError):
            if owner.isdecimal() and path.stat().st_uid == os.getuid():
                found.append((int(owner), path))
    return found


def remove_abandoned() -> None:
    """Remove the folders of exports whose process was killed."""
    for owner, path in scratch_folders():
        if not is_running(owner):
            shutil.rmtree(path, ignore_errors=True)


def _prefix() -> str:
    return f"yolo26-et-ray-{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-"


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Make a private folder that is removed afterwards, or by the next export on this machine if we are killed."""
    remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
