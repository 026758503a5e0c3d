"""The tile of a convolution kernel."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """One configuration of a convolution kernel; sizes in elements."""

    m: int
    """Output pixels (GEMM M)."""
    n: int
    """Output channels (GEMM N)."""
    k: int
    """Input channels multiplied at once (GEMM K)."""
    stages: int
    """Of Triton's software pipeline."""
    warps: int
    split_k: int = 1
    """Programs that share the sum of one tile."""
