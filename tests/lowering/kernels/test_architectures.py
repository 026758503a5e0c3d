"""That every kernel compiles for every generation of GPUs, and fits its shared memory; nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import SLOW, random_model
from support.launches import Launch, launches_of
from yolo26_executorch.lowering.gpus import GPUS
from yolo26_executorch.lowering.passes.fusion import fuse
from yolo26_executorch.lowering.passes.rewrites import for_cuda
from yolo26_executorch.lowering.target import Target
from yolo26_executorch.lowering.tuning.cost_model import choose
from yolo26_executorch.models.export_model import products


def largest_of_each_kernel(gpu: Target, precision: str) -> dict[str, Launch]:
    """What yolo26n-seg launches of our own at 640×640: of each kernel the one with the largest tile."""
    model = random_model("yolo26n-seg", backend="cuda", precision=precision, imgsz=(640, 640))
    for_cuda(model, gpu)
    multiplied = products(gpu.precision(precision))
    network = fuse(model, model.example_input, multiplied, lambda problem: choose(problem, gpu))
    found = sorted(launches_of(network, model.example_input), key=lambda launch: launch.tile)
    return {launch.kernel.__name__: launch for launch in found}


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        ((8, 6), "tf32"),
        *[pytest.param(capability, "tf32", marks=SLOW) for capability in ((7, 5), (12, 0))],
        *[pytest.param(capability, "fp16", marks=SLOW) for capability in ((7, 0), (8, 6), (8, 7), (10, 0), (11, 0))],
    ],
)
def test_every_kernel_compiles_and_fits(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    gpu = GPUS[capability]
    launches = largest_of_each_kernel(gpu, precision)
    assert len(launches) > 8
    for kernel, launch in launches.items():
        compiled = launch.compile(gpu.capability)
        assert compiled.metadata.shared <= gpu.shared_bytes, kernel
        assert len(compiled.asm["cubin"]) > 0
