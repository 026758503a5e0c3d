"""The machine that the command was typed on: it hands exports to Ray, and brings what they made to its place."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.manifest import MANIFEST, Manifest
from ...errors import BusyError, Yolo26Error, first_line
from .. import existing, scheduler
from ..child_process import GRACE_S
from ..export_process import Limits, OnEvent
from ..jobs import Job, Record
from ..task_queue import Task, TaskQueue, signals_collected
from . import node
from .connection import Resources
from .stores import Files, Store, log_of

PATIENCE_S = 60.0
"""How long to wait for a machine that could do what is left, once there is none."""

_TICK_S = 0.2
_LOOK_S = 5.0
"""Between two looks at the cluster's machines."""
_BUSY_S = 1.0
"""Between two looks at a lock that another process holds."""


@dataclass(eq=False)
class _Export(Task):
    demand: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    """The file of weights that travels to the machine."""
    begun: int = 0
    """How often a machine has begun with it."""
    held: ExitStack = field(default_factory=ExitStack)
    """Its place's lock."""
    stranded_since: float | None = None
    cancelled: str | None = None
    """Why it was cancelled, where that was not the user's wish."""


def run(
    jobs: Sequence[Job],
    *,
    store: Store,
    on_event: OnEvent,
    architectures: Sequence[str] = (),
    parallel: int | None = None,
    worker: Sequence[str] | None = None,
    keep_logs: bool = False,
    limits: Limits | None = None,
    retries: int = scheduler.RETRIES,
) -> list[Record]:
    """Run the jobs on the cluster that is connected to, and return their records in the same order.

    Arguments, events, signals and records are those of `scheduler.run`, but names are `ARCHITECTURE/NAME` where there
    are architectures.

    Args:
        jobs: what to do.
        store: where the artifacts go; the jobs' own base paths are not used.
        on_event: see `scheduler.run`.
        architectures: kinds of GPU, each of which gets an export of every job; none lets Ray choose any machine.
        parallel: exports at a time; None is as many as the cluster has room for.
        worker: see `scheduler.run`; the command of the machines, not of this one.
        keep_logs: see `scheduler.run`.
        limits: what each export may take, on its machine.
        retries: further tries after a cause that may pass, and after a worker or its machine was lost.
    """
    return _Driver(store, on_event, parallel, worker, keep_logs, limits or Limits(), retries).run(jobs, architectures)


