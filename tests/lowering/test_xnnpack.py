"""The lowering on a small module; `tests/test_export.py` lowers whole models."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support import make_manifest, publish
from yolo26_executorch.artifacts.program_file import quiet, read_methods
from yolo26_executorch.errors import LoweringError
from yolo26_executorch.lowering.xnnpack import DELEGATE, lower, masks
from yolo26_executorch.models.export_model import aten_masks
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.tasks import TASKS, TensorSpec
from yolo26_executorch.runtime import open_runner


class Net(nn.Module):
    """What a head does: a convolution, then a ranking."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 1, 3)
        self.example_input = torch.zeros(1, 3, 8, 8)
        self.task = TASKS["detect"]
        self.output_specs: tuple[TensorSpec, ...] = ()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = self.conv(images).flatten(1).topk(5)
        return values, indices


def test_a_program_that_runs(tmp_path: Path) -> None:
    stages: list[str] = []
    model: Any = Net().eval()
    lowered = lower(model, ExportOptions(), stages.append)
    assert stages == ["export", "lower", "write"]
    assert lowered.delegate == DELEGATE == "XnnpackBackend"
    assert lowered.delegated.calls == 1
    assert (lowered.delegated.operators, lowered.delegated.outside) == (2, {"aten.topk.default": 1})

    lowered.write(tmp_path, "model.pte")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pte"]
    (method,) = read_methods(tmp_path / "model.pte")
    assert method.delegate_calls == {"XnnpackBackend": 1}

    images = torch.rand(1, 3, 8, 8)
    with quiet():
        runtime = importlib.import_module("executorch.runtime").Runtime.get()
    given = runtime.load_program(tmp_path / "model.pte").load_method("forward").execute([images])
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(given[0], expected[0], atol=1e-5, rtol=0)
    assert torch.equal(given[1], expected[1])


def test_a_failure_is_one_line() -> None:
    class Broken(Net):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            raise ValueError("two\nlines")

    model: Any = Broken()
    with pytest.raises(LoweringError, match="XNNPACK: ") as caught:
        lower(model, ExportOptions(), lambda stage: None)
    assert "\n" not in str(caught.value)
    assert "two lines" in str(caught.value)


def test_what_depends_on_the_data_is_refused() -> None:
    class Dynamic(Net):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            if images.sum() > 0:
                return images, images
            return images, -images

    model: Any = Dynamic()
    with pytest.raises(LoweringError, match="XNNPACK: "):
        lower(model, ExportOptions(), lambda stage: None)


class Masks(nn.Module):
    """A segment model's outputs, of which masks are made of the others; most of its weights are in a layer of all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 64, 3)
        self.example_input = torch.zeros(1, 3, 8, 8)
        self.wide = nn.Conv2d(64, 512, 3)
        shapes = {"detections": (1, 4), "masks": (1, 4), "coefficients": (1, 4), "protos": (1, 512, 4, 4)}
        self.task = TASKS["segment"]
        self.output_specs = tuple(TensorSpec(name, shape, "float32", "") for name, shape in shapes.items())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        protos = self.wide(self.conv(images))
        rows = protos.mean((2, 3))[:, :4]
        return rows, torch.cumsum(rows, -1), rows * 2, protos


@pytest.mark.slow
def test_masks_can_be_left_out_and_weights_are_there_once(tmp_path: Path) -> None:
    model: Any = Masks().eval()
    lowered = lower(model, ExportOptions(), lambda stage: None)
    lowered.write(tmp_path, "model.pte")
    methods = {method.name: method for method in read_methods(tmp_path / "model.pte")}
    assert list(methods) == ["forward", "without_masks"]
    assert lowered.delegated.outside["aten.cumsum.default"] == 1
    assert methods["forward"].outside["aten::cumsum.out"] == 1
    assert "aten::cumsum.out" not in methods["without_masks"].outside
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert weights < (tmp_path / "model.pte").stat().st_size < 1.2 * weights

    manifest = make_manifest(
        backend="xnnpack",
        input=TensorSpec("images", (1, 3, 8, 8), "float32", "images"),
        outputs=model.output_specs,
    )
    folder = publish(tmp_path, manifest, (tmp_path / "model.pte").read_bytes())
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = dict(zip([spec.name for spec in model.output_specs], model(images), strict=True))
    with open_runner(folder, runner="executorch") as runner:
        for names in (["detections", "protos"], list(expected), ["masks"], ["coefficients", "detections", "protos"]):
            given = runner(images, outputs=names)
            assert sorted(given) == sorted(names)
            for name, output in given.items():
                torch.testing.assert_close(output, expected[name], atol=1e-5, rtol=0)


def test_masks_by_arithmetic_are_those_by_comparison() -> None:
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(2, 40, 8, generator=generator)
    coefficients[0, 0] = 0  # logits of 0 are outside
    protos = torch.randn(2, 8, 20, 28, generator=generator)
    corner, size = 100 * torch.rand(2, 40, 2, generator=generator) - 20, 60 * torch.rand(2, 40, 2, generator=generator)
    boxes = torch.cat([corner, corner + size], -1)
    boxes[:, ::2] = (boxes[:, ::2] / 4).round() * 4  # edges on a pixel's border
    boxes[1, 1] = boxes[1, 1, [2, 3, 0, 1]]  # inside out
    expected = aten_masks(coefficients, protos, boxes)
    assert 0.02 < expected.float().mean() < 0.5
    for scale in (1, 1e-30, 1e30):
        given = masks(coefficients * scale, protos, boxes)
        assert given.dtype == torch.uint8
        assert torch.equal(given, expected)
