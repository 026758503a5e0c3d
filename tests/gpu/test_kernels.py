"""The Triton kernels, compiled, against their references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass
from torch.nn import functional

from support import fused_network, random_model
from yolo26_executorch.errors import LoweringError
from yolo26_executorch.lowering.kernels.attention import attention
from yolo26_executorch.lowering.kernels.depthwise import depthwise_conv2d, depthwise_reference
from yolo26_executorch.lowering.kernels.masks import masks
from yolo26_executorch.lowering.kernels.pool import max_pools
from yolo26_executorch.lowering.kernels.stem import stem
from yolo26_executorch.lowering.kernels.tile import Tile
from yolo26_executorch.lowering.kernels.topk import topk
from yolo26_executorch.lowering.passes.rewrites import PixelShuffleConv, for_cuda
from yolo26_executorch.lowering.target import Target
from yolo26_executorch.lowering.tuning.autotune import Workload, fastest, tune
from yolo26_executorch.lowering.tuning.cost_model import Problem, expected_fastest
from yolo26_executorch.models.export_model import float32_precision
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.parity.compare import compare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # Triton's own, of every release others.
    pytest.mark.filterwarnings("ignore"),
]

NAN, INF = float("nan"), float("inf")


def rows_of(kind: str, rows: int, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    values = torch.randn(rows, n, generator=generator)
    if kind == "ties":
        return (values * 20).round()
    if kind == "equal":
        return torch.full((rows, n), 0.25)
    if kind == "odd":
        odd = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1e-45, 3e38, 1.0, -1.0])
        return odd[torch.randint(len(odd), (rows, n), generator=generator)]
    return values


def assert_stable(given: tuple[Tensor, Tensor], rows: Tensor, k: int) -> None:
    values, indices = (tensor.cpu() for tensor in given)
    wanted = torch.sort(rows, dim=-1, descending=True, stable=True)
    assert torch.equal(indices, wanted.indices[:, :k])
    assert torch.equal(values.view(torch.int32), wanted.values[:, :k].contiguous().view(torch.int32))


@pytest.mark.parametrize(
    ("rows", "n", "k"),
    [
        (1, 8400, 300),
        (1, 21504, 300),
        (4, 24000, 300),
        (1, 4500, 300),
        (2, 300, 300),
        (1, 100_000, 300),
        (1, 1_376_256, 300),
    ],
)
@pytest.mark.parametrize("kind", ["random", "ties", "odd", "equal"])
def test_topk_is_a_stable_sort(kind: str, rows: int, n: int, k: int) -> None:
    given = rows_of(kind, rows, n)
    assert_stable(topk(given.cuda(), k), given, k)


def test_topk_of_strided_rows() -> None:
    given = rows_of("random", 500, 8)
    assert_stable(topk(given.cuda().t(), 30), given.t().contiguous(), 30)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("channels", "height", "width", "kernel", "stride", "padding"),
    [
        (64, 80, 80, 3, 1, 1),
        (80, 40, 40, 3, 1, 1),
        (256, 20, 20, 7, 1, 3),
        (3, 33, 31, 3, 2, 1),
        (1, 5, 7, 3, 1, 0),
        (130, 9, 9, 5, 2, 2),
    ],
)
def test_depthwise_is_its_reference(
    channels: int, height: int, width: int, kernel: int, stride: int, padding: int, dtype: torch.dtype, silu: bool
) -> None:
    generator = torch.Generator().manual_seed(channels)
    shapes = [(2, channels, height, width), (kernel * kernel, channels), (channels,)]
    images, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    expected = depthwise_reference(images.float(), weight.float(), bias.float(), stride, padding, silu, False)
    # One rounding to the dtype, on top of float32's own in a sum of up to 49 products.
    relative = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    for memory_format in (torch.channels_last, torch.contiguous_format):
        given = depthwise_conv2d(
            images.cuda().contiguous(memory_format=memory_format),
            weight.cuda(),
            bias.cuda(),
            stride,
            padding,
            silu,
            False,
        )
        assert given.dtype == dtype
        assert given.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(given.float().cpu(), expected, atol=2e-5, rtol=relative)


def test_depthwise_rounds_to_tf32() -> None:
    """A compiler that took the rounding's sums for what they are on paper would drop it."""
    generator = torch.Generator().manual_seed(0)
    images, weight, bias = (torch.randn(s, generator=generator).cuda() for s in ((1, 64, 40, 40), (9, 64), (64,)))
    given = depthwise_conv2d(images, weight, bias, 1, 1, True, True)
    assert not bool((given.view(torch.int32) & 0x1FFF).any())
    exact = depthwise_conv2d(images, weight, bias, 1, 1, True, False)
    torch.testing.assert_close(given, exact, atol=1e-6, rtol=2**-11)


