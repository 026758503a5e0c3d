"""One model, from its name to a tested artifact."""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..artifacts import card
from ..artifacts.current import Identity
from ..artifacts.locks import locked
from ..artifacts.manifest import MANIFEST, PROGRAM, WEIGHTS, DelegateRecord, Manifest, Platform
from ..artifacts.native_code import read_native_code
from ..artifacts.program_file import read_cuda_payload
from ..artifacts.reading import load_manifest, verify
from ..artifacts.writing import Draft
from ..errors import ArtifactError, GpuMemoryError, LimitError, ParityError, Yolo26Error, first_line
from ..lowering import gpus
from ..lowering.program import Lowered
from ..lowering.target import Target
from ..models import checkpoints
from ..models.options import ExportOptions
from ..system.probe import dotted, versions
from . import existing, without_gpu
from .jobs import Job, Record, figures_of
from .smoke_test import Figures, SmokeTest

_ROOM_BYTES = 40_000_000
"""Room for what does not grow with the weights: kernels, the shared object and the program around them."""
_ROOM_PER_PARAMETER = 5
"""Bytes a weight: float32, and what lies between."""

Emit = Callable[[dict[str, Any]], None]


def export_one(job: Job, emit: Emit) -> Record:
    """Export one model, test the files that were written, and put them in place.

    Args:
        job: what to export, and how.
        emit: called with the events of `export_process`.

    Returns:
        How it ended. A user's mistake or a failure that has words for it becomes a failed record; anything else is a
        defect and raised.
    """
    clock = _Clock(emit)
    place = job.base_path / job.source.name
    waiting = (lambda holder: emit({"event": "wait", "holder": holder})) if job.wait else None
    tested: dict[str, Any] = {}
    try:
        with locked(job.base_path, job.source.name, waiting=waiting):
            manifest = _export(job, emit, clock)
            if manifest is None:
                return job.record_of("skipped", load_manifest(place), str(place))
            return job.record_of("exported", load_manifest(place), str(place), seconds=manifest.seconds)
    except Yolo26Error as error:
        message, kind, transient = str(error), _public(type(error)), error.transient
        if isinstance(error, _Mismatch):
            tested = {"task": error.task, **figures_of(error.figures)}
    except RuntimeError as error:  # PyTorch's own, which is no class of ours, and MemoryError's like
        if "out of memory" not in str(error):
            raise
        message = f"the GPU ran out of memory; close other programs or use --jobs 1: {first_line(error)}"
        kind, transient = GpuMemoryError.__name__, GpuMemoryError.transient
    return job.record(
        "failed", stage=clock.stage, message=message, error=kind, seconds=clock.stop(), transient=transient, **tested
    )


class _Mismatch(ParityError):
    """The smoke test's failure, with its figures."""

    def __init__(self, message: str, task: str, figures: dict[str, Any]) -> None:
        super().__init__(message)
        self.task = task
        self.figures = figures


def _public(kind: type[Yolo26Error]) -> str:
    """Return the name of an error's class in `errors`."""
    return next(base.__name__ for base in kind.__mro__ if base.__module__ == Yolo26Error.__module__)


def _export(job: Job, emit: Emit, clock: _Clock) -> Manifest | None:
    """Put the job's artifact in its place and return its manifest; None where it was there already."""
    from ..models.export_model import ExportModel
    from ..parity.records import in_words

    clock("load")
    checkpoint = checkpoints.load(
        job.source,
        weights_dir=job.weights_dir,
        random=job.options.random_weights,
        seed=job.options.seed,
        trusted=job.trusted,
        words=job.options.words,
    )
    native = job.source.variant.native if job.source.variant else None
    options = job.options.resolve(checkpoint.task, checkpoint.stride, native)
    if not _is_wanted(replace(job, options=options), checkpoint, emit):
        return None
    with Draft(job.base_path, job.source.name) as draft, contextlib.ExitStack() as stack:
        _check_room(draft.folder, checkpoint)
        targets = gpus.named(job.architectures, options.precision) if job.architectures else ()
        where = _platform(options.backend, targets)
        here = job.test and (not targets or _runs_here(where))
        smoke_test = stack.enter_context(SmokeTest(options.backend)) if here else None
        model = ExportModel(checkpoint, options)
        specs = model.input_spec, model.output_specs
        lowered = _lower(model, options, clock, targets)
        lowered.write(draft.folder, PROGRAM)
        where = _with_needs(where, draft.folder)
        manifest = Manifest(
            name=job.source.name,
            variant=job.source.variant.name if job.source.variant else None,
            task=checkpoint.task.name,
            backend=options.backend,
            options=options,
            checkpoint=checkpoints.CheckpointRecord(
                checkpoint.origin, checkpoint.file, checkpoint.sha256, checkpoint.seed, job.run_folder
            ),
            classes=checkpoint.names,
            keypoint_shape=checkpoint.keypoint_shape,
            input=specs[0],
            outputs=specs[1],
            delegate=DelegateRecord(lowered.delegate, lowered.delegated.operators, dict(lowered.delegated.outside)),
            platform=where,
            versions=versions(),
            command=job.command,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds={},
            files={},
            test=None,
        )
        figures = None
        if job.test:
            clock("test")
            draft.seal(manifest)
            figures = _tested(draft.folder, job, smoke_test, lowered, targets, where)
            if figures["answer"]:
                emit({"event": "answer", "lines": [f"{figures['picture']}: {line}" for line in figures["answer"]]})
            if figures.get("not_run"):
                emit({"event": "answer", "lines": [without_gpu.in_words(figures)]})
            if not figures["passed"]:
                raise _Mismatch(f"the {in_words(figures['failures'])}", checkpoint.task.name, figures)
        manifest = replace(manifest, seconds=clock.stop(), test=figures, files=draft.records())
        draft.commit(manifest, card.render(manifest))
    return manifest


