"""`predict` on a GPU: what Ultralytics gives, and nothing goes over the host. The tests share exports of minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shapes.dataset import scene
from support import shapes_checkpoint
from yolo26_executorch import YOLO26, cli
from yolo26_executorch.models.export_model import float32_precision
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.vision.agreement import compare
from yolo26_executorch.vision.torchvision_shim import import_torchvision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # Inductor's and Triton's own, of every release others.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.xdist_group("gpu-predict"),
]


def export(task: str, precision: str, base: Path) -> Path:
    """Export a task's bundled checkpoint, which has learnt something; returns the artifact's folder."""
    checkpoint = shapes_checkpoint(task)
    words = ["export", "--models", str(checkpoint), "--backend", "cuda", "--imgsz", "320", "--precision", precision]
    assert cli.main([*words, "--base-path", str(base), "--debug"]) == 0
    return base / checkpoint.stem


@pytest.fixture(scope="module", params=["tf32", "fp16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[YOLO26]:
    """Segment's."""
    with YOLO26(export("segment", request.param, tmp_path_factory.mktemp(request.param)), runner="aoti") as opened:
        yield opened


def images(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [np.ascontiguousarray(scene("val", index).image[..., ::-1]) for index in range(count)]


@pytest.mark.parametrize("retina_masks", [False, True])
def test_masks_are_ultralytics_own(model: YOLO26, retina_masks: bool) -> None:
    import_torchvision()
    from ultralytics import YOLO

    theirs = YOLO(shapes_checkpoint("segment"))
    settings: dict[str, Any] = {"retina_masks": retina_masks}

    def both() -> Iterator[tuple[Any, Any]]:
        for image in images(24):
            with float32_precision("ieee"):
                (expected,) = theirs.predict(
                    image, nms=False, rect=False, imgsz=320, device=0, verbose=False, conf=0.2, **settings
                )
            (given,) = model.predict(image, conf=0.2, **settings)
            yield given, expected

    found = compare("rankings", both(), (320, 320))
    assert found.objects > 24
    assert found.mask_iou is not None and found.mask_iou.mean >= 0.995
    assert found.failures("fp16") == []


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("task", ["semantic", "depth"])
def test_maps_are_ultralytics_own(task: str, precision: str, tmp_path: Path) -> None:
    import_torchvision()
    from ultralytics import YOLO

    theirs = YOLO(shapes_checkpoint(task))
    with YOLO26(export(task, precision, tmp_path), runner="aoti") as ours:

        def both() -> Iterator[tuple[Any, Any]]:
            for image in images(24):
                with float32_precision("ieee"):
                    (expected,) = theirs.predict(image, nms=False, rect=False, imgsz=320, device=0, verbose=False)
                (given,) = ours.predict(image)
                yield given, expected

        found = compare(TASKS[task].kind, both(), (320, 320))
    assert found.images == 24
    assert found.failures(precision) == [], found


def test_from_the_image_to_the_results_everything_stays_on_the_gpu(
    model: YOLO26, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = images(1)
    model.predict(image)  # captures the graph

    def refuse(self: torch.Tensor, *_: Any, **__: Any) -> None:
        raise AssertionError("a tensor goes to the host")

    with monkeypatch.context() as patched:
        for name in ("cpu", "numpy", "tolist"):
            patched.setattr(torch.Tensor, name, refuse)
        (result,) = model.predict(image)
    assert result.masks.data.is_cuda and result.boxes.data.is_cuda
    assert len(result) > 0


def test_outputs_are_the_same_on_the_gpu_and_on_the_host(model: YOLO26) -> None:
    runner = model._backend.runner
    batch = torch.rand(runner.input.shape, generator=torch.Generator().manual_seed(0))
    every = runner(batch)
    names = ["detections", "coefficients", "protos"]
    there = runner(batch.cuda(), outputs=names, on_device=True)
    assert list(there) == names
    for name, output in there.items():
        assert output.is_cuda and not every[name].is_cuda
        assert torch.equal(output.cpu(), every[name])
    kept = {name: output.clone() for name, output in there.items()}
    runner(torch.rand(runner.input.shape))
    assert all(torch.equal(there[name], kept[name]) for name in names)  # each call gives memory of its own
