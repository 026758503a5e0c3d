"""What several test modules need: made-up manifests and artifacts, small programs, checkpoints like trained ones."""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from shapes.train import checkpoint_name
from yolo26_executorch import runtime
from yolo26_executorch.artifacts.files import PrivateCopy
from yolo26_executorch.artifacts.manifest import PROGRAM, WEIGHTS, DelegateRecord, Manifest, Platform
from yolo26_executorch.artifacts.reading import Artifact
from yolo26_executorch.artifacts.writing import Draft
from yolo26_executorch.models.checkpoints import Checkpoint, CheckpointRecord, Source, load
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.tasks import TASKS, TensorSpec
from yolo26_executorch.models.variants import ALL_VARIANTS
from yolo26_executorch.runtime.eager import EagerRunner
from yolo26_executorch.system.probe import Driver, Environment, Gpu, Tool

# Test processes that each take every core only wait for one another.
torch.set_num_threads(1)

if sys.version_info >= (3, 11):
    import tomllib  # noqa: TID251
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]

PATIENCE_S = 900
"""For what an event ends: only a defect takes so long, however busy the machine is."""


def wait_for(true: Callable[[], bool], what: str, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until something is so, which a process that ends meanwhile would not bring about."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


SLOW = pytest.mark.slow
"""What `make test` leaves out."""


def each_task(*quick: str, ranked: bool = False) -> list[Any]:
    """Return every task that has a bundled checkpoint for `parametrize`; all but `quick` are slow."""
    names = [name for name, task in TASKS.items() if task.ranked or not ranked]
    assert {*quick} <= {*names}
    return [pytest.param(name, marks=() if name in quick else SLOW) for name in names]


def product(*axes: Iterable[Any], meeting: int = 2) -> list[Any]:
    """Return every combination for `parametrize`; those that are not needed for `meeting` values to meet are slow.

    With 2, each value of an axis meets each of every other axis in a quick case; with 1, each is in one. A tuple gives
    the values of several arguments.
    """
    choices = [[*axis] for axis in axes]
    combinations = [*itertools.product(*(range(len(axis)) for axis in choices))]

    def meetings(combination: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return {*itertools.combinations(enumerate(combination), meeting)}

    missing = {one for combination in combinations for one in meetings(combination)}
    quick = set()
    while missing:
        best = max(combinations, key=lambda combination: len(meetings(combination) & missing))
        quick.add(best)
        missing -= meetings(best)
    cases = []
    for combination in combinations:
        values = [axis[index] for axis, index in zip(choices, combination, strict=True)]
        flat = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
        cases.append(pytest.param(*flat, marks=() if combination in quick else SLOW))
    return cases


CHECKPOINTS = {
    "random": CheckpointRecord("random", None, None, 3),
    "published": CheckpointRecord("published", "yolo26n.pt", "c" * 64, None),
    "user": CheckpointRecord("user", "best.pt", "c" * 64, None),
}
"""By origin, the field `checkpoint` of a manifest."""

SIZES = {
    "B": 1, "K": 300, "H": 640, "W": 640, "H4": 160, "W4": 160, "H8": 80, "W8": 80, "EXTRA": 32, "RAW": 38,
    "KEYPOINTS": 17, "VALUES": 3, "CLASSES": 2,
}  # fmt: skip


def make_manifest(task: str = "detect", backend: str = "cuda", origin: str = "random", **changes: Any) -> Manifest:
    """Make up a manifest that passes every check once `files` is filled in; `changes` replaces fields."""
    cuda = backend == "cuda"
    name = f"yolo26n{TASKS[task].suffix}"
    fields: dict[str, Any] = {
        "name": "best" if origin == "user" else name,
        "variant": None if origin == "user" else name,
        "task": task,
        "backend": backend,
        "options": ExportOptions(backend=backend, random_weights=origin == "random", seed=3),
        "checkpoint": CHECKPOINTS[origin],
        "classes": {0: "person", 1: "bicycle"},
        "keypoint_shape": (17, 3) if task == "pose" else None,
        "input": TensorSpec("images", (1, 3, 640, 640), "float32", "RGB pictures, NCHW, 0..1", (), ("0..1",)),
        "outputs": TASKS[task].output_specs("named", SIZES),
        "delegate": DelegateRecord("CudaBackend" if cuda else "XnnpackBackend", 7, {}),
        "platform": Platform("Linux", "x86_64", ("8.0",), ("8.0",)) if cuda else Platform("any", "any", (), ()),
        "versions": {"torch": "2.13.0", "executorch": "1.5.1"},
        "command": "yolo26-et export --models yolo26n",
        "created": "2026-11-22T08:00:00+00:00",
        "seconds": {"load": 1.0, "lower": 2.5},
        "files": {},
        "test": {"picture": {"passed": True}, "latency_ms": {"p50": 1.25}},
    }
    return Manifest(**{**fields, **changes})


def shapes_checkpoint(task: str) -> Path:
    """Return the bundled checkpoint of a task: a YOLO26n that was trained on drawn shapes."""
    return ROOT / "weights" / checkpoint_name(TASKS[task])


def publish(base: Path, manifest: Manifest, program: bytes = b"program", weights: bytes = b"weights" * 100) -> Path:
    """Publish an artifact of a manifest; the weights only where its backend has such a file."""
    with Draft(base, manifest.name) as draft:
        (draft.folder / PROGRAM).write_bytes(program)
        if manifest.backend == "cuda":
            (draft.folder / WEIGHTS).write_bytes(weights)
        return draft.commit(manifest, "# card")


def unverified(folder: Path, manifest: Manifest) -> Artifact:
    """Return a folder's files as an artifact that was opened, whatever their hashes are."""
    copies = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            copies[path.name] = PrivateCopy(file)
    return Artifact(folder, manifest, copies)


def xnnpack_program(module: nn.Module, *examples: Tensor) -> bytes:
    """Return the ExecuTorch program of a small module, lowered for XNNPACK."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExecuTorch's modules warn when they are imported
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        exported = torch.export.export(module.eval(), examples)
        return bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


@functools.cache
def _random_checkpoint(name: str) -> Checkpoint:
    return load(Source(name, ALL_VARIANTS[name], None), weights_dir=None, random=True, seed=0)


def random_checkpoint(name: str) -> Checkpoint:
    """Return a variant's checkpoint with random weights, with a network of its own: making a model fuses its layers."""
    kept = _random_checkpoint(name)
    return replace(kept, network=copy.deepcopy(kept.network))


def random_model(name: str, **options: Any) -> ExportModel:
    """Return a variant with random weights; float32 and 320×320 pixels (classify: 224×224) unless options say so."""
    size = min(320, *ALL_VARIANTS[name].native)
    settings: dict[str, Any] = {"precision": "fp32", "imgsz": (size, size), **options}
    return ExportModel(random_checkpoint(name), ExportOptions(**settings))


def fused_network(name: str, precision: str) -> GraphModule:
    """Return a variant with random weights as our own kernels compute it, of the size of `random_model`'s."""
    from yolo26_executorch.lowering.passes.fusion import fuse
    from yolo26_executorch.lowering.passes.rewrites import for_cuda

    rewritten = for_cuda(random_model(name, backend="cuda", precision=precision))
    return fuse(rewritten, rewritten.example_input, "ieee" if precision == "fp32" else "tf32")


def eager_artifact(
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    damage: Callable[[ExportModel], object] = lambda model: None,
    **options: Any,
) -> tuple[Path, ExportModel]:
    """Publish an artifact whose "program" is the model itself with random weights, damaged; returns its folder, too.

    From then on `open_runner` opens nothing else.
    """
    name = f"yolo26n{TASKS[task].suffix}"
    model = random_model(name, random_weights=True, **options)
    manifest = make_manifest(
        task, model.options.backend, options=model.options, classes=model.names, keypoint_shape=model.keypoint_shape,
        input=model.input_spec, outputs=model.output_specs, checkpoint=replace(CHECKPOINTS["random"], seed=0),
    )  # fmt: skip
    with torch.no_grad():
        damage(model)
    monkeypatch.setattr(runtime, "open_runner", lambda folder, runner="auto", device=None: EagerRunner(model))
    return publish(base, manifest), model


def network(config: str, names: Mapping[int, str] | None = None, *, channels: int = 3, **changes: Any) -> nn.Module:
    """Build one of Ultralytics' architectures, as its trainers do, with seeded weights and `names` for its classes.

    `changes` replaces keys of the architecture file, such as `kpt_shape`.
    """
    from ultralytics.nn import tasks as ultralytics_tasks

    settings = {**ultralytics_tasks.yaml_model_load(config), **changes}
    task = ultralytics_tasks.guess_model_task(settings)
    kind = getattr(ultralytics_tasks, TASKS[task].model_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: nn.Module = kind(settings, ch=channels, nc=len(names) if names else None, verbose=False)
    built.task = task  # type: ignore[assignment]
    if names:
        built.names = dict(names)  # type: ignore[assignment]
    return built


def save_checkpoint(path: Path, trained: nn.Module, **changes: Any) -> Path:
    """Write a network as Ultralytics writes a finished training's `best.pt`; it is in half precision from then on."""
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": trained.half(),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": {
            "task": getattr(trained, "task", None),
            "model": "yolo26n.pt",
            "imgsz": 640,
            "data": "mine.yaml",
        },
        "train_metrics": {"fitness": 0.5},
        "train_results": {"epoch": [1]},
        "date": "2026-11-22T08:00:00",
        "version": "8.4.190",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        **changes,
    }
    torch.save(content, path)
    return path


def child_environment() -> dict[str, str]:
    """Return the environment of a Python of its own that sees this package, these modules and the tools."""
    folders = [str(Path(runtime.__file__).parents[2]), str(ROOT / "tests"), str(ROOT / "tools")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}


def run_python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of ours in a fresh process, which sees this package and these modules."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        env=child_environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def load_tool(name: str) -> ModuleType:
    """Import one of the scripts in `tools/`, which are no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


H100 = Gpu("NVIDIA H100", (9, 0), 80 * 10**9)
V100 = Gpu("Tesla V100", (7, 0), 16 * 10**9)
P100 = Gpu("Tesla P100", (6, 0), 16 * 10**9)

GPU_MACHINE = Environment(
    system="Linux",
    os="Debian",
    machine="x86_64",
    cpu="a CPU",
    cores=16,
    memory_bytes=128 * 10**9,
    disk_free_bytes=60 * 10**9,
    python="3.12.1",
    package="0.1.0",
    torch="2.13.0",
    torch_problem=None,
    torch_cuda="13.0",
    executorch="1.5.1",
    ultralytics="8.4.190",
    triton="3.7.1",
    driver=Driver("580.95.05", (13, 0)),
    gpus=(H100,),
    visible_devices=None,
    cxx=Tool("/usr/bin/g++", "12.2.0"),
    nvcc=Tool("/usr/local/cuda/bin/nvcc", "13.0"),
    ptxas=None,
    cuda_home="/usr/local/cuda",
)