ROUNDINGS = {torch.float32: (5e-3, 2**-10), torch.float16: (2e-3, 2**-10), torch.bfloat16: (2e-2, 2**-7)}
"""Absolute and relative: of sums of some hundred products of values near 1; float32 is multiplied as tf32."""


def problem_id(problem: Problem) -> str:
    return problem.key.replace(" ", "_").replace("/", "s")


PROBLEMS = [
    Problem((102_400,), 32, (16,), 3, 2, 2, ieee=False),
    Problem((25_600,), 8, (16,), 3, 1, 4, ieee=False),
    Problem((25_600,), 16, (8,), 3, 1, 2, ieee=False),
    Problem((25_600,), 64, (32, 16), 1, 1, 2, ieee=False),
    Problem((1600,), 128, (256, 128), 1, 1, 4, ieee=False, upsampled=1),
    Problem((400,), 256, (256, 384), 1, 1, 2, ieee=False),
    Problem((400,), 768, (768,), 3, 1, 2, ieee=False),
    Problem((400,), 768, (768,), 3, 1, 4, ieee=False),
    Problem((400,), 80, (80,), 1, 1, 4, ieee=True),
    Problem((6400, 1600, 400), 16, (64, 128, 256), 3, 1, 2, ieee=False),
    Problem((6400, 1600, 400), 80, (64, 128, 256), 1, 1, 4, ieee=False),
    Problem((6400, 400), 6, (80, 80), 1, 1, 2, ieee=False),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=problem_id)
def test_convolutions_are_their_references(problem: Problem) -> None:
    given, expected = (Workload(problem, device=device)(expected_fastest(problem)) for device in ("cuda", "cpu"))
    absolute, relative = ROUNDINGS[given[0].dtype]
    for one, other in zip(given, expected, strict=True):
        assert one.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one.cpu(), other, atol=absolute, rtol=relative)


@pytest.mark.parametrize("split_k", [2, 4])
def test_split_k(split_k: int) -> None:
    problem = PROBLEMS[6]
    tile = expected_fastest(problem)._replace(split_k=split_k)
    (given,), (expected,) = (Workload(problem, device=device)(tile) for device in ("cuda", "cpu"))
    torch.testing.assert_close(given.cpu(), expected, atol=2e-3, rtol=2**-10)


def test_convolutions_round_to_tf32() -> None:
    for problem in (PROBLEMS[1], PROBLEMS[4], PROBLEMS[7], PROBLEMS[10]):
        for one in Workload(problem, device="cuda")(expected_fastest(problem)):
            assert not bool((one.contiguous().view(torch.int32) & 0x1FFF).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bytes_last", [True, False])
def test_the_stem_is_its_reference(dtype: torch.dtype, bytes_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (1, 320, 256, 3), generator=generator, dtype=torch.uint8)
    images = pictures.permute(0, 3, 1, 2)
    images = images if bytes_last else images.float().contiguous() / 255
    weight = functional.pad(torch.randn(16, 27, generator=generator), (0, 5)).to(dtype)
    bias = torch.randn(16, generator=generator).to(dtype)
    settings = (3, 2, 1, True, dtype == torch.float32, "tf32")
    given = stem(images.cuda(), weight.cuda(), bias.cuda(), *settings)
    absolute, relative = ROUNDINGS[dtype]
    torch.testing.assert_close(given.cpu(), stem(images, weight, bias, *settings), atol=absolute, rtol=relative)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(20, 20), (7, 9), (40, 40)])
def test_attention_is_its_reference(size: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, *size, 2 * 128), (9, 128), (128,)]
    qkv, taps, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    qkv = qkv.permute(0, 3, 1, 2)
    settings = (2, 32, 32**-0.5, dtype == torch.float32, "tf32", Target.at_hand().shared_bytes)
    given = attention(qkv.cuda(), taps.cuda(), bias.cuda(), *settings)
    absolute, relative = ROUNDINGS[dtype]
    expected = attention(qkv, taps, bias, *settings)
    torch.testing.assert_close(given.cpu(), expected, atol=2 * absolute, rtol=4 * relative)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pooling_is_its_reference(dtype: torch.dtype) -> None:
    images = torch.randn(2, 20, 20, 136, generator=torch.Generator().manual_seed(0)).to(dtype).permute(0, 3, 1, 2)
    assert torch.equal(max_pools(images.cuda(), 2, 3).cpu(), max_pools(images, 2, 3))


