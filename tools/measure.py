"""Measure what results/ holds figures of, on the GPU at hand: exports, latencies beside other software, accuracies.

python tools/measure.py FOLDER                   # everything, in order; hours go by on few cores
python tools/measure.py FOLDER --only fp16 bench-fp16
python tools/measure.py --list                   # what there is, as commands

Each step is a command of yolo26-et's, which works in FOLDER and writes its report there. A step that has succeeded
leaves STEP.done and is left alone from then on, so that what was cut off goes on. The first exports have caches of
their own, for they are timed. At the end stands how `tools/collect.py` takes the reports into results/.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shapes.train import checkpoint_name
from yolo26_executorch import VARIANTS
from yolo26_executorch.bench.records import PEERS
from yolo26_executorch.models.options import PRECISIONS
from yolo26_executorch.models.tasks import GUIDE_TASKS as TASKS

ROOT = Path(__file__).parents[1]
PICTURES = 1200
"""To validate on: on 300, chance moves a metric by more than the differences that are looked for."""
BENCHES = {"fp16": "bench", "tf32": "tf32-bench"}
SIDE_BY_SIDE = str(len(VARIANTS) + 1)
"""Processes that a benchmark of all variants keeps open; its rows still take turns."""


@dataclass(frozen=True)
class Step:
    """A command, and the report that it writes in the folder; `cold` with caches that nothing else has filled."""

    name: str
    words: tuple[str, ...]
    report: str
    file: str
    """Of results/, without the GPU's name."""
    cold: bool = False

    @property
    def command(self) -> list[str]:
        """What is run, but for the interpreter."""
        return ["-m", "yolo26_executorch", *self.words, "--report", self.report]


def _exports(name: str, file: str, *words: str, cold: bool = False, random: bool = True) -> Step:
    weights = ("--random-weights",) if random else ()
    words = ("export", "--backend", "cuda", *weights, "--base-path", name, *words)
    return Step(name, words, f"{name}/report.json", file, cold)


def _bench(name: str, file: str, artifacts: Sequence[str], *words: str) -> Step:
    return Step(name, ("bench", *artifacts, "--runner", "aoti", *words), f"{name}.json", file)


def steps(checkpoints: Path) -> Iterator[Step]:
    """Yield what is measured; a step may need what an earlier one made.

    Args:
        checkpoints: the folder of the bundled ones, from where the commands work.
    """
    yield _exports("alone", "extras", "--models", "yolo26n", cold=True)
    yield _exports("fp16", "fp16", "--precision", "fp16", cold=True)
    yield _exports("tf32", "tf32")
    yield _exports("uint8", "extras", "--models", "yolo26n", "--precision", "fp16", "--input", "uint8")
    graph = ("--rows", "graph", "--rounds", "2")
    for precision, peers in {"fp16": ("--against", "compile"), "tf32": ()}.items():
        artifacts = [f"{precision}/{name}" for name in VARIANTS]
        yield _bench(f"bench-{precision}", BENCHES[precision], artifacts, *graph, "--jobs", SIDE_BY_SIDE, *peers)
    peers = ("--against", ",".join(PEERS))
    yield _bench("rows-fp16", BENCHES["fp16"], ["fp16/yolo26n", "uint8/yolo26n"], *peers)
    yield _bench("rows-tf32", BENCHES["tf32"], ["tf32/yolo26n"], *peers)
    trained = [checkpoints / checkpoint_name(task) for task in TASKS.values()]
    for precision in PRECISIONS:
        words = ("--models", *map(str, trained), "--imgsz", "320", "--precision", precision)
        yield _exports(f"shapes-{precision}", "shapes", *words, random=False)
        for task, checkpoint in zip(TASKS, trained, strict=True):
            data = f"data/{task}" if task == "classify" else f"data/{task}/data.yaml"
            artifact = f"shapes-{precision}/{checkpoint.stem}"
            words = (artifact, "--data", data, "--against", "pytorch", "--runner", "aoti")
            name = f"val-{precision}-{task}"
            yield Step(name, ("val", *words, "--checkpoint", str(checkpoint)), f"{name}.json", "accuracy")


def draw(task: str, folder: Path) -> None:
    """Draw the pictures of a task, unless that was done before."""
    mark = folder / f"data-{task}.done"
    if not mark.exists():
        words = ("yolo26_executorch.shapes.dataset", task, f"data/{task}", "--train", "1", "--val", str(PICTURES))
        subprocess.run([sys.executable, "-m", *words], cwd=folder, check=True)
        mark.touch()


def run(step: Step, folder: Path) -> int:
    """Run a step in a folder and return the command's exit status."""
    if step.words[0] == "val":
        draw(step.name.rpartition("-")[2], folder)
    caches = (folder / "caches" / (step.name if step.cold else "shared")).resolve()
    own = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "XDG_CACHE_HOME": "user"}
    env = os.environ | {name: str(caches / place) for name, place in own.items()}
    return subprocess.run([sys.executable, *step.command], cwd=folder, env=env, check=False).returncode


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for; returns the exit status."""
    names = [step.name for step in steps(Path())]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where artifacts, reports and caches go")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP", help="these steps (all)")
    parser.add_argument("--list", action="store_true", help="show the steps' commands, and measure nothing")
    args = parser.parse_args(argv)
    folder: Path = args.folder or Path("build/measured")
    checkpoints = Path(os.path.relpath(ROOT / "weights", folder))
    chosen = [step for step in steps(checkpoints) if step.name in args.only]
    if args.list:
        for step in chosen:
            print(f"{step.name}: {shlex.join(['python', *step.command])}")
        return 0
    if args.folder is None:
        parser.error("name a FOLDER to work in, such as build/measured")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for number, step in enumerate(chosen, 1):
        place, mark = f"{step.name} ({number} of {len(chosen)})", folder / f"{step.name}.done"
        if mark.exists():
            print(f"== {place}: done before", flush=True)
            continue
        print(f"== {place}", flush=True)
        began = time.perf_counter()
        if status := run(step, folder):
            failed.append(step.name)
        else:
            mark.touch()
        print(f"== {place}: exit status {status} after {time.perf_counter() - began:.0f} s", flush=True)
    measured = [step for step in chosen if step.name not in failed]
    if measured:
        print("to take them in, with words of your own for the capitals:")
    for step in measured:
        machine = "" if step.words[0] == "export" else " --machine REPORT_OF_AN_EXPORT"
        print(
            f"python tools/collect.py results/GPU-{step.file}.json RUN={folder / step.report}{machine} --commit COMMIT"
        )
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
