from __future__ import annotations

import itertools
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from support import fused_network, product, random_model
from yolo26_executorch.lowering.kernels.conv import MAX_KERNEL_SIZE
from yolo26_executorch.lowering.passes.fusion import fuse
from yolo26_executorch.lowering.passes.rewrites import for_cuda, round_tf32
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.parity.compare import compare

ROUNDING = 1e-5
"""Of sums of some hundred products of values near 1, in another order."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def operators(graph: fx.GraphModule) -> Counter[str]:
    """What a graph computes with, by name, our own without their namespace."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return Counter(name.replace("yolo26_et.", "").removesuffix(".default") for name in names)


def fused(module: nn.Module, images: Tensor, within: float = ROUNDING) -> Counter[str]:
    """Fuse, assert that the same comes out, and return what it is computed with."""
    graph = fuse(module.eval(), images, "ieee")
    with torch.no_grad():
        given, expected = graph(images), module(images)
    for one, other in zip(given, expected, strict=True) if isinstance(expected, tuple) else [(given, expected)]:
        torch.testing.assert_close(one, other, atol=within, rtol=within)
    return operators(graph)


class Net(nn.Module):
    """Convolutions to compose: `self.a`, `self.b` … of 16 channels."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def conv(inside: int = 16, outside: int = 16, kernel: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, padding=kernel // 2, **more)


IMAGES = (1, 16, 8, 6)


# ---- what goes into one operator -------------------------------------------------------------------------------------


def test_activation_and_sum_go_along() -> None:
    class Bottleneck(Net):
        def forward(self, x: Tensor) -> Tensor:
            return x + functional.silu(self.b(functional.silu(self.a(x))))

    assert fused(Bottleneck(a=conv(kernel=3), b=conv(kernel=3)), torch.randn(IMAGES)) == {"conv2d": 2}


def test_what_is_read_elsewhere_is_kept() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            plain = self.a(x)
            active = functional.silu(plain)
            return plain, active, active + x

    assert fused(Twice(a=conv(kernel=3)), torch.randn(IMAGES)) == {"conv2d": 1, "aten.silu": 1, "aten.add.Tensor": 1}


@pytest.mark.parametrize("scaled", ["alpha", "shape", "number"])
def test_other_sums_are_left(scaled: str) -> None:
    class Sum(Net):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.a(x)
            if scaled == "alpha":
                return torch.add(y, x, alpha=2)
            return y + (x[:, :1] if scaled == "shape" else 3.0)

    found = fused(Sum(a=conv(kernel=3)), torch.randn(IMAGES))
    assert (found["conv2d"], found["aten.add.Tensor"]) == (1, 1)


def test_concat_and_upsampling_are_read_without_a_copy() -> None:
    class Neck(Net):
        def forward(self, x: Tensor) -> Tensor:
            half = self.a(x)
            return self.b(torch.cat([functional.interpolate(half, scale_factor=2.0), x], 1))  # type: ignore[no-any-return]

    assert fused(Neck(a=conv(kernel=3, stride=2), b=conv(32)), torch.randn(IMAGES)) == {"conv2d": 2}


def test_slices_that_make_up_a_tensor_are_that_tensor() -> None:
    class Split(Net):
        def forward(self, x: Tensor) -> Tensor:
            first, second = self.a(x).chunk(2, 1)
            third = self.b(second)
            return self.c(torch.cat([first, second, third], 1))  # type: ignore[no-any-return]

    graph = fuse(Split(a=conv(), b=conv(8, 8, 3), c=conv(24)).eval(), torch.randn(IMAGES), "ieee")
    last = [node for node in graph.graph.nodes if "conv2d" in str(node.target)][-1]
    assert [tuple(value.meta["val"].shape[1:2]) for value in last.args[0]] == [(16,), (8,)]
    assert fused(Split(a=conv(), b=conv(8, 8, 3), c=conv(24)), torch.randn(IMAGES))["conv2d"] == 3


def test_slices_in_another_order_are_not() -> None:
    class Swapped(Net):
        def forward(self, x: Tensor) -> Tensor:
            first, second = self.a(x).split([4, 12], 1)
            return self.b(torch.cat([second, first], 1))  # type: ignore[no-any-return]

    assert fused(Swapped(a=conv(), b=conv()), torch.randn(IMAGES)) == {"conv2d": 2, "aten.slice.Tensor": 2}


def test_a_concatenation_that_a_larger_kernel_reads_is_made() -> None:
    class Laid(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.cat([self.a(x), x], 1))  # type: ignore[no-any-return]

    assert fused(Laid(a=conv(), b=conv(32, kernel=3)), torch.randn(IMAGES)) == {"conv2d": 2, "aten.cat": 1}


def test_more_inputs_than_one_launch_takes_are_concatenated() -> None:
    class Many(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(torch.cat([x, x * 2, x * 3, x * 4, x * 5], 1))  # type: ignore[no-any-return]

    assert fused(Many(a=conv(80)), torch.randn(IMAGES))["aten.cat"] == 1


def test_siblings_are_one() -> None:
    class Siblings(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat([self.b(functional.silu(self.a(x))), functional.silu(self.d(x))], 1))  # type: ignore[no-any-return]

    net = Siblings(a=conv(), b=conv(kernel=3), c=conv(24), d=conv(16, 8))
    assert fused(net, torch.randn(IMAGES)) == {"conv2d": 3, "aten.slice.Tensor": 2}


def test_siblings_of_other_activations_are_not() -> None:
    class Siblings(Net):
        def forward(self, x: Tensor) -> Tensor:
            return functional.silu(self.a(x)) * self.b(x)

    assert fused(Siblings(a=conv(), b=conv()), torch.randn(IMAGES))["conv2d"] == 2


def test_repeated_pooling_is_one() -> None:
    class Pyramid(Net):
        def forward(self, x: Tensor) -> Tensor:
            pooled = [self.a(x)]
            for _ in range(3):
                pooled.append(functional.max_pool2d(pooled[-1], 5, 1, 2))
            return self.b(torch.cat(pooled, 1))  # type: ignore[no-any-return]

    found = fused(Pyramid(a=conv(), b=conv(64)), torch.randn(IMAGES))
    assert found == {"conv2d": 2, "max_pools": 1}


@pytest.mark.parametrize("settings", [(5, 2, 2), (2, 2, 0), (3, 1, 0)])
def test_other_pooling_is_left(settings: tuple[int, int, int]) -> None:
    class Pool(Net):
        def forward(self, x: Tensor) -> Tensor:
            return functional.max_pool2d(self.a(x), *settings)

    assert fused(Pool(a=conv()), torch.randn(IMAGES)) == {"conv2d": 1, "aten.max_pool2d": 1}


# ---- groups ----------------------------------------------------------------------------------------------------------


class Levels(Net):
    """A head of several levels, each half as large as the one before, two convolutions after the other."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = []
        for index in range(4):
            first, second = getattr(self, f"first{index}"), getattr(self, f"second{index}")
            outs.append(second(functional.silu(first(x))))
            x = functional.avg_pool2d(x, 2)
        return tuple(outs)


