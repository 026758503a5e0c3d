from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support import each_task, random_model
from yolo26_executorch.lowering.passes.rewrites import (
    FEW_ROWS,
    DepthwiseConv,
    FusedAttention,
    PixelShuffleConv,
    Rounded,
    SummedLinear,
    for_cuda,
    is_depthwise,
    round_tf32,
)
from yolo26_executorch.lowering.target import Target
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.parity.compare import compare

ROUNDING = 1e-5
"""Of sums of some hundred products of values near 1, in another order."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- a transposed convolution ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inside", "outside", "side", "height", "width", "bias"),
    [
        (64, 64, 2, 20, 20, True),
        (3, 5, 2, 7, 4, False),
        (4, 1, 3, 2, 5, True),
        (1, 2, 1, 3, 3, True),
        (8, 8, 4, 1, 1, False),
    ],
)
def test_pixel_shuffle_is_the_transposed_convolution(
    inside: int, outside: int, side: int, height: int, width: int, bias: bool
) -> None:
    conv = nn.ConvTranspose2d(inside, outside, side, stride=side, bias=bias)
    images = torch.randn(2, inside, height, width)
    given, expected = PixelShuffleConv(conv)(images), conv(images)
    assert given.shape == expected.shape
    torch.testing.assert_close(given, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "output_padding": 1},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2, "groups": 2},
        {"kernel_size": (2, 1), "stride": (2, 1)},
        {"kernel_size": (1, 2), "stride": (1, 2)},
    ],
)
def test_other_transposed_convolutions_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="ConvTranspose2d"):
        PixelShuffleConv(nn.ConvTranspose2d(4, 4, **settings))


# ---- a depthwise convolution -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "height", "width"),
    [(3, 1, 1, 20, 20), (3, 2, 1, 9, 7), (3, 1, 0, 5, 3), (5, 2, 2, 11, 4), (7, 1, 3, 6, 6), (3, 3, 2, 8, 10)],
)
def test_depthwise_is_the_convolution(
    kernel: int, stride: int, padding: int, height: int, width: int, bias: bool, silu: bool
) -> None:
    conv = nn.Conv2d(24, 24, kernel, stride, padding, groups=24, bias=bias)
    assert is_depthwise(conv)
    images = torch.randn(2, 24, height, width)
    expected = nn.functional.silu(conv(images)) if silu else conv(images)
    torch.testing.assert_close(DepthwiseConv(conv, silu, tf32=False)(images), expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"groups": 1},
        {"groups": 4},
        {"out_channels": 16},
        {"kernel_size": (3, 1), "padding": 1},
        {"stride": (1, 2)},
        {"padding": (1, 0)},
        {"padding": "same"},
        {"dilation": 2},
        {"padding_mode": "reflect", "padding": 1},
        {"in_channels": 1, "out_channels": 1, "groups": 1},
    ],
)
def test_what_is_not_plainly_depthwise_is_left_alone(settings: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "groups": 8}
    assert is_depthwise(nn.Conv2d(**usual))
    assert not is_depthwise(nn.Conv2d(**{**usual, **settings}))


# ---- rounding to tf32 ------------------------------------------------------------------------------------------------


def test_rounding_is_to_the_nearest_of_ten_bits() -> None:
    values = torch.cat(
        [torch.randn(100_000) * 10.0 ** torch.randint(-30, 30, (100_000,)), torch.tensor([0.0, -0.0, 1.0])]
    )
    given = round_tf32(values)
    assert not bool((given.view(torch.int32) & 0x1FFF).any())
    # Half a unit in the last of ten places, and no more.
    assert bool(((given - values).abs() <= values.abs() * 2**-11).all())
    assert torch.equal(round_tf32(given), given)
    assert torch.equal(round_tf32(-values), -given)


def test_rounding_does_not_fade() -> None:
    """Cutting bits off, as the matrix units do, loses a 2000th of the sum; rounding loses nothing on average."""
    values = torch.rand(1_000_000)
    cut = (values.view(torch.int32) & ~0x1FFF).view(torch.float32)
    assert float(1 - cut.double().sum() / values.double().sum()) > 2e-4
    assert abs(float(1 - round_tf32(values).double().sum() / values.double().sum())) < 2e-6


@pytest.mark.parametrize("task", each_task("detect", "depth"))
def test_a_tf32_model_multiplies_rounded_operands(task: str) -> None:
    name = f"yolo26n{TASKS[task].suffix}"
    rewritten = for_cuda(random_model(name, backend="cuda", precision="tf32"))
    images = random_input(rewritten.input_spec, seed=1)
    seen: list[tuple[Tensor, Tensor]] = []
    for module in rewritten.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | SummedLinear | PixelShuffleConv):
            module.register_forward_hook(lambda module, given, _: seen.append((given[0], module.weight)))
    with torch.no_grad():
        rewritten(images)
    assert len(seen) > 20
    inexact = [[bool((values.view(torch.int32) & 0x1FFF).any()) for values in operands] for operands in seen]
    assert not any(weight for _, weight in inexact)
    assert not any(image for image, _ in inexact)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_other_precisions_are_not_rounded_to_tf32(precision: str) -> None:
    rewritten = for_cuda(random_model("yolo26n-cls", backend="cuda", precision=precision))
    assert not [module for module in rewritten.modules() if isinstance(module, Rounded)]
    assert not [module for module in rewritten.modules() if isinstance(module, DepthwiseConv) and module.tf32]


@pytest.mark.parametrize("task", TASKS)
def test_a_tf32_model_is_the_model_within_tf32s_tolerance(task: str) -> None:
    name = f"yolo26n{TASKS[task].suffix}"
    model, rewritten = random_model(name), for_cuda(random_model(name, backend="cuda", precision="tf32"))
    images = random_input(model.input_spec, seed=1)
    with torch.no_grad():
        outputs = dict(zip([spec.name for spec in model.output_specs], rewritten(images), strict=True))
        reference = model.reference(images)
    report = compare(
        model.task, model.output_specs, outputs, reference, precision="tf32", keypoint_shape=model.keypoint_shape
    )
    assert report.failures == ()


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0)])
def test_where_a_gpu_has_no_tf32_it_means_fp32(capability: tuple[int, int]) -> None:
    name = "yolo26n-seg"
    model, rewritten = random_model(name), random_model(name, backend="cuda", precision="tf32")
    images = random_input(model.input_spec, seed=1)
    with torch.no_grad():
        for_cuda(rewritten, Target(capability=capability))
        difference = (rewritten.dense(images).boxes - model.dense(images).boxes).abs().max()
    assert bool(difference < TOLERANCE["boxes"]) is (capability < (8, 0))
    kernels = [module for module in rewritten.modules() if isinstance(module, FusedAttention)]
    assert {kernel.products for kernel in kernels} == {"ieee" if capability < (8, 0) else "tf32"}


# ---- linear layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, ROUNDING), (torch.float16, 2e-3)])
def test_a_linear_layer_as_sums_is_the_layer(bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    linear = nn.Linear(200, 30, bias=bias)
    rows = torch.randn(3, 200)
    given = SummedLinear(linear.to(dtype))(rows.to(dtype))
    assert given.dtype == dtype
    expected = nn.functional.linear(
        rows.to(dtype).float(), linear.weight.float(), None if linear.bias is None else linear.bias.float()
    )
    torch.testing.assert_close(given.float(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("batch", [FEW_ROWS, FEW_ROWS + 1])
def test_linear_layers_of_many_rows_stay_products(batch: int) -> None:
    rewritten = for_cuda(random_model("yolo26n-cls", backend="cuda", batch=batch))
    kinds = {type(module) for module in rewritten.modules()} & {nn.Linear, SummedLinear}
    assert kinds == ({SummedLinear} if batch == FEW_ROWS else {nn.Linear})


# ---- all of them, in whole models ------------------------------------------------------------------------------------

TOLERANCE = {"boxes": 2e-3, "scores": 1e-5, "extra": 2e-3, "protos": 1e-3}
"""Pixels, probabilities, pixels or logits: some hundred layers of float32 rounding."""


@pytest.mark.parametrize("task", TASKS)
def test_a_rewritten_model_is_the_model(task: str) -> None:
    name = f"yolo26n{TASKS[task].suffix}"
    model, rewritten = random_model(name), for_cuda(random_model(name))
    images = random_input(model.input_spec, seed=1)
    with torch.no_grad():
        if not model.task.ranked:
            expected = model.reference(images)
            atol = max(1e-6, 4e-6 * float(expected.abs().max()))  # logits and metres go beyond 1
            torch.testing.assert_close(rewritten.reference(images), expected, atol=atol, rtol=0)
            return
        given, expected = rewritten.dense(images), model.dense(images)
        for quantity, tolerance in TOLERANCE.items():
            torch.testing.assert_close(getattr(given, quantity), getattr(expected, quantity), atol=tolerance, rtol=0)
        # Of the same predictions the ranking makes the same rows; only ties may stand in another order.
        model.dense = rewritten.dense = lambda images: expected  # type: ignore[method-assign]
        outputs = dict(zip([spec.name for spec in model.output_specs], rewritten(images), strict=True))
        assert torch.equal(outputs["detections"][..., -2], model(images)[0][..., -2])
        report = compare(
            model.task, model.output_specs, outputs, expected, precision="fp32", keypoint_shape=model.keypoint_shape
        )
        assert report.failures == ()


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_left_to_rewrite(task: str) -> None:
    rewritten = for_cuda(random_model(f"yolo26n{TASKS[task].suffix}"))
    left = [
        module
        for module in rewritten.modules()
        if isinstance(module, nn.ConvTranspose2d | nn.BatchNorm2d)
        or (isinstance(module, nn.Conv2d) and is_depthwise(module))
    ]
    assert left == []
    assert any(isinstance(module, DepthwiseConv | FusedAttention) for module in rewritten.modules())
    weights = [module.weight for module in rewritten.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_what_the_cuda_delegate_cannot_take_is_not_exported() -> None:
    model = for_cuda(random_model("yolo26n-seg"))
    with torch.no_grad():
        graph = torch.export.export(model, (model.example_input,)).graph
    targets = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert {"yolo26_et.topk.default", "yolo26_et.depthwise_conv2d.default"} <= targets
    assert not [name for name in targets if any(word in name for word in ("aten.topk", "sort", "transpose2d"))]


def test_an_activation_that_is_not_silu_stays() -> None:
    class Layer(nn.Module):
        def __init__(self, act: nn.Module) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.act = act

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.act(self.conv(images))
            return out

    images = torch.randn(1, 4, 5, 5)
    for act in (nn.SiLU(), nn.ReLU(), nn.Identity()):
        model = random_model("yolo26n-cls")
        layer = Layer(act)
        expected = layer(images)
        model.add_module("another", layer)
        for_cuda(model)
        assert isinstance(layer.conv, DepthwiseConv)
        assert layer.conv.silu is isinstance(act, nn.SiLU)
        torch.testing.assert_close(layer(images), expected, atol=ROUNDING, rtol=0)
