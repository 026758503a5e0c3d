"""Many exports, each in a process of its own, so that a crash costs one variant and all its memory comes back.

`run` decides which job starts when, on which GPU, and whether it is tried again; `ExportProcess` watches each process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..models.variants import SIZES
from ..system import limits as system_limits
from ..system.processes import run_module
from .child_process import LOGS, wait_for_output
from .export_process import Event, ExportProcess, Limits, OnEvent
from .jobs import Job, Record
from .task_queue import Task, TaskQueue, signals_collected

__all__ = ["LOGS", "WORKER", "Event", "Limits", "default_parallel", "run"]

WORKER = run_module("yolo26_executorch.exporter.worker")
"""What is started for each job."""

CORES_PER_CUDA_JOB = 2
"""An export keeps about so many cores busy on average: Triton's processes more, Python and the C++ compiler one."""
MEMORY_PER_CUDA_JOB = 4_000_000_000
"""Bytes; the largest variant's export held 3.8 GB (`peak_memory_bytes` in results/)."""
GPU_MEMORY_PER_CUDA_JOB = 3_000_000_000
"""Bytes, an estimate: two CUDA contexts, the artifact, and PyTorch's model beside it, in float32, too."""
RETRIES = 2
BACK_OFF_S = 2.0
"""Before the first retry; four times as long before each further one."""

_TICK_S = 0.2


def slots(gpu_memory_bytes: int) -> int:
    """Return how many exports a GPU has memory for, 1 or more."""
    return max(1, gpu_memory_bytes // GPU_MEMORY_PER_CUDA_JOB)


def default_parallel(backend: str, jobs: int, *, memory_bytes: int | None, gpu_slots: int) -> int:
    """Return how many jobs to run at a time; an XNNPACK export uses every core by itself, a CUDA export does not.

    Args:
        backend: of the jobs.
        jobs: how many there are.
        memory_bytes: the machine's; None where it is not known.
        gpu_slots: for how many exports the GPUs that are used have memory, together.
    """
    if backend != "cuda":
        return 1
    most = [jobs, system_limits.cores() // CORES_PER_CUDA_JOB, gpu_slots]
    if memory_bytes is not None:
        most.append(memory_bytes // MEMORY_PER_CUDA_JOB)
    return max(1, min(most))


@dataclass(eq=False)
class _Task(Task):
    attempt: int = 1
    device: str | None = None


def run(
    jobs: Sequence[Job],
    *,
    parallel: int,
    on_event: OnEvent,
    worker: Sequence[str] | None = None,
    keep_logs: bool = False,
    limits: Limits | None = None,
    retries: int = RETRIES,
    back_off_s: float = BACK_OFF_S,
    devices: Mapping[str, int] | None = None,
) -> list[Record]:
    """Run the jobs, up to `parallel` at a time, and return their records in the same order.

    Side by side, the largest models start first, so that no long one is left for the end. SIGINT, SIGTERM and SIGHUP
    end the workers and mark what was not done as "interrupted"; a second signal kills them.

    Args:
        jobs: what to do; names are distinct.
        parallel: workers at a time, 1 or more.
        on_event: called in this thread with a job's name and each of its events: `{"event": "start"}` first, the
            worker's own, `{"event": "retry", "message": str, "in_s": float}` where it begins again, and exactly one
            `{"event": "record", …}` last, also for a worker that died without one.
        worker: the command to start instead of `WORKER`.
        keep_logs: keep the logs of the jobs that went well, too.
        limits: what each worker may take.
        retries: further tries after a failure that may pass (`Record.transient`).
        back_off_s: seconds before the first of them.
        devices: GPUs to spread the jobs over, as CUDA_VISIBLE_DEVICES names them, and for how many exports each has
            memory; none leaves the choice to CUDA.
    """
    queue = TaskQueue(
        [_Task(job.source.name, job) for job in (sorted(jobs, key=largest_first) if parallel > 1 else jobs)], on_event
    )
    running: dict[ExportProcess, _Task] = {}
    environment = _share_of_cores(min(parallel, len(jobs)))

    def finish(task: _Task, record: Record) -> None:
        queue.finish(task, replace(record, attempts=task.attempt, device=task.device))

    def start(task: _Task) -> None:
        queue.report(task, "start")
        task.device = _least_busy(devices or {}, running.values())
        own = {**environment, **_of_attempt(environment, task)}
        try:
            process = ExportProcess(task.job, worker or WORKER, own, limits or Limits(), on_event)
        except OSError as error:
            finish(task, task.job.record("failed", message=f"its process could not start: {error}"))
        else:
            running[process] = task

    def ended(task: _Task, record: Record) -> None:
        if not record.transient or task.attempt > retries or signals:
            finish(task, record)
            return
        pause = back_off_s * 4 ** (task.attempt - 1)
        queue.report(task, "retry", message=record.message or record.outcome, in_s=pause)
        task.attempt += 1
        queue.put_off(task, pause)

    with signals_collected() as signals:
        try:
            while queue.waiting or running:
                for task in queue.due(0 if signals else parallel - len(running)):
                    start(task)
                if signals:
                    queue.interrupt()
                    for process in running:
                        process.stop(now=len(signals) > 1)
                wait_for_output([process.process for process in running], _TICK_S)
                if not running:
                    time.sleep(_TICK_S if queue.waiting else 0)
                for process in list(running):
                    gone = process.poll()
                    process.read()
                    if gone:
                        ended(running.pop(process), process.close(keep_logs))
        finally:
            for process in running:  # only after an error of ours or of on_event
                process.process.close()
    for folder in {job.base_path / LOGS for job in jobs}:
        with contextlib.suppress(OSError):
            folder.rmdir()  # fails, as it should, while logs are in it
    return [queue.records[job.source.name] for job in jobs]


def largest_first(job: Job) -> int:
    """Order jobs by what they take; a checkpoint of the user's own may be of any size."""
    variant = job.source.variant
    return -SIZES.index(variant.size) if variant else -len(SIZES)


def _least_busy(devices: Mapping[str, int], running: Iterable[_Task]) -> str | None:
    """Return the device that one more job fills the least, the first of several."""
    busy = Counter(task.device for task in running)
    return min(devices, key=lambda device: (busy[device] + 1) / devices[device], default=None)


def _share_of_cores(workers: int) -> dict[str, str]:
    """Return the environment of workers that run beside each other: without it, each would take every core.

    The compilers' share is twice the threads', since they wait for each other more than they compute together.
    """
    share = max(1, system_limits.cores() // max(1, workers))
    ours = {"OMP_NUM_THREADS": str(share), "YOLO26_ET_COMPILE_THREADS": str(min(system_limits.cores(), 2 * share))}
    return {**ours, **os.environ}


def _of_attempt(environment: Mapping[str, str], task: _Task) -> dict[str, str]:
    """Return what is special to one attempt: its GPU, and fewer compilers side by side with each further try."""
    threads = int(environment["YOLO26_ET_COMPILE_THREADS"])
    own = {"YOLO26_ET_COMPILE_THREADS": str(max(1, threads // 2 ** (task.attempt - 1)))}
    return own if task.device is None else {**own, "CUDA_VISIBLE_DEVICES": task.device}
