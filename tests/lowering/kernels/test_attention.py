from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import Attention

from support import interpreter
from support.interpreter import Interpreter
from yolo26_executorch.lowering.kernels.attention import attention, blocks

ROUNDING = 1e-5
"""Of float32 sums of some hundred products, in another order."""
SHARED = 99 * 1024
"""Bytes of shared memory, as on sm_86."""


def operands(heads: int, key: int, head: int, size: tuple[int, int], kernel: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (N, H, W, C), and the positional convolution's weight and bias."""
    generator = torch.Generator().manual_seed(heads + key + size[0])
    qkv = torch.randn(2, *size, heads * (2 * key + head), generator=generator) * 2
    taps = torch.randn(kernel * kernel, heads * head, generator=generator)
    return qkv, taps, torch.randn(heads * head, generator=generator)


def plain(qkv: Tensor, taps: Tensor, bias: Tensor, heads: int, key: int, scale: float) -> Tensor:
    """What Ultralytics' module computes between its two convolutions."""
    batch, height, width, _ = qkv.shape
    channels, side = taps.shape[1], round(taps.shape[0] ** 0.5)
    parts = qkv.permute(0, 3, 1, 2).reshape(batch, heads, -1, height * width)
    q, k, v = parts.split([key, key, channels // heads], 2)
    share = ((q * scale).transpose(-2, -1) @ k).softmax(-1)
    values = v.reshape(batch, channels, height, width)
    square = taps.t().reshape(channels, 1, side, side)
    near = nn.functional.conv2d(values, square, bias, padding=side // 2, groups=channels)
    return (v @ share.transpose(-2, -1)).view(batch, channels, height, width) + near


@pytest.mark.parametrize(
    ("heads", "key", "head", "size", "kernel"),
    [(2, 16, 32, (5, 7), 3), (1, 32, 64, (20, 20), 3), (3, 16, 16, (1, 9), 3), (2, 16, 16, (9, 8), 5)],
)
def test_the_kernel_is_the_attention(
    interpret: Interpreter, heads: int, key: int, head: int, size: tuple[int, int], kernel: int
) -> None:
    tensors = operands(heads, key, head, size, kernel)
    expected = plain(*tensors, heads, key, key**-0.5)
    arrays = [tensor.numpy() for tensor in tensors]
    given = interpret(interpreter.attention, *arrays, heads, key, key**-0.5, False, "ieee", SHARED)
    torch.testing.assert_close(torch.from_numpy(given), expected, atol=ROUNDING, rtol=ROUNDING)
    qkv = tensors[0].permute(0, 3, 1, 2)
    reference = attention(qkv, *tensors[1:], heads, key, key**-0.5, False, "ieee", SHARED)
    torch.testing.assert_close(reference, expected, atol=ROUNDING, rtol=ROUNDING)
    assert reference.is_contiguous(memory_format=torch.channels_last)


def test_great_scores_do_not_overflow(interpret: Interpreter) -> None:
    qkv, taps, bias = operands(1, 16, 16, (6, 6))
    qkv[..., :32] *= 100
    given = interpret(
        interpreter.attention, qkv.numpy(), taps.numpy(), bias.numpy(), 1, 16, 0.25, False, "ieee", SHARED
    )
    torch.testing.assert_close(torch.from_numpy(given), plain(qkv, taps, bias, 1, 16, 0.25), atol=1e-4, rtol=1e-4)


def test_half_precision(interpret: Interpreter) -> None:
    tensors = [tensor.half() for tensor in operands(2, 16, 32, (6, 6))]
    given = interpret(
        interpreter.attention, *[tensor.numpy() for tensor in tensors], 2, 16, 0.25, False, "tf32", SHARED
    )
    assert given.dtype == np.float16
    qkv, taps, bias = (tensor.float() for tensor in tensors)
    exact = plain(qkv, taps, bias, 2, 16, 0.25)
    torch.testing.assert_close(torch.from_numpy(given).float(), exact, atol=5e-3, rtol=2e-3)


def test_tf32_is_a_rounding(interpret: Interpreter) -> None:
    tensors = operands(2, 16, 32, (6, 6))
    arrays = [tensor.numpy() for tensor in tensors]
    given = torch.from_numpy(interpret(interpreter.attention, *arrays, 2, 16, 0.25, True, "ieee", SHARED))
    assert not bool((given.contiguous().view(torch.int32) & 0x1FFF).any())
    torch.testing.assert_close(given, plain(*tensors, 2, 16, 0.25), atol=4e-3, rtol=1e-3)


def test_it_is_what_ultralytics_computes() -> None:
    torch.manual_seed(0)
    module = Attention(64, num_heads=2).eval()
    for layer in (module.qkv, module.pe, module.proj):
        layer.bn = nn.Identity()
    images = torch.randn(1, 64, 5, 6)
    with torch.no_grad():
        taps = module.pe.conv.weight.reshape(64, 9).t().contiguous()
        mixed = attention(
            module.qkv(images), taps, torch.zeros(64), 2, module.key_dim, module.scale, False, "ieee", SHARED
        )
        torch.testing.assert_close(module.proj(mixed), module(images), atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("programs", "element_bytes", "precision", "shared_kib", "expected"),
    [
        (26, 2, "tf32", 227, (16, 128)),
        (300, 2, "tf32", 227, (64, 128)),
        (26, 4, "tf32", 227, (16, 128)),
        (300, 4, "tf32", 227, (32, 64)),
        (26, 4, "ieee", 227, (16, 32)),
        (26, 4, "tf32", 99, (16, 64)),
        (300, 2, "tf32", 99, (64, 128)),
        (300, 2, "tf32", 64, (64, 64)),
        (26, 4, "ieee", 16, (16, 16)),
    ],
)
def test_blocks_fit_the_gpu(
    programs: int, element_bytes: int, precision: str, shared_kib: int, expected: tuple[int, int]
) -> None:
    assert blocks(programs, 32, 64, element_bytes, precision, shared_kib * 1024) == expected
