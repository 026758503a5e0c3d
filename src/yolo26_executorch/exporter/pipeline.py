"""One model, from its name to a tested artifact."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts import card
from ..artifacts.current import Identity
from ..artifacts.locks import locked
from ..artifacts.manifest import PROGRAM, Manifest, Platform
from ..artifacts.reading import load_manifest
from ..artifacts.writing import Draft
from ..errors import ArtifactError, GpuMemoryError, LimitError, ParityError, Yolo26Error, first_line
from ..models import checkpoints
from ..system.probe import versions
from ..system.processes import run_module
from . import existing
from .jobs import Job, Record

if TYPE_CHECKING:
    from typing_extensions import Self

_ROOM_BYTES = 40_000_000
"""Room for what does not grow with the weights: kernels, the shared object and the program around them."""
_ROOM_PER_PARAMETER = 5
"""Bytes a weight: float32, and what lies between."""

Say = Callable[[dict[str, Any]], None]


def export_one(job: Job, say: Say) -> Record:
    """Export one model, test the files that were written, and put them in place.

    Args:
        job: what to export, and how.
        say: called with the worker's events (`supervision`): stages as they begin, and the model's answer.

    Returns:
        How it ended. A user's mistake or a failure that has words for it becomes a failed record; anything else is a
        defect and raised.
    """
    clock = _Clock(say)
    waiting = (lambda holder: say({"event": "wait", "holder": holder})) if job.wait else None
    try:
        with locked(job.base_path, job.source.name, waiting=waiting):
            return _export(job, say, clock)
    except Yolo26Error as error:
        message, kind, transient = str(error), type(error), error.transient
    except RuntimeError as error:  # PyTorch's own, which is no class of ours, and MemoryError's like
        if "out of memory" not in str(error):
            raise
        message = f"the GPU ran out of memory; close other programs or use --jobs 1: {first_line(error)}"
        kind, transient = GpuMemoryError, GpuMemoryError.transient
    return job.record(
        "failed", stage=clock.stage, message=message, error=kind.__name__, seconds=clock.stop(), transient=transient
    )


def _export(job: Job, say: Say, clock: _Clock) -> Record:
    from ..models.export_model import ExportModel
    from ..parity.records import in_words

    clock("load")
    checkpoint = checkpoints.load(
        job.source,
        weights_dir=job.weights_dir,
        random=job.options.random_weights,
        seed=job.options.seed,
        trusted=job.trusted,
    )
    options = job.options.resolve(checkpoint.task, checkpoint.stride)
    job = replace(job, options=options)
    identity = {
        "origin": checkpoint.origin,
        "file": checkpoint.file,
        "sha256": checkpoint.sha256,
        "seed": checkpoint.seed,
        "folder": job.run_folder,
    }
    place = job.base_path / job.source.name
    variant = job.source.variant.name if job.source.variant else None
    found = Identity(True, checkpoint.sha256, checkpoint.seed, variant)
    if job.skip_existing and (there := existing.wanted(job, found).find(place)):
        return job.record("skipped", folder=str(place), **existing.fields_of_artifact(there))
    if not job.force:
        _refuse_to_replace(place, found)
    with Draft(job.base_path, job.source.name) as draft, contextlib.ExitStack() as stack:
        _check_room(draft.folder, checkpoint)
        trial = stack.enter_context(_Trial(options.backend)) if job.test else None
        model = ExportModel(checkpoint, options)
        specs = model.input_spec, model.output_specs
        lowered = _lower(model, job, clock)
        lowered.write(draft.folder, PROGRAM)
        manifest = Manifest(
            name=job.source.name,
            variant=variant,
            task=checkpoint.task.name,
            backend=options.backend,
            options=options,
            checkpoint=identity,
            classes=checkpoint.names,
            keypoint_shape=checkpoint.keypoint_shape,
            input=specs[0],
            outputs=specs[1],
            delegate={
                "name": lowered.delegate,
                "delegated": lowered.delegated.operators,
                "outside": lowered.delegated.outside,
            },
            platform=_platform(options.backend),
            versions=versions(),
            command=job.command,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds={},
            files={},
            test=None,
        )
        test = None
        if trial is not None:
            clock("test")
            draft.seal(manifest)
            test = trial(draft.folder, job)
            if test["answer"]:
                say({"event": "answer", "lines": [f"{test['picture']}: {line}" for line in test["answer"]]})
            if not test["passed"]:
                message = f"the {in_words(test['failures'])}"
                task = checkpoint.task.name
                return job.record(
                    "failed",
                    stage="test",
                    message=message,
                    error=ParityError.__name__,
                    task=task,
                    seconds=clock.stop(),
                    **existing.fields_of_test(test),
                )
        seconds = clock.stop()
        manifest = replace(manifest, seconds=seconds, test=test, files=draft.records())
        draft.commit(manifest, card.render(manifest))
    there = load_manifest(place)
    return job.record("exported", folder=str(place), seconds=seconds, **existing.fields_of_artifact(there))


def _refuse_to_replace(place: Path, identity: Identity) -> None:
    """Look again, now that the checkpoint is known, at what lies in its artifact's place; raises UsageError."""
    with contextlib.suppress(ArtifactError):  # a damaged one is nobody's
        existing.refuse_to_replace([(str(place), load_manifest(place), identity)])