def test_levels_are_computed_together() -> None:
    layers = {f"first{index}": conv(16, 24, 3) for index in range(4)}
    layers |= {f"second{index}": conv(24, 8) for index in range(4)}
    found = fused(Levels(**layers), torch.randn(1, 16, 32, 16))
    assert (found["conv2d_group"], found["conv2d"]) == (2, 2)


def test_levels_of_depthwise_convolutions() -> None:
    model = for_cuda(random_model("yolo26n"))
    found = operators(fuse(model, model.example_input, "ieee"))
    assert (found["depthwise_group"], found["depthwise_conv2d"]) == (2, 0)


def test_what_waits_for_another_is_not_grouped() -> None:
    class Chain(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(functional.avg_pool2d(self.a(x), 2))  # type: ignore[no-any-return]

    found = fused(Chain(a=conv(kernel=3), b=conv(kernel=3)), torch.randn(IMAGES))
    assert (found["conv2d"], found["conv2d_group"]) == (2, 0)


def test_groups_do_not_wait_for_each_other_in_a_circle() -> None:
    """Grouping both pairs would make each group wait for the other."""

    class Crossed(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = functional.avg_pool2d(x, 2)
            large, small = self.a(x), self.b(y)
            return self.c(functional.avg_pool2d(large, 2)), self.d(functional.interpolate(small, scale_factor=2.0))

    # a and d, b and c, are alike: a (8×6) → c (4×3), b (4×3) → d (8×6).
    net = Crossed(a=conv(16, 24, 3), b=conv(16, 32, 3), c=conv(24, 32, 3), d=conv(32, 24, 3))
    found = fused(net, torch.randn(IMAGES))
    assert found["conv2d"] + 2 * found["conv2d_group"] == 4


# ---- what our kernels cannot do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.Conv2d(16, 16, (3, 1)),
        nn.Conv2d(16, 16, 3, stride=(1, 2)),
        nn.Conv2d(16, 16, 3, padding=(1, 0)),
        nn.Conv2d(16, 16, MAX_KERNEL_SIZE + 2, padding=MAX_KERNEL_SIZE // 2 + 1),
    ],
)
def test_other_convolutions_are_left(layer: nn.Module) -> None:
    class One(Net):
        def forward(self, x: Tensor) -> Tensor:
            return functional.silu(self.a(x))

    assert fused(One(a=layer), torch.randn(IMAGES)) == {"aten.conv2d": 1, "aten.silu": 1}


def test_a_convolution_without_bias() -> None:
    class One(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)  # type: ignore[no-any-return]

    assert fused(One(a=conv(kernel=3, bias=False)), torch.randn(IMAGES)) == {"conv2d": 1}


# ---- tf32 ------------------------------------------------------------------------------------------------------------


def test_roundings_go_along() -> None:
    class Rounds(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = round_tf32(functional.silu(self.a(x)))
            return round_tf32(y + round_tf32(functional.silu(self.b(y))))

    # Where float32's sum differs in its last bits, a value may be rounded to the neighbour.
    assert fused(Rounds(a=conv(kernel=3), b=conv(kernel=3)), torch.randn(IMAGES), within=2**-10) == {"conv2d": 2}


def test_a_sum_that_is_not_rounded_keeps_its_rounded_part() -> None:
    class Rounds(Net):
        def forward(self, x: Tensor) -> Tensor:
            return x + round_tf32(self.a(x))

    found = fused(Rounds(a=conv(kernel=3)), torch.randn(IMAGES), within=2**-10)
    assert found == {"conv2d": 1, "aten.add.Tensor": 1}


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("form", ["float32", "uint8"])
def test_the_first_layer_reads_the_picture(form: str, precision: str) -> None:
    model = for_cuda(random_model("yolo26n-cls", precision=precision, input=form, backend="cuda"))
    graph = fuse(model, model.example_input, "ieee" if precision == "fp32" else "tf32")
    (first,) = (node for node in graph.graph.nodes if "stem" in str(node.target))
    source = first.args[0]
    assert source.op == "placeholder" if form == "float32" else str(source.target) == "aten.permute.default"


# ---- whole models ----------------------------------------------------------------------------------------------------


def outputs_of(model: ExportModel, network: Any, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(zip([spec.name for spec in model.output_specs], network(images), strict=True))


@pytest.mark.parametrize(("task", "precision"), product(TASKS, ["fp32", "tf32", "fp16", "bf16"], meeting=1))
def test_a_fused_model_is_the_model(task: str, precision: str) -> None:
    name = f"yolo26n{TASKS[task].suffix}"
    model = random_model(name)
    network = fused_network(name, precision)
    found = operators(network)
    assert found["stem"] == 1
    assert not [target for target in found if "aten.conv" in target or "silu" in target or "pool2d" in target[:15]]
    images = random_input(model.input_spec, seed=1)
    with torch.no_grad():
        reference = model.reference(images)
    report = compare(
        model.task, model.output_specs, outputs_of(model, network, images), reference, precision=precision,
        keypoint_shape=model.keypoint_shape,
    )  # fmt: skip
    assert report.failures == ()


def test_a_batch_of_another_size() -> None:
    options: dict[str, Any] = {"batch": 2, "imgsz": (224, 352), "backend": "cuda"}
    model = random_model("yolo26n-seg", **options)
    rewritten = for_cuda(random_model("yolo26n-seg", **options))
    images = random_input(model.input_spec, seed=2)
    network = fuse(rewritten, images, "ieee")
    report = compare(
        model.task, model.output_specs, outputs_of(model, network, images), model.dense(images), precision="fp32"
    )
    assert report.failures == ()


def test_convolutions_are_told_the_weights_of_the_next() -> None:
    rewritten = for_cuda(random_model("yolo26n"))
    with torch.no_grad():
        alone, ahead = (fuse(rewritten, rewritten.example_input, "ieee", prefetch=wanted) for wanted in (False, True))
    convolutions = [node for node in ahead.graph.nodes if "yolo26_et.conv2d" in str(node.target)]
    for node, after in itertools.pairwise(convolutions):
        weights = after.args[1] if isinstance(after.args[1], list) else [after.args[1]]
        assert [one.target for one in node.args[-1]] == [one.target for one in weights]
    assert max(len(node.args[-1]) for node in convolutions) == 3
    assert convolutions[-1].args[-1] == []
    others = [node for node in alone.graph.nodes if "yolo26_et.conv2d" in str(node.target)]
    assert len(others) == len(convolutions)
    assert all(node.args[-1] == [] for node in others)
    images = random_input(rewritten.input_spec, seed=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(ahead, (rewritten.example_input,))
        assert torch.equal(program.module()(images)[0], alone(images)[0])


def test_a_fused_model_can_be_exported_again() -> None:
    rewritten = for_cuda(random_model("yolo26n"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = fuse(rewritten, rewritten.example_input, "ieee")
        program = torch.export.export(network, (rewritten.example_input,))
    assert not [name for name in program.state_dict if name.startswith("layers.") and "cv" in name and "weight" in name]
    images = random_input(rewritten.input_spec, seed=1)
    with torch.no_grad():
        assert torch.equal(program.module()(images)[0], network(images)[0])
