from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from support import interpreter, product
from support.interpreter import Interpreter
from yolo26_executorch.lowering.kernels.pool import max_pools


def repeated(images: Tensor, radius: int, count: int) -> Tensor:
    pooled = [images]
    for _ in range(count):
        pooled.append(functional.max_pool2d(pooled[-1], 2 * radius + 1, 1, radius))
    return torch.cat(pooled[1:], 1)


@pytest.mark.parametrize(
    ("dtype", "channels", "height", "width", "radius", "count"),
    product(
        [torch.float32, torch.float16],
        [(8, 9, 7), (40, 3, 16), (3, 1, 1)],
        [(2, 3), (2, 2), (1, 3), (1, 1), (3, 2)],
    ),
)
def test_the_kernel_is_repeated_pooling(
    interpret: Interpreter, dtype: torch.dtype, channels: int, height: int, width: int, radius: int, count: int
) -> None:
    images = torch.randn(2, height, width, channels, generator=torch.Generator().manual_seed(radius)).to(dtype)
    expected = repeated(images.permute(0, 3, 1, 2), radius, count)
    given = interpret(interpreter.max_pools, images.numpy(), radius, count)
    assert torch.equal(torch.from_numpy(given), expected)
    reference = max_pools(images.permute(0, 3, 1, 2), radius, count)
    assert torch.equal(reference, expected)
    assert reference.is_contiguous(memory_format=torch.channels_last)