def _lower(model: Any, job: Job, clock: _Clock) -> Any:
    if job.options.backend == "cuda":
        from ..lowering import cuda as backend
    else:
        from ..lowering import xnnpack as backend  # type: ignore[no-redef]
    return backend.lower(model, job.options, clock)


def _check_room(folder: Path, checkpoint: checkpoints.Checkpoint) -> None:
    """Refuse to compile for minutes what cannot be written; raises LimitError."""
    parameters = sum(parameter.numel() for parameter in checkpoint.network.parameters())
    needed = _ROOM_BYTES + _ROOM_PER_PARAMETER * parameters
    if (free := shutil.disk_usage(folder).free) < needed:
        raise LimitError(
            f"{folder.parents[1]} has {free / 1e6:.0f} MB free, and this export may need {needed / 1e6:.0f} MB; "
            "make room or name another --base-path"
        )


def _platform(backend: str) -> Platform:
    """Return where an artifact made here can run; XNNPACK's holds no machine code."""
    if backend != "cuda":
        return Platform("any", "any", (), ())
    import torch

    from ..lowering.cuda import architectures

    return Platform(platform.system(), platform.machine(), *architectures(torch.cuda.get_device_capability()))


class _Trial:
    """The process of the test, a fresh one: it imports what it needs while the model is lowered, and then waits for it.

    Leaving the context ends it.
    """

    def __init__(self, backend: str) -> None:
        self._process = subprocess.Popen(
            run_module("yolo26_executorch.exporter.smoke_test", backend),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, folder: Path, job: Job) -> dict[str, Any]:
        """Have an artifact tested; raises ParityError where that could not be done."""
        printed, _ = self._process.communicate(json.dumps({"folder": str(folder), "job": job.to_json()}))
        lines = printed.splitlines()
        if (status := self._process.returncode) or not lines:
            raise ParityError(f"the test's process ended with status {status} before it had figures; see the log")
        figures: dict[str, Any] = json.loads(lines[-1])
        if "error" in figures:
            kind = GpuMemoryError if figures["kind"] == GpuMemoryError.__name__ else ParityError
            raise kind(f"the test could not run: {figures['error']}")
        return figures

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()  # closes the pipes and waits


class _Clock:
    """Times the stages; calling it begins one."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self.stage: str | None = None

    def __call__(self, stage: str) -> None:
        self.stop()
        self.stage = stage
        self._say({"event": "stage", "stage": stage})

    def stop(self) -> dict[str, float]:
        """Close the running stage and return the seconds of all."""
        now = time.perf_counter()
        if self.stage is not None:
            self._seconds[self.stage] = round(self._seconds.get(self.stage, 0.0) + now - self._began, 3)
        self._began = now
        return dict(self._seconds)
