"""The machine that the command was typed on: it hands exports to Ray, and brings what they made to its place."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.current import State
from ...errors import BusyError, Yolo26Error, first_line
from .. import existing, scheduler
from ..child_process import GRACE_S, Limits, OnEvent
from ..jobs import Job, Record
from . import node
from .connection import Resources
from .stores import Store, log_of

PATIENCE_S = 60.0
"""How long to wait for a machine that could do what is left, once there is none."""

_TICK_S = 0.2
_LOOK_S = 5.0
"""Between two looks at the cluster's machines."""
_BUSY_S = 1.0
"""Between two looks at a lock that somebody else holds."""


@dataclass
class _Export:
    """An export that has not ended."""

    label: str
    job: Job
    demand: dict[str, Any]
    checkpoint: Path | None
    begun: int = 0
    """How often a machine has begun with it."""
    shown: bool = False
    not_before: float = 0.0
    held: ExitStack = field(default_factory=ExitStack)
    """Its place's lock."""
    stranded_since: float | None = None
    verdict: str | None = None
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

    Arguments, events, signals and records are those of `fleet.run`, but that names are `ARCHITECTURE/NAME` where there
    are architectures.

    Args:
        jobs: what to do.
        store: where the artifacts go; the jobs' own base paths are not used.
        on_event: see `fleet.run`.
        architectures: kinds of GPU, each of which gets an export of every job; none lets Ray choose any machine.
        parallel: exports at a time; None is as many as the cluster has room for.
        worker: see `fleet.run`; the command of the machines, not of this one.
        keep_logs: see `fleet.run`.
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
        self._on_event = on_event
        self._parallel = parallel
        self._worker = worker
        self._keep_logs = keep_logs
        self._limits = limits
        self._retries = retries
        self._waiting: list[_Export] = []
        self._running: dict[Any, _Export] = {}
        self._records: dict[str, Record] = {}
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
            for kind in architectures or (None,):
                label = f"{kind}/{job.source.name}" if kind else job.source.name
                demand = resources.demand(job.options.backend, kind)
                self._waiting.append(
                    _Export(label, job, demand, existing.file_of(job.source, job.options, job.weights_dir))
                )
        for job in jobs:
            labels += [f"{kind}/{job.source.name}" for kind in architectures] or [job.source.name]
        with scheduler.signals_collected() as signals:
            asked: float | None = None
            forced = False
            try:
                while self._waiting or self._running:
                    if not signals:
                        self._start_what_can()
                    elif asked is None:
                        asked = time.monotonic()
                        for export in self._waiting:
                            self._finish(export, export.job.record("interrupted"))
                        self._waiting.clear()
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
        return [self._records[label] for label in labels]

    def _start_what_can(self) -> None:
        for export in [one for one in self._waiting if time.monotonic() >= one.not_before]:
            if self._parallel is not None and len(self._running) >= self._parallel:
                return
            self._waiting.remove(export)
            self._start(export)

    def _start(self, export: _Export) -> None:
        """Hold the export's place and hand it to Ray; or put it off, or skip it."""
        try:
            export.held.enter_context(self._store.hold(export.label))
        except BusyError as error:
            if not export.job.wait:
                self._finish(export, export.job.record("failed", message=str(error)))
                return
            if not export.shown:
                self._show_start(export)
                self._on_event(export.label, {"event": "wait", "holder": "another process"})
            export.not_before = time.monotonic() + _BUSY_S
            self._waiting.append(export)
            return
        except Yolo26Error as error:
            self._finish(export, export.job.record("failed", message=str(error)))
            return
        if export.job.skip_existing and (manifest := self._store.there(export.label)):
            identity = existing.identity_of(export.job.source, export.job.options, export.job.weights_dir)
            # Which machine will run it is not known.
            if existing.wanted(export.job, identity, here=False).state_of(manifest) is State.CURRENT:
                self._finish(export, export.job.record("skipped", **existing.fields_of_artifact(manifest)))
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
            time.sleep(_TICK_S if self._waiting else 0)
            return []
        ended, _ = self._ray.wait([*self._running], num_returns=len(self._running), timeout=_TICK_S)
        return list(ended)

    def _show_events(self) -> None:
        """Pass on what the machines have said since."""
        exports = {export.label: export for export in self._running.values()}
        try:
            said = self._events.get_nowait_batch(self._events.qsize())
        except self._ray.exceptions.RayError:  # the queue's process was lost; only progress is
            return
        for label, event in said:
            export = exports.get(label)
            if export is None:  # its worker was given up
                continue
            if event["event"] != "begin":
                self._on_event(label, event)
                continue
            export.begun += 1
            self._show_start(export)
            if export.begun > 1:
                message = "the cluster lost its worker"
                self._on_event(label, {"event": "retry", "message": message, "in_s": 0})
            if export.begun > self._retries + 1:  # Ray goes on for ever where a machine's memory ran out
                export.verdict = f"the cluster lost its worker {export.begun - 1} times"
                self._cancel(force=True, only=export)

    def _show_start(self, export: _Export) -> None:
        if not export.shown:
            export.shown = True
            self._on_event(export.label, {"event": "start"})

    def _result(self, ref: Any, export: _Export, *, interrupted: bool, killed: bool) -> Record:
        """Fetch what an export has made, put it in its place, and return its record.

        Args:
            ref: Ray's reference to the delivery.
            export: what was asked for.
            interrupted: the user has interrupted the command.
            killed: … and the machines were told to end at once.
        """
        failure = "interrupted" if interrupted and export.verdict is None else "failed"
        try:
            delivery: node.Delivery = self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return export.job.record(failure, message=export.verdict)
        except self._ray.exceptions.RayTaskError as error:  # a defect of ours there, or a foreign version of us
            return export.job.record(failure, message=f"{type(error.cause).__name__}: {first_line(error.cause)}")
        except self._ray.exceptions.RayError as error:
            lost = f"the cluster lost its worker: {first_line(error)}"
            return export.job.record(failure, message=export.verdict or lost)
        record = delivery.record
        if not record.ok and (killed or export.verdict is not None):
            # We ended it; its machine, which may see the worker die before it dies itself, can only guess why.
            record = replace(record, outcome=failure, message=export.verdict)
        try:
            if delivery.log is not None:
                self._store.write(log_of(export.label), delivery.log)
            if record.ok:
                self._store.publish(export.label, delivery.files)
        except (Yolo26Error, OSError) as error:
            return replace(record, outcome="failed", stage="write", message=first_line(error), files={})
        return replace(record, attempts=record.attempts + max(0, export.begun - 1))

    def _finish(self, export: _Export, record: Record) -> None:
        export.held.close()
        self._show_start(export)
        folder = self._store.where(export.label) if record.ok else None
        record = replace(record, name=export.label, folder=folder)
        self._records[export.label] = record
        self._on_event(export.label, {"event": "record", "record": record.to_json()})

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
            if now - export.stranded_since > PATIENCE_S and export.verdict is None:
                wanted = ", ".join(f"{name} {amount}" for name, amount in export.demand.items())
                export.verdict = f"no machine of the cluster is left that could do it ({wanted})"
                self._cancel(force=True, only=export)
