"""What an artifact is compared with; without a GPU its outputs are what the kernels' references give on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from support import make_manifest, shapes_checkpoint
from yolo26_executorch.lowering.passes.fusion import fuse
from yolo26_executorch.lowering.passes.rewrites import for_cuda
from yolo26_executorch.models.checkpoints import Checkpoint, find_sources, load
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.parity import baseline as module
from yolo26_executorch.parity import tolerance_scaling
from yolo26_executorch.parity.baseline import OPERANDS, Reference


def checkpoint(task: str) -> Checkpoint:
    [source] = find_sources([str(shapes_checkpoint(task))])
    return load(source, weights_dir=None, random=False, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "fp16", "fp32"])
@pytest.mark.parametrize("task", ["pose", "obb"])
def test_our_kernels_roundings_are_allowed(task: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tf32, too, where PyTorch, which has no tf32 on a CPU, does not stray at all."""
    monkeypatch.setattr(module, "device_of", lambda manifest: "cpu")
    options = ExportOptions(backend="cuda", precision=precision, imgsz=(320, 320))
    model = ExportModel(checkpoint(task), options)
    manifest = replace(
        make_manifest(task), options=options, input=model.input_spec, outputs=model.output_specs,
        keypoint_shape=model.keypoint_shape,
    )  # fmt: skip
    images = random_input(model.input_spec, seed=2)
    fused = fuse(for_cuda(model), model.example_input, "ieee" if precision == "fp32" else "tf32")
    with torch.no_grad():
        given = dict(zip([spec.name for spec in manifest.outputs], fused(images), strict=True))
    reference = Reference(manifest, checkpoint(task))
    answers = reference.predictions(images)
    assert set(answers) == {precision, "fp32"} | ({OPERANDS} if precision == "tf32" else set())
    reports = reference.compare(given, answers)
    assert set(reports) == {f"eager {name}" for name in (precision, "fp32")}
    assert [failure for report in reports.values() for failure in report.failures] == []
    if (task, precision) == ("pose", "tf32"):  # the table's own limits would refuse it
        monkeypatch.setattr(tolerance_scaling, "MAX_SCALE", 1.0)
        reports = reference.compare(given, answers)
        assert [failure for report in reports.values() for failure in report.failures] != []
