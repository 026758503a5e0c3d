"""The smoke test after an export: the written files, in a fresh process, against PyTorch.

`SmokeTest` starts `python -m yolo26_executorch.exporter.smoke_test BACKEND`, which reads the arguments of `run` as JSON
from standard input and prints the figures as one line of JSON. It has a process of its own, so that nothing of the
export (its graph, kernels, settings) can help the model to the right answer, and is started early, since its imports
take seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GpuMemoryError, ParityError, Yolo26Error
from ..models.tasks import TASKS
from ..system.processes import run_module
from .child_process import leave

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from ..artifacts.manifest import Manifest
    from ..models.tasks import Task, TensorSpec
    from ..parity.baseline import Reference
    from ..runtime import Runner

Figures = dict[str, Any]

WARM_UP, TIMED_RUNS, TIME_LIMIT_S = 3, 20, 5.0


class SmokeTest:
    """The process of a smoke test, which imports what it needs while the model is lowered, and then waits for it.

    A context manager that ends it.
    """

    def __init__(self, backend: str) -> None:
        self._process = subprocess.Popen(
            run_module("yolo26_executorch.exporter.smoke_test", backend),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(
        self, folder: Path, *, checkpoint: Path | None, weights_dir: Path | None, trusted: bool, picture: Path | None
    ) -> Figures:
        """Have an artifact tested; arguments and figures are those of `run`.

        Raises:
            GpuMemoryError: the GPU's memory ran out.
            ParityError: it could not be done otherwise.
        """
        arguments = {
            "folder": str(folder),
            "checkpoint": str(checkpoint) if checkpoint else None,
            "weights_dir": str(weights_dir) if weights_dir else None,
            "trusted": trusted,
            "picture": str(picture) if picture else None,
        }
        printed, _ = self._process.communicate(json.dumps(arguments))
        lines = printed.splitlines()
        if (status := self._process.returncode) or not lines:
            raise ParityError(f"the test's process ended with status {status} before it had figures; see the log")
        figures: Figures = json.loads(lines[-1])
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


def run(
    folder: Path,
    *,
    checkpoint: Path | None = None,
    weights_dir: Path | None = None,
    trusted: bool = False,
    picture: Path | None = None,
) -> Figures:
    """Run an artifact on an image and on random inputs and compare every output with eager PyTorch.

    Each input is compared with eager in the artifact's precision and with eager fp32.

    Args:
        folder: the artifact, sealed (hashes in its manifest).
        checkpoint: the file that it was made from; None looks for it as `checkpoints.find_checkpoint` does.
        weights_dir: where to look first.
        trusted: whether the checkpoint may run code while it is unpickled.
        picture: the image; None is a bundled photograph, of which models that do not know what is on it give no answer.

    Returns:
        {"passed", "runner", "device", "inputs": [{"input", "against", report …}], "failures": [str], "largest":
        {quantity, value, unit, ratio}, "latency_ms": {…}, "answer": [str]}
    """
    import torch

    from ..artifacts.reading import Artifact
    from ..models import checkpoints
    from ..parity.baseline import Reference, device_of
    from ..runtime import open_runner

    with Artifact.open(folder) as artifact:
        manifest, runner = artifact.manifest, open_runner(artifact)
    task = TASKS[manifest.task]
    with runner:
        inputs = inputs_of(task, runner.input, picture)
        given = {name: runner(batch) for name, batch in inputs.items()}
        latency = _latency_ms(runner, next(iter(inputs.values())))
    reference = Reference(
        manifest, checkpoints.find_checkpoint(manifest, checkpoint, weights_dir=weights_dir, trusted=trusted)
    )
    reports, failures, largest = compared(reference, inputs, given)
    image = next(iter(inputs))
    return {
        "passed": not failures,
        "runner": runner.name,
        "device": torch.cuda.get_device_name() if device_of(manifest) == "cuda" else "cpu",
        "inputs": reports,
        "failures": failures,
        "largest": largest,
        "latency_ms": latency,
        "picture": image,
        "answer": answer_of(manifest, given[image], picture),
    }


def compared(
    reference: Reference, inputs: Mapping[str, Tensor], given: Mapping[str, Mapping[str, Tensor]]
) -> tuple[list[dict[str, Any]], list[str], dict[str, Any] | None]:
    """Compare outputs with PyTorch's, by input.

    Returns:
        The reports as plain data, the failures in words, and the error that is largest beside its tolerance.
    """
    reports: list[dict[str, Any]] = []
    failures: list[str] = []
    largest: dict[str, Any] | None = None
    for name, batch in inputs.items():
        for against, report in reference.compare(given[name], reference.predictions(batch)).items():
            reports.append({"input": name, "against": against, **report.to_json()})
            failures += [f"{name}, against {against}: {failure}" for failure in report.failures]
            worst = report.largest
            if worst and (largest is None or worst.ratio > largest["ratio"]):
                largest = {"quantity": worst.name, "value": worst.max, "unit": worst.unit, "ratio": worst.ratio}
    return reports, failures, largest


def answer_of(manifest: Manifest, outputs: Mapping[str, Tensor], picture: Path | None) -> list[str]:
    """Say what a model finds in the test's image, a line each; nothing where that would mean nothing."""
    from ..models import preprocess, summary

    task = TASKS[manifest.task]
    meant = picture is not None or preprocess.shows_on_samples(task, manifest.classes.values())
    if manifest.options.outputs != "named" or not meant:
        return []
    return summary.lines(task, outputs, manifest.classes, limit=5)


def inputs_of(task: Task, spec: TensorSpec, picture: Path | None = None) -> dict[str, Tensor]:
    """Return the test's inputs by name: a real image first, which is the picture where one is given."""
    import numpy as np

    from ..models import preprocess

    path = picture or preprocess.sample_images()[0]
    image = preprocess.fit(preprocess.read(path), preprocess.size_of(spec), task)
    batch = preprocess.to_input(np.repeat(image[None], spec.shape[0], axis=0), spec)
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
        if any(output.is_cuda for output in outputs.values()):  # --io device: the GPU may still be at work
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000)
    return {"p50": statistics.median(times), "min": min(times), "max": max(times), "runs": len(times)}


def _import_early(backend: str) -> None:
    """Import what the test needs; a missing module is left to the test, which reports it."""
    from ..artifacts.program_file import import_readers, quiet

    for name in (
        "ultralytics.nn.tasks",
        "yolo26_executorch.parity.baseline",
        "yolo26_executorch.models.summary",
    ):
        with contextlib.suppress(ImportError), quiet():
            importlib.import_module(name)
    if backend == "cuda":
        with contextlib.suppress(ImportError):
            import_readers()


def main() -> int:
    """Read what to test from standard input, print the figures as JSON; returns the exit status."""
    _import_early(sys.argv[1])
    if not (told := sys.stdin.read()):
        return 0  # the export came to nothing
    given = json.loads(told)
    try:
        figures = run(
            Path(given["folder"]),
            checkpoint=Path(given["checkpoint"]) if given["checkpoint"] else None,
            weights_dir=Path(given["weights_dir"]) if given["weights_dir"] else None,
            trusted=given["trusted"],
            picture=Path(given["picture"]) if given["picture"] else None,
        )
    except Yolo26Error as error:
        figures = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    leave(main())
