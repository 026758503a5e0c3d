"""The test after an export: the written files, in a fresh process, against PyTorch.

Run as `python -m yolo26_executorch.trial FOLDER` with the job on standard input; prints one line of JSON. It has a
process of its own, so that nothing of the export (its graph, kernels, settings) can help the model to the right answer.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import Yolo26Error
from .jobs import Job
from .lowering.options import ExportOptions
from .tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from .model import Dense
    from .runtime import Runner
    from .tasks import Task

RANDOM_SEEDS = (1, 2)
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

    from . import answers, parity, rounding
    from .artifact import load_manifest
    from .runtime import open_runner

    manifest = load_manifest(folder)
    device = "cuda" if manifest.backend == "cuda" else "cpu"
    with open_runner(folder) as runner:
        inputs = _inputs(TASKS[manifest.task], runner)
        given = {name: runner(batch) for name, batch in inputs.items()}
        latency = _latency_ms(runner, next(iter(inputs.values())))
    reports: list[dict[str, Any]] = []
    failures: list[str] = []
    largest: dict[str, Any] | None = None
    # XNNPACK computes in float32 whatever name the precision goes by.
    precision = manifest.options.precision if manifest.backend == "cuda" else "fp32"
    task, references = _references(job, replace(manifest.options, precision=precision), inputs, device)
    for name in inputs:
        tolerances = rounding.stretched(
            task, references[precision][name], references["fp32"][name],
            precision=precision, keypoint_shape=manifest.keypoint_shape,
        )  # fmt: skip
        for against, reference in references.items():
            report = parity.compare(
                task, manifest.outputs, given[name], reference[name],
                precision=precision, keypoint_shape=manifest.keypoint_shape, tolerances=tolerances,
            )  # fmt: skip
            reports.append({"input": name, "against": f"eager {against}", **report.to_json()})
            failures += [f"{name}, against eager {against}: {failure}" for failure in report.failures]
            worst = report.largest
            if worst and (largest is None or worst.ratio > largest["ratio"]):
                largest = {"quantity": worst.name, "value": worst.max, "unit": worst.unit, "ratio": worst.ratio}
    picture = next(iter(inputs))
    answer: list[str] = []
    if manifest.options.outputs == "named":
        answer = answers.lines(task, given[picture], manifest.classes, limit=5)
    return {
        "passed": not failures,
        "runner": runner.name,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
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

    from . import pictures

    spec = runner.input
    height, width = spec.shape[1:3] if spec.dtype == "uint8" else spec.shape[2:]
    path = pictures.sample_pictures()[0]
    picture = pictures.fit(pictures.read(path), (height, width), task)
    batch = pictures.to_input(np.repeat(picture[None], spec.shape[0], axis=0), spec)
    return {path.name: batch, **{f"random {seed}": pictures.random_input(spec, seed) for seed in RANDOM_SEEDS}}


def _references(
    job: Job, options: ExportOptions, inputs: dict[str, Tensor], device: str
) -> tuple[Task, dict[str, dict[str, Dense | Tensor]]]:
    """Return the task, and eager's predictions of each input in the artifact's precision and in fp32."""
    from . import weights
    from .model import ExportModel
    from .runtime.eager import EagerRunner

    checkpoint = weights.load(
        job.source, weights_dir=job.weights_dir, random=options.random_weights, seed=options.seed, trusted=job.trusted
    )
    found: dict[str, dict[str, Dense | Tensor]] = {}
    for precision in dict.fromkeys((options.precision, "fp32")):
        own = replace(checkpoint, network=copy.deepcopy(checkpoint.network))  # ExportModel fuses and casts it
        with EagerRunner(ExportModel(own, replace(options, precision=precision)), device) as eager:
            found[precision] = {name: eager.reference(batch) for name, batch in inputs.items()}
    return checkpoint.task, found


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


def main() -> int:
    """Read the job from standard input, print the figures as JSON; returns the exit status."""
    job = Job.from_json(json.load(sys.stdin))
    try:
        figures = run_trial(Path(sys.argv[1]), job)
    except Yolo26Error as error:
        figures = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
