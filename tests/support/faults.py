"""Real exports in everything but the model: what the fault tests start, hold at a stage and kill.

    python faults.py worker            the worker process, with the compiler and the test made up
    python faults.py cli ARGUMENTS     `yolo26-et ARGUMENTS`, with that worker
    python faults.py kills BASE N      kill exports at random moments until N were cut off; prints figures as JSON

A file `hold` beside BASE makes workers stop at the stage that it names, and say so with a file `held`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

from yolo26_executorch import cli
from yolo26_executorch.artifacts.manifest import PROGRAM
from yolo26_executorch.artifacts.reading import verify
from yolo26_executorch.artifacts.writing import remove_abandoned
from yolo26_executorch.errors import ArtifactError
from yolo26_executorch.exporter import pipeline, scheduler, worker
from yolo26_executorch.exporter.jobs import Job
from yolo26_executorch.lowering.program import Delegated
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.checkpoints import Checkpoint, Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.tasks import DETECT, TensorSpec
from yolo26_executorch.models.variants import VARIANTS
from yolo26_executorch.system import probe, requirements

NAME = "yolo26n"
SIZES = {"B": 1, "K": 300, "H4": 160, "W4": 160, "EXTRA": 0, "RAW": 6, "CLASSES": 1, "KEYPOINTS": 0, "VALUES": 0}
PIECES = 8


class Network:
    """A network of no weights."""

    def parameters(self) -> list[Any]:
        return []


class Model:
    """What stands in for `ExportModel`."""

    input_spec = TensorSpec("images", (1, 3, 640, 640), "float32", "pictures")
    output_specs = DETECT.output_specs("named", SIZES)

    def __init__(self, checkpoint: Checkpoint, options: ExportOptions) -> None:
        pass


class Lowered:
    """A program that is written piece by piece."""

    delegate = "XnnpackBackend"
    delegated = Delegated(1, 1)

    def write(self, folder: Path, program: str) -> None:
        size = int(os.environ.get("FAULTS_BYTES", 80_000))
        with (folder / program).open("wb") as file:
            for _ in range(PIECES):
                file.write(os.urandom(size // PIECES))
                file.flush()
                time.sleep(0.002)


def lower(model: Any, options: ExportOptions, clock: Any, targets: Any) -> Lowered:
    for stage in ("export", "lower", "compile", "write"):
        clock(stage)
        time.sleep(0.002)
    return Lowered()


def smoke_test(folder: Path, **_: Any) -> dict[str, Any]:
    verify(folder)
    time.sleep(0.005)
    return {
        "passed": True, "runner": "stub", "device": "cpu", "inputs": [], "failures": [], "largest": None,
        "latency_ms": {"p50": 1.0}, "picture": "none", "answer": [],
    }  # fmt: skip


def make_up() -> None:
    """Replace what takes minutes and gigabytes by what takes milliseconds."""
    checkpoint: Any = Checkpoint(Network(), DETECT, {0: "thing"}, None, "random", None, None, 0)  # type: ignore[arg-type]
    stub: Any = types.ModuleType("yolo26_executorch.models.export_model")
    stub.ExportModel = Model
    sys.modules["yolo26_executorch.models.export_model"] = stub
    checkpoints.load = lambda *args, **kwargs: checkpoint
    pipeline._lower = lower  # type: ignore[assignment]
    pipeline.SmokeTest = lambda backend: contextlib.nullcontext(smoke_test)  # type: ignore[assignment]
    pipeline.versions = dict  # type: ignore[assignment]
    if "FAULTS_ROOM" in os.environ:
        pipeline._ROOM_BYTES = int(os.environ["FAULTS_ROOM"])
    unknown = {field.name: None for field in dataclasses.fields(probe.Environment)}
    machine = probe.Environment(**{**unknown, "gpus": (), "cores": 2})  # type: ignore[arg-type]
    probe.probe = lambda *args, **kwargs: machine  # it loads PyTorch
    requirements.executorch_runtime_fits = lambda *args: requirements.Usable(True)  # type: ignore[assignment]


def hold_stages(hold: Path) -> None:
    """Make the export stop at the stage that a file names."""
    clock = pipeline._Clock.__call__

    def stop(self: Any, stage: str) -> None:
        clock(self, stage)
        if hold.exists() and hold.read_text() == stage:
            part = hold.with_name("part")
            part.write_text(str(os.getpid()))
            part.rename(hold.with_name("held"))  # who waits for it finds it whole
            time.sleep(600)

    pipeline._Clock.__call__ = stop  # type: ignore[method-assign]


def job(base: Path, skip_existing: bool = False) -> Job:
    return Job(
        source=Source(NAME, VARIANTS[NAME], None),
        base_path=base,
        options=ExportOptions(random_weights=True),
        weights_dir=None,
        test=True,
        skip_existing=skip_existing,
        trusted=False,
        command="yolo26-et export",
    )


def state(base: Path) -> str:
    """Return what is to be seen at the artifact's place: its program's hash, "none", or what is wrong."""
    place = base / NAME
    if not place.exists():
        return "none"
    try:
        return verify(place).files[PROGRAM].sha256
    except ArtifactError as error:
        return f"broken: {error}"


def start(base: Path) -> int:
    """Start an export in a process of its own; returns its id."""
    child = os.fork()
    if child == 0:
        os.setsid()
        pipeline.export_one(job(base), lambda event: None)
        os._exit(0)
    return child


def kills(base: Path, wanted: int, seed: int) -> dict[str, Any]:
    """Kill exports at random moments; returns what happened."""
    rng = random.Random(seed)  # noqa: S311
    events: list[Any] = []
    assert pipeline.export_one(job(base), events.append).ok
    times = []
    for _ in range(5):  # as long as those that are killed would take: a kill after the end is none
        began = time.perf_counter()
        os.waitpid(start(base), 0)
        times.append(time.perf_counter() - began)
    whole_s = statistics.median(times)
    counts = {"killed": 0, "finished": 0, "published": 0, "resumed": 0}
    problems: list[str] = []
    while counts["killed"] < wanted:
        if rng.random() < 0.2:
            shutil.rmtree(base / NAME, ignore_errors=True)  # a kill with nothing there before
        before = state(base)
        child = start(base)
        time.sleep(rng.uniform(0, 1.1 * whole_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        cut = os.WIFSIGNALED(status)
        counts["killed" if cut else "finished"] += 1
        after = state(base)
        counts["published"] += cut and after != before
        if after.startswith("broken") or (after == "none" and before != "none"):
            problems.append(f"after kill {counts['killed']}: {before} became {after}")
        if visible := [path.name for path in base.iterdir() if not path.name.startswith(".") and path.name != NAME]:
            problems.append(f"after kill {counts['killed']}: {visible} was left")
        if rng.random() < 0.1:
            record = pipeline.export_one(job(base, skip_existing=True), lambda event: None)
            expected = "skipped" if after != "none" else "exported"
            if record.outcome != expected:
                problems.append(f"the next run {record.outcome} instead of {expected}: {record.message}")
            counts["resumed"] += 1
    assert pipeline.export_one(job(base), lambda event: None).ok
    remove_abandoned(base)
    left = sorted(path.name for path in base.iterdir())
    return {"seed": seed, "whole_s": whole_s, **counts, "problems": problems, "left": left}


def main() -> int:
    make_up()
    match sys.argv[1:]:
        case ["worker"]:
            hold_stages(Path(os.environ["FAULTS_HOLD"]))
            return worker.main()
        case ["cli", *words]:
            scheduler.WORKER = (sys.executable, __file__, "worker")
            return cli.main(words)
        case ["kills", base, count]:
            seed = int(os.environ.get("YOLO26_ET_TEST_SEED", "26"))
            print(json.dumps(kills(Path(base), int(count), seed)))
            return 0
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
