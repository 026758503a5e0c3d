from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from support import interpreter, product
from support.interpreter import Interpreter
from yolo26_executorch.lowering.kernels.stem import stem

ROUNDING = 1e-5
"""Of float32 sums of some ten products, in another order."""


@pytest.mark.parametrize(
    ("dtype", "given_bytes", "tf32", "columns"),
    product([torch.float32, torch.float16], [True, False], [True, False], [16, 24, 48]),
)
def test_the_stem_reads_pictures_as_they_come(
    interpret: Interpreter, dtype: torch.dtype, given_bytes: bool, tf32: bool, columns: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (2, 10, 14, 3), generator=generator, dtype=torch.uint8)
    images = pictures.permute(0, 3, 1, 2).float() / 255
    square, bias = torch.randn(columns, 3, 3, 3, generator=generator), torch.randn(columns, generator=generator)
    weight = functional.pad(square.permute(0, 2, 3, 1).reshape(columns, 27), (0, 5)).to(dtype)
    settings = (3, 2, 1, True, tf32 and dtype == torch.float32, "ieee")
    source = pictures if given_bytes else images.contiguous()
    arrays = weight.numpy(), bias.to(dtype).numpy()
    given = torch.from_numpy(interpret(interpreter.stem, source.numpy(), given_bytes, *arrays, *settings))
    exact = functional.silu(functional.conv2d(images, square, bias, stride=2, padding=1))
    assert given.dtype == dtype
    rough = 5e-3 if tf32 or dtype == torch.float16 else ROUNDING
    torch.testing.assert_close(given.float(), exact, atol=rough, rtol=2**-10)
    batch = pictures.permute(0, 3, 1, 2) if given_bytes else images
    reference = stem(batch, weight, bias.to(dtype), *settings)
    torch.testing.assert_close(given, reference, atol=2e-3, rtol=2**-10)
