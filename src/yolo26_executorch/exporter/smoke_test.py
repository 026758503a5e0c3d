"""The test after an export: the written files, in a fresh process, against PyTorch.

Run as `python -m yolo26_executorch.exporter.smoke_test BACKEND`; reads {"folder", "job"} from standard input and prints
one line of JSON. It has a process of its own, so that nothing of the export (its graph, kernels, settings) can help the
model to the right answer, and is started early, since its imports take seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Yolo26Error
from ..models.tasks import TASKS
from .child_process import leave
from .jobs import Job

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.tasks import Task
    from ..runtime import Runner

WARM_UP, TIMED_RUNS, TIME_LIMIT_S = 3, 20, 5.0


def run_trial(folder: Path, job: Job) -> dict[str, Any]:
    """Run an artifact on a picture and on random inputs and compare every output with eager.

    Each input is compared with eager in the artifact's precision and with eager fp32.

    Args:
        folder: the artifact, sealed (hashes in its manifest).
        job: how it was made; its checkpoint is loaded again for the reference.

    Returns:
        {"passed", "runner", "device", "inputs": [{"input", "against", report …}], "failures": [str], "largest":
        {quantity, value, unit, ratio}, "latency_ms": {…}, "answer": [str]}
    """
    import torch

    from ..artifacts.reading import Artifact
    from ..models import checkpoints, summary
    from ..parity.baseline import Reference, device_of
    from ..runtime import open_runner

    with Artifact.open(folder) as artifact:
        manifest, runner = artifact.manifest, open_runner(artifact)
    task = TASKS[manifest.task]
    with runner:
        inputs = _inputs(task, runner)
        given = {name: runner(batch) for name, batch in inputs.items()}
        latency = _latency_ms(runner, next(iter(inputs.values())))
    reports: list[dict[str, Any]] = []
    failures: list[str] = []
    largest: dict[str, Any] | None = None
    options = manifest.options
    checkpoint = checkpoints.load(
        job.source, weights_dir=job.weights_dir, random=options.random_weights, seed=options.seed, trusted=job.trusted
    )
    reference = Reference(manifest, checkpoint)
    for name, batch in inputs.items():
        for against, report in reference.compare(given[name], reference.predictions(batch)).items():
            reports.append({"input": name, "against": against, **report.to_json()})
            failures += [f"{name}, against {against}: {failure}" for failure in report.failures]
            worst = report.largest
            if worst and (largest is None or worst.ratio > largest["ratio"]):
                largest = {"quantity": worst.name, "value": worst.max, "unit": worst.unit, "ratio": worst.ratio}
    picture = next(iter(inputs))
    answer: list[str] = []
    if manifest.options.outputs == "named":
        answer = summary.lines(task, given[picture], manifest.classes, limit=5)
    return {
        "passed": not failures,
        "runner": runner.name,
        "device": torch.cuda.get_device_name() if device_of(manifest) == "cuda" else "cpu",
        "inputs": reports,
        "failures": failures,
        "largest": largest,
        "latency_ms": latency,
        "picture": picture,
        "answer": answer,
    }


def _inputs(task: Task, runner: Runner) -> dict[str, Tensor]:
    """Return the test's inputs by name: a real picture first."""
    import numpy as np

    from ..models import preprocess

    spec = runner.input
    path = preprocess.sample_images()[0]
    picture = preprocess.fit(preprocess.read(path), preprocess.size_of(spec), task)
    batch = preprocess.to_input(np.repeat(picture[None], spec.shape[0], axis=0), spec)
    return {
        path.name: batch,
        **{f"random {seed}": preprocess.random_input(spec, seed) for seed in preprocess.RANDOM_SEEDS},
    }


def _latency_ms(runner: Runner, batch: Tensor) -> dict[str, Any]:
    """Return the time of one call from host memory, in milliseconds: a first look, not a benchmark."""
    import torch

    for _ in range(WARM_UP):
        runner(batch)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < TIMED_RUNS and (len(times) < 3 or time.perf_counter() - began < TIME_LIMIT_S):
        start = time.perf_counter()
        outputs = runner(batch)
        if any(output.is_cuda for output in outputs.values()):  # --io device: they may still be in the making
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000)
    return {"p50": statistics.median(times), "min": min(times), "max": max(times), "runs": len(times)}


def _import_early(backend: str) -> None:
    """Import what a trial needs; what cannot be imported is left to it, which has words for that."""
    from ..artifacts.program_file import quiet

    reader = "executorch.exir._serialize" if backend == "cuda" else "executorch.runtime"
    for name in (
        "ultralytics.nn.tasks",
        "yolo26_executorch.parity.baseline",
        "yolo26_executorch.models.summary",
        reader,
    ):
        with contextlib.suppress(ImportError), quiet():
            importlib.import_module(name)


def main() -> int:
    """Read what to test from standard input, print the figures as JSON; returns the exit status."""
    _import_early(sys.argv[1])
    if not (told := sys.stdin.read()):
        return 0  # the export came to nothing
    task = json.loads(told)
    try:
        figures = run_trial(Path(task["folder"]), Job.from_json(task["job"]))
    except Yolo26Error as error:
        figures = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    leave(main())
