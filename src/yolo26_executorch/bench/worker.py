"""The process of one row: opens a model, says how long that took, then times it whenever it is asked to.

Standard input: a job (`process.Job`) on the first line, then a line for each round; its end ends the process.
Standard output: a line of JSON for each of those.

    {"event": "ready", …}         the fields of a `Row` that are known by now; the answer to a row's job
    {"event": "round", …}         a `Round`; the answer to {"runs": N, "seconds": S, "warm_s": S}
    {"event": "answer", …}        the answer to a job that is no row
    {"event": "skipped", "message": "…"}, {"event": "failed", "message": "…"}    nothing follows
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Yolo26Error, first_line
from .process import Job
from .records import ARTIFACT, Load, Memory

if TYPE_CHECKING:
    from torch import Tensor

    from ..artifacts.manifest import Manifest
    from ..artifacts.reading import Artifact
    from ..models.checkpoints import Checkpoint
    from .timing import Call

Event = dict[str, Any]
Say = Callable[[Event], None]

SEEDS = (1, 2, 3, 4)
"""Of the made-up inputs that the calls of a row take in turns."""


class Skipped(Exception):
    """The row cannot be measured here, and nothing is wrong; says why in one line."""


@dataclass
class Opened:
    """A model that is ready to be called."""

    runner: Any
    """A `Runner`; those that keep tensors on a GPU have `run`, `capture` and `replay`, too."""
    predict: Callable[[str], list[Any]] | None
    """From a picture file to results; only for that row."""


def main() -> int:
    """Serve the job on standard input; returns the exit status, 0 also for a failure that was reported in words."""
    # Compilers and libraries print what they like; only events may reach standard output.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.environ["YOLO_AUTOINSTALL"] = "false"

    def say(event: Event) -> None:
        events.write(json.dumps(event) + "\n")

    try:
        job = Job(**json.loads(sys.stdin.readline()))
        {"row": _row, "work": _work, "ceilings": _ceilings}[job.kind](job, say)
    except Skipped as why:
        say({"event": "skipped", "message": str(why)})
    except Yolo26Error as error:
        say({"event": "failed", "message": str(error)})
    except Exception as error:
        traceback.print_exc()
        say({"event": "failed", "message": f"{type(error).__name__}: {first_line(error)}"})
    return 0


def _row(job: Job, say: Say) -> None:
    """Open the model, make one call, then time what is asked for."""
    from ..artifacts.reading import Artifact
    from ..parity.baseline import device_of
    from .timing import DEVICE, HOST, gpu_memory_used, measure

    began = time.perf_counter()
    with Artifact.open(job.folder) as artifact:
        manifest, verify_s = artifact.manifest, time.perf_counter() - began
        device = device_of(manifest)
        used_before = gpu_memory_used() if device == "cuda" else None
        inputs, opener = _inputs(manifest), _opener(job, artifact, manifest.precision, device)
        import_s = _age_s() - verify_s

        began = time.perf_counter()
        opened = opener()
        _wait(device)
        open_s = time.perf_counter() - began + (verify_s if job.subject == ARTIFACT else 0)

    if job.mode in ("graph", "launched") and not hasattr(opened.runner, "run"):
        raise Skipped(f"the runner {opened.runner.name} takes nothing in GPU memory; --runner aoti does")
    if device == "cuda" and job.mode != "file":
        on_device = [batch.to(device) for batch in inputs]
        inputs = on_device if job.mode in ("graph", "launched") else inputs
    began = time.perf_counter()
    call, outputs = _call(job, opened, inputs, device)
    _wait(device)
    first_s = time.perf_counter() - began

    _check_finite(outputs)
    equal = _replay_equals_call(opened.runner, inputs[0], outputs) if job.mode == "graph" else None
    settings = dict(getattr(opened.runner, "settings", {"io": manifest.options.io}))
    say({
        "event": "ready", "runner": opened.runner.name, "device": device, "settings": settings,
        "clock": DEVICE if call.clock == DEVICE else HOST, "graph_equals_call": equal,
        "load": asdict(Load(import_s, open_s, first_s, import_s + open_s + first_s)),
        "memory": asdict(_memory(used_before)),
    })  # fmt: skip
    while line := sys.stdin.readline():
        say({"event": "round", **asdict(measure(call, **json.loads(line)))})
    opened.runner.close()


def _work(job: Job, say: Say) -> None:
    """Count what a model has to do."""
    from ..artifacts.reading import load_manifest
    from .roofline import count_work

    manifest = load_manifest(Path(job.folder))
    work = count_work(_checkpoint(job, manifest), manifest.options, manifest.precision)
    say({"event": "answer", **asdict(work)})


def _ceilings(job: Job, say: Say) -> None:
    """Measure what the machine does at most."""
    from .roofline import measure_ceilings

    say({"event": "answer", **asdict(measure_ceilings(job.device, job.precision))})


def _inputs(manifest: Manifest) -> list[Tensor]:
    from ..models.preprocess import random_input

    return [random_input(manifest.input, seed) for seed in SEEDS]


def _opener(job: Job, artifact: Artifact, precision: str, device: str) -> Callable[[], Opened]:
    """Return what opens the model, with all that it takes imported and, for a peer, the checkpoint loaded."""
    import torch

    manifest = artifact.manifest

    if device == "cuda" and not torch.cuda.is_available():
        raise Skipped("no NVIDIA GPU is usable here; `yolo26-et doctor` says why")
    if job.mode == "file":
        from ..vision import predict  # noqa: F401
    if job.subject == ARTIFACT:
        from ..artifacts.program_file import import_readers
        from ..runtime.executorch import obstacle

        obstacle(manifest)  # imports ExecuTorch's runtime
        if manifest.backend == "cuda":
            import_readers()
        return lambda: _open_artifact(job, artifact)
    checkpoint = _checkpoint(job, manifest)

    def open_it() -> Opened:
        from ..models.export_model import ExportModel
        from ..models.tasks import TASKS
        from .baselines import Unavailable, open_peer

        model = ExportModel(checkpoint, replace(manifest.options, precision=precision))
        graph = device == "cuda" and job.mode != "launched"
        try:
            peer = open_peer(job.subject, model, device, compile_mode=job.compile_mode, graph=graph)
        except Unavailable as why:
            raise Skipped(str(why)) from why
        if job.mode != "file":
            return Opened(peer, None)
        from ..vision.ultralytics_backend import RunnerBackend

        task = TASKS[manifest.task]
        backend = RunnerBackend(peer, task=task, names=manifest.classes, keypoint_shape=manifest.keypoint_shape)
        return Opened(peer, lambda path: _predict(backend, path))

    return open_it


def _open_artifact(job: Job, artifact: Artifact) -> Opened:
    from ..runtime import open_runner
    from ..vision.api import YOLO26

    if job.mode == "file":
        model = YOLO26(artifact, runner=job.runner)
        return Opened(model._backend.runner, model.predict)
    # The official runtime's Python bindings copy to and from host memory.
    device_rows = "aoti" if job.runner == "auto" else job.runner
    return Opened(open_runner(artifact, runner=device_rows if job.mode != "host" else job.runner), None)


def _predict(backend: Any, path: str) -> list[Any]:
    """Do for a peer what `YOLO26.predict` does for an artifact."""
    from ..vision.predict import make_predictor
    from ..vision.sources import open_source

    predictor = make_predictor(backend, "predict", {})
    results: list[Any] = predictor(source=open_source(path, batch=backend.batch))
    return results


def _call(job: Job, opened: Opened, inputs: list[Tensor], device: str) -> tuple[Call, list[Tensor]]:
    """Return what is to be timed, and its outputs for the first input, which it has been called with once."""
    from .timing import DEVICE, HOST, Call

    runner, cuda = opened.runner, device == "cuda"
    turns = itertools.cycle(inputs)
    if job.mode == "graph":
        held, results = runner.capture()
        held.copy_(inputs[0])
        runner.replay()
        return Call(runner.replay, lambda: held.copy_(next(turns)), DEVICE, cuda), results
    if job.mode == "file":
        assert opened.predict is not None
        predict = opened.predict
        predict(job.image)
        return Call(lambda: predict(job.image), lambda: None, HOST, cuda), []
    batch = next(turns)

    def advance() -> None:
        nonlocal batch
        batch = next(turns)

    if job.mode == "launched":
        return Call(lambda: runner.run(batch), advance, DEVICE, cuda), list(runner.run(batch))
    return Call(lambda: runner(batch), advance, HOST, cuda), list(runner(batch).values())


def _check_finite(outputs: list[Tensor]) -> None:
    """Refuse to time wrong numbers; raises Yolo26Error."""
    import torch

    if not all(bool(torch.isfinite(output).all()) for output in outputs if output.is_floating_point()):
        raise Yolo26Error("its outputs hold NaN or infinity; nothing was timed")


def _replay_equals_call(runner: Any, batch: Tensor, replayed: list[Tensor]) -> bool | None:
    """Compare a replay's outputs with those of a launched call; None where nothing is launched any more."""
    import torch

    if not getattr(runner, "relaunches", True):
        return None
    kept = [output.clone() for output in replayed]
    return all(torch.equal(one, other) for one, other in zip(kept, runner.run(batch), strict=True))


def _checkpoint(job: Job, manifest: Manifest) -> Checkpoint:
    from ..models.checkpoints import find_checkpoint

    checkpoint = Path(job.checkpoint) if job.checkpoint else None
    return find_checkpoint(manifest, checkpoint, Path(job.weights_dir) if job.weights_dir else None, job.trusted)


def _memory(used_before: int | None) -> Memory:
    """Read what is held now; `used_before` is the GPU's memory in use before this process took any."""
    import torch

    from .timing import gpu_memory_used

    host = tensors = grown = None
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors = int(torch.cuda.max_memory_allocated())
    if used_before is not None and (used := gpu_memory_used()) is not None:
        grown = max(0, used - used_before)
    return Memory(host, grown, tensors)


def _age_s() -> float:
    """Return the seconds since this process was started."""
    import psutil

    return float(time.time() - psutil.Process().create_time())


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