@pytest.mark.parametrize("products", ["tf32", "ieee"])
@pytest.mark.parametrize(("count", "height", "width", "channels"), [(300, 160, 160, 32), (7, 20, 33, 24)])
def test_masks_are_their_reference(count: int, height: int, width: int, channels: int, products: str) -> None:
    """Small whole numbers, whose products are exact in any precision."""
    generator = torch.Generator().manual_seed(count)
    coefficients, protos = (
        torch.randint(-3, 4, shape, generator=generator).float()
        for shape in ((2, count, channels), (2, height, width, channels))
    )
    corners = torch.rand((2, count, 2, 2), generator=generator) * 4 * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
    given = masks(coefficients.cuda(), protos.permute(0, 3, 1, 2).cuda(), boxes.cuda(), products)
    assert torch.equal(given.cpu(), masks(coefficients, protos.permute(0, 3, 1, 2), boxes, products))


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16", "fp32"])
@pytest.mark.parametrize("task", TASKS)
def test_a_fused_model_is_the_model(task: str, precision: str) -> None:
    name = f"yolo26n{TASKS[task].suffix}"
    model = random_model(name)
    program = torch.export.export(fused_network(name, precision), (model.example_input,))
    network = move_to_device_pass(program, "cuda").module(check_guards=False)
    images = random_input(model.input_spec, seed=1)
    with torch.no_grad(), float32_precision("ieee"):
        given = network(images.cuda())
        reference = model.reference(images)
    outputs = dict(zip([spec.name for spec in model.output_specs], given, strict=True))
    report = compare(
        model.task, model.output_specs, outputs, reference, precision=precision, keypoint_shape=model.keypoint_shape
    )
    assert report.failures == ()


def test_the_fastest_tile_is_found() -> None:
    problem = PROBLEMS[3]
    (found,) = tune([problem], full=False, jobs=4)
    assert 0 < found.us <= found.default_us
    assert found.tried >= 3
    assert not found.refused


TOO_LARGE = Tile(256, 256, 128, 4, 8)
"""Of shared memory more than any GPU has."""


def test_tiles_that_do_not_fit_are_passed_over() -> None:
    problem = PROBLEMS[3]
    works = expected_fastest(problem)
    found = fastest(problem, [TOO_LARGE, works])
    assert (found.tile, found.default_us, found.tried, len(found.refused)) == (works, None, 1, 1)


def test_no_tile_that_fits_is_told_in_words() -> None:
    with pytest.raises(LoweringError, match="none of the 1 tiles tried works on this GPU"):
        fastest(PROBLEMS[3], [TOO_LARGE])


def test_pixel_shuffle_is_the_transposed_convolution() -> None:
    torch.manual_seed(0)
    conv = torch.nn.ConvTranspose2d(64, 64, 2, stride=2).cuda()
    images = torch.randn(2, 64, 40, 40, device="cuda")
    with float32_precision("ieee"), torch.no_grad():
        expected = functional.conv_transpose2d(images, conv.weight, conv.bias, stride=2)
        torch.testing.assert_close(PixelShuffleConv(conv)(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_a_rewritten_model_is_the_model(task: str) -> None:
    name = f"yolo26n{TASKS[task].suffix}"
    model, rewritten = random_model(name), for_cuda(random_model(name))
    images = random_input(model.input_spec, seed=1)
    rewritten.to("cuda")
    rewritten.move_anchors("cuda")
    with torch.no_grad(), float32_precision("ieee"):
        if not model.task.ranked:
            expected = model.reference(images)
            atol = 1e-5 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(rewritten.reference(images.cuda()).cpu(), expected, atol=atol, rtol=0)
            return
        given, expected = rewritten.dense(images.cuda()), model.dense(images)
        for quantity, tolerance in {"boxes": 0.02, "scores": 1e-4, "extra": 0.02}.items():
            torch.testing.assert_close(
                getattr(given, quantity).cpu(), getattr(expected, quantity), atol=tolerance, rtol=1e-4
            )