def _is_wanted(job: Job, checkpoint: checkpoints.Checkpoint, emit: Emit) -> bool:
    """Whether an artifact has to be made, now that its checkpoint is known.

    Raises:
        UsageError: one that was made from another checkpoint is in its place, and must not be replaced.
    """
    place = job.base_path / job.source.name
    identity = Identity(
        True, checkpoint.sha256, checkpoint.seed, variant=job.source.variant.name if job.source.variant else None
    )
    if job.skip_existing and (place / MANIFEST).exists():
        try:
            reason = existing.stale(verify(place), job, identity)
        except ArtifactError as error:
            reason = first_line(error)
        if reason is None:
            return False
        emit({"event": "stale", "reason": reason})
    if not job.force:
        with contextlib.suppress(ArtifactError):  # a damaged one may be replaced
            existing.refuse_to_replace([(str(place), load_manifest(place), identity)])
    return True


def _lower(model: Any, options: ExportOptions, clock: _Clock, targets: Sequence[Target]) -> Lowered:
    if options.backend == "cuda":
        from ..lowering import cuda

        return cuda.lower(model, options, clock, targets)
    from ..lowering import xnnpack

    return xnnpack.lower(model, options, clock)


def _check_room(folder: Path, checkpoint: checkpoints.Checkpoint) -> None:
    """Refuse to compile for minutes what cannot be written; raises LimitError."""
    parameters = sum(parameter.numel() for parameter in checkpoint.network.parameters())
    needed = _ROOM_BYTES + _ROOM_PER_PARAMETER * parameters
    if (free := shutil.disk_usage(folder).free) < needed:
        raise LimitError(
            f"{folder.parents[1]} has {free / 1e6:.0f} MB free, and this export may need {needed / 1e6:.0f} MB; "
            "make room or name another --base-path"
        )


def _platform(backend: str, targets: Sequence[Target]) -> Platform:
    """Return where an artifact made here can run; XNNPACK's holds no machine code.

    Args:
        backend: of the artifact.
        targets: the GPUs that it is compiled for; none is the one at hand.
    """
    if backend != "cuda":
        return Platform("any", "any", (), ())
    from ..lowering.cuda import architectures

    targets = targets or (Target.at_hand(),)
    asked_for = tuple(dotted(gpu.capability) for gpu in targets)
    inside = architectures([gpu.capability for gpu in gpus.compiled(targets)])
    return Platform(platform.system(), platform.machine(), *inside, architectures=asked_for)


def _with_needs(where: Platform, folder: Path) -> Platform:
    """Return where an artifact can run with what its native code needs of the machine's libraries."""
    if where.system == "any":
        return where
    native = read_native_code(read_cuda_payload(folder / PROGRAM, folder / WEIGHTS).library)
    return replace(where, glibc=native.newest("GLIBC_"), glibcxx=native.newest("GLIBCXX_"))


def _tested(
    folder: Path, job: Job, smoke_test: SmokeTest | None, lowered: Lowered, targets: Sequence[Target], where: Platform
) -> Figures:
    """Return the test's figures: run on the GPU or CPU at hand or, where no GPU here can, as far as it goes without."""
    origin: dict[str, Any] = {
        "checkpoint": job.source.path, "weights_dir": job.weights_dir, "trusted": job.trusted, "picture": job.picture,
    }  # fmt: skip
    if smoke_test is None:
        return without_gpu.run(folder, lowered, targets, **origin)
    return {**smoke_test(folder, **origin), **_not_run(where)}


def _runs_here(where: Platform) -> bool:
    """Whether a GPU at hand runs what is compiled for others, too."""
    import torch

    return torch.cuda.is_available() and where.runs_on(torch.cuda.get_device_capability())


def _not_run(where: Platform) -> dict[str, Any]:
    """Return what the smoke test's figures lack: the architectures that none of it has run on."""
    import torch

    if not where.architectures:
        return {}
    here = dotted(torch.cuda.get_device_capability())
    missing = [name for name in where.architectures if name != here]
    return {"not_run": missing} if missing else {}


class _Clock:
    """Times the stages; calling it begins one."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self.stage: str | None = None

    def __call__(self, stage: str) -> None:
        self.stop()
        self.stage = stage
        self._emit({"event": "stage", "stage": stage})

    def stop(self) -> dict[str, float]:
        """Close the running stage and return the seconds of all."""
        now = time.perf_counter()
        if self.stage is not None:
            self._seconds[self.stage] = round(self._seconds.get(self.stage, 0.0) + now - self._began, 3)
        self._began = now
        return dict(self._seconds)