class _Driver:
    def __init__(
        self,
        store: Store,
        on_event: OnEvent,
        parallel: int | None,
        worker: Sequence[str] | None,
        keep_logs: bool,
        limits: Limits,
        retries: int,
    ) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._store = store
        self._parallel = parallel
        self._worker = worker
        self._keep_logs = keep_logs
        self._limits = limits
        self._retries = retries
        self._queue: TaskQueue[_Export] = TaskQueue([], on_event)
        self._running: dict[Any, _Export] = {}
        self._carried: dict[Path, Any] = {}
        """Files of weights in Ray's object store."""
        self._look_at = time.monotonic() + _LOOK_S
        here = ray.get_runtime_context().get_node_id()
        near = NodeAffinitySchedulingStrategy(here, soft=True)
        self._events = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": near})

    def run(self, jobs: Sequence[Job], architectures: Sequence[str]) -> list[Record]:
        resources = Resources.of_cluster()
        labels = []
        for job in sorted(jobs, key=scheduler.largest_first):
            checkpoint = existing.file_of(job.source, job.options, job.weights_dir)
            for kind in architectures or (None,):
                label = f"{kind}/{job.source.name}" if kind else job.source.name
                demand = resources.demand(job.options.backend, kind)
                self._queue.waiting.append(_Export(label, job, demand=demand, checkpoint=checkpoint))
        for job in jobs:
            labels += [f"{kind}/{job.source.name}" for kind in architectures] or [job.source.name]
        with signals_collected() as signals:
            asked: float | None = None
            forced = False
            try:
                while self._queue.waiting or self._running:
                    if not signals:
                        most = None if self._parallel is None else self._parallel - len(self._running)
                        for export in self._queue.due(most):
                            self._start(export)
                    elif asked is None:
                        asked = time.monotonic()
                        self._queue.interrupt()
                        self._cancel(force=False)
                    elif not forced and (len(signals) > 1 or time.monotonic() - asked > GRACE_S + 5):
                        forced = True
                        self._cancel(force=True)
                    ended = self._wait()
                    self._show_events()
                    for ref in ended:
                        export = self._running.pop(ref)
                        self._finish(export, self._result(ref, export, interrupted=bool(signals), killed=forced))
                    self._give_up_the_impossible()
            finally:
                self._cancel(force=True)  # only after an error of ours or of on_event is there anything left
                for export in self._running.values():
                    export.held.close()
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._events.shutdown(force=True)
        return [self._queue.records[label] for label in labels]

    def _start(self, export: _Export) -> None:
        """Hold the export's place and hand it to Ray; or put it off, or skip it."""
        try:
            export.held.enter_context(self._store.hold(export.label))
        except BusyError as error:
            if not export.job.wait:
                self._finish(export, export.job.record("failed", message=str(error), error=type(error).__name__))
                return
            if not export.shown:
                self._queue.report(export, "wait", holder="another process")
            self._queue.put_off(export, _BUSY_S)
            return
        except Yolo26Error as error:
            self._finish(export, export.job.record("failed", message=str(error), error=type(error).__name__))
            return
        if record := self._skipped(export):
            self._finish(export, record)
            return
        task = node.Task(
            label=export.label,
            job=export.job,
            checkpoint=export.checkpoint.name if export.checkpoint else None,
            cpus=export.demand["num_cpus"],
            limits=self._limits,
            retries=self._retries,
            log=self._store.where(log_of(export.label)),
            keep_log=self._keep_logs,
            worker=self._worker,
        )
        remote = self._ray.remote(node.export).options(**export.demand, max_retries=self._retries, name=export.label)
        self._running[remote.remote(task, self._weights(export.checkpoint), self._events)] = export

    def _skipped(self, export: _Export) -> Record | None:
        """Return the record of an export that need not be done; None where it must."""
        job = export.job
        if not job.skip_existing or not (manifest := self._store.there(export.label)):
            return None
        identity = existing.identity_of(job.source, job.options, job.weights_dir)
        if reason := existing.stale(manifest, job, identity, here=False):
            self._queue.report(export, "stale", reason=reason)
            return None
        return job.record_of("skipped", manifest, self._store.where(export.label))

    def _weights(self, path: Path | None) -> Any:
        """Return a file of weights as it lies in Ray's object store, once for all who need it."""
        if path is None:
            return None
        if path not in self._carried:
            self._carried[path] = self._ray.put(np.fromfile(path, np.uint8))
        return self._carried[path]

    def _wait(self) -> list[Any]:
        """Return the tasks that have ended, after a moment at most."""
        if not self._running:
            time.sleep(_TICK_S if self._queue.waiting else 0)
            return []
        ended, _ = self._ray.wait([*self._running], num_returns=len(self._running), timeout=_TICK_S)
        return list(ended)

    def _show_events(self) -> None:
        """Pass on the machines' events since the last time."""
        exports = {export.label: export for export in self._running.values()}
        try:
            events = self._events.get_nowait_batch(self._events.qsize())
        except self._ray.exceptions.RayError:  # the queue's process was lost; only progress is
            return
        for label, event in events:
            export = exports.get(label)
            if export is None:  # its worker was given up
                continue
            if event["event"] != "begin":
                self._queue.report(export, event.pop("event"), **event)
                continue
            export.begun += 1
            self._queue.report(export, "start")
            if export.begun > 1:
                self._queue.report(export, "retry", message="the cluster lost its worker", in_s=0)
            if export.begun > self._retries + 1:  # Ray goes on for ever where a machine's memory ran out
                export.cancelled = f"the cluster lost its worker {export.begun - 1} times"
                self._cancel(force=True, only=export)

    def _result(self, ref: Any, export: _Export, *, interrupted: bool, killed: bool) -> Record:
        """Fetch what an export has made, put it in its place, and return its record.

        Args:
            ref: Ray's reference to the delivery.
            export: what was asked for.
            interrupted: the user has interrupted the command.
            killed: … and the machines were told to end at once.
        """
        failure = "interrupted" if interrupted and export.cancelled is None else "failed"
        try:
            delivery: node.Delivery = self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return export.job.record(failure, message=export.cancelled)
        except self._ray.exceptions.RayTaskError as error:  # a defect of ours there, or another version of us
            return export.job.record(failure, message=f"{type(error.cause).__name__}: {first_line(error.cause)}")
        except self._ray.exceptions.RayError as error:
            lost = f"the cluster lost its worker: {first_line(error)}"
            return export.job.record(failure, message=export.cancelled or lost)
        record = delivery.record
        if not record.ok and (killed or export.cancelled is not None):
            # We ended it; its machine, which may see the worker die before it dies itself, can only guess why.
            record = replace(record, outcome=failure, message=export.cancelled)
        try:
            if delivery.log is not None:
                self._store.write(log_of(export.label), delivery.log)
            if record.ok:
                self._publish(export, delivery.files)
        except (Yolo26Error, OSError, ValueError) as error:
            message = str(error) if isinstance(error, Yolo26Error) else first_line(error)
            return replace(record, outcome="failed", stage="write", message=message, files={})
        return replace(record, attempts=record.attempts + max(0, export.begun - 1))

    def _publish(self, export: _Export, files: Files) -> None:
        """Put an artifact in its place; raises ArtifactError, or UsageError where another checkpoint's is there."""
        # Which weights a machine downloaded is not known before, nor what came here meanwhile.
        if not export.job.force and MANIFEST in files and (former := self._store.manifest(export.label)):
            made = Manifest.from_json(json.loads(files[MANIFEST].tobytes()))
            where = self._store.where(export.label)
            existing.refuse_to_replace([(where, former, existing.identity_in(made))])
        self._store.publish(export.label, files)

    def _finish(self, export: _Export, record: Record) -> None:
        export.held.close()
        folder = self._store.where(export.label) if record.ok else None
        self._queue.finish(export, replace(record, folder=folder))

    def _cancel(self, *, force: bool, only: _Export | None = None) -> None:
        """Ask the machines to end what they do, or end it."""
        for ref, export in self._running.items():
            if only in (None, export):
                self._ray.cancel(ref, force=force)

    def _give_up_the_impossible(self) -> None:
        """Fail what no machine is left for; what Ray keeps in its queue would wait for ever."""
        now = time.monotonic()
        if not self._running or now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        resources = Resources.of_cluster()
        for export in self._running.values():
            if resources.can(export.demand):
                export.stranded_since = None
                continue
            export.stranded_since = export.stranded_since or now
            if now - export.stranded_since > PATIENCE_S and export.cancelled is None:
                wanted = ", ".join(f"{name} {amount}" for name, amount in export.demand.items())
                export.cancelled = f"no machine of the cluster is left that could do it ({wanted})"
                self._cancel(force=True, only=export)
