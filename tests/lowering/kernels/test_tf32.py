from __future__ import annotations

import subprocess
import sys

import torch

from support import PATIENCE_S
from yolo26_executorch.lowering.kernels.tf32 import round_tf32


def test_the_nearest_of_ten_bits_is_taken() -> None:
    values = torch.tensor([1.0, 1 + 2**-11 - 2**-20, 1 + 2**-11 + 2**-20, -3 - 2**-10 - 2**-20, 0.0])
    assert round_tf32(values).tolist() == [1.0, 1.0, 1 + 2**-10, -3 - 2**-9, 0.0]
    rounded = round_tf32(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    assert not bool((rounded.view(torch.int32) & 0x1FFF).any())


def test_what_needs_no_triton_imports_none() -> None:
    """A machine that exports for CPUs alone need not have it."""
    names = ["tf32", "tile", "layout"]
    code = (
        f"import sys; sys.modules['triton'] = None; from yolo26_executorch.lowering.kernels import {', '.join(names)}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
