"""Tile shapes of the matrix kernels: which for which product and GPU, without measuring anything.

Inductor's own search compiles and times up to 20 configurations of every convolution and matrix product, again for each
epilogue it could fuse; that is hours for the 25 variants. The rule here is what that search mostly finds: the largest
tile that the product fills and that still gives every multiprocessor a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MULTIPROCESSORS = 132
"""Of an H100; the rule asks the GPU at hand and uses this where it cannot."""


@dataclass(frozen=True)
class Tile:
    """One configuration of a matrix kernel; sizes in elements."""

    m: int
    n: int
    k: int
    stages: int
    warps: int
    splits: int = 1
    """Programs that share the sum of one tile."""


def choose_tile(
    m: int, n: int, k: int, *, element_bytes: int, ieee: bool, convolution: bool, multiprocessors: int = MULTIPROCESSORS
) -> Tile:
    """Choose the tile of an (m, k) by (k, n) product.

    Args:
        m: rows: the pixels of all pictures for a convolution.
        n: columns: output channels.
        k: summed length: input channels (of one tap for a convolution).
        element_bytes: bytes of one input element: 4, or 2 for half precisions.
        ieee: whether float32 products are exact instead of tf32: they run on the plain units, and a wide tile of
            them unrolls into a kernel that takes a minute to compile.
        convolution: whether a kernel of more than one tap is meant; Triton miscompiles those with 8 warps
            (triton-lang/triton#1254).
        multiprocessors: of the GPU.
    """
    block_n = _between(n, 16, 128)
    if ieee:
        return Tile(_between(m, 16, 64), min(block_n, 32), 16, 2, 4)
    block_k = _between(k, 16, 128 // element_bytes)
    block_m = _between(m, 16, 128)
    while block_m * block_n > 128 * 64 and (convolution or _tiles(m, n, block_m, block_n) < 2 * multiprocessors):
        block_m, block_n = (block_m // 2, block_n) if block_m >= block_n else (block_m, block_n // 2)
    while _tiles(m, n, block_m, block_n) < multiprocessors and max(block_m, block_n) > 32:
        block_m, block_n = (block_m // 2, block_n) if block_m >= block_n else (block_m, block_n // 2)
    warps = 8 if block_m * block_n > 128 * 64 else 4 if block_m * block_n > 32 * 32 else 2
    return Tile(block_m, block_n, block_k, 3, warps)


def choose_conv_tile(
    m: int,
    n: int,
    channels: Sequence[int],
    *,
    taps: int,
    element_bytes: int,
    ieee: bool,
    multiprocessors: int = MULTIPROCESSORS,
) -> Tile:
    """Choose the tile of our own convolution kernel.

    Args:
        m: pixels written, of all pictures.
        n: output channels.
        channels: of each tensor that is read.
        taps: of the kernel.
        element_bytes: see `choose_tile`.
        ieee: see `choose_tile`.
        multiprocessors: of the GPU.
    """
    if ieee:
        return Tile(_between(m, 16, 32), _between(n, 16, 32), 16, 2, 4)
    sizes = [size for size in (16, 32, 64) if size * element_bytes <= 128]
    # A step costs about as much as 32 channels whatever it multiplies.
    block_k = min(sizes, key=lambda size: sum(-(-count // size) for count in channels) * (size + 32))
    steps = taps * sum(-(-count // block_k) for count in channels)
    block_n = _between(n, 16, 128)
    block_m = _between(m, 16, 64 if block_n > 64 else 128)
    while _tiles(m, n, block_m, block_n) < multiprocessors and block_m * block_n > 32 * 32 and block_m > 16:
        block_m, block_n = (block_m // 2, block_n) if block_m >= block_n else (block_m, block_n // 2)
    tiles = _tiles(m, n, block_m, block_n)
    splits = min(4, multiprocessors // tiles, steps // 16) if taps > 1 else 1
    warps = 8 if block_m * block_n > 128 * 64 else 4 if block_m * block_n > 32 * 32 else 2
    return Tile(block_m, block_n, block_k, 4 if steps > 4 else 2, warps, max(1, splits))


def _tiles(m: int, n: int, block_m: int, block_n: int) -> int:
    return -(-m // block_m) * -(-n // block_n)


def _between(value: int, low: int, high: int) -> int:
    """Return the power of two at or above the value, within bounds."""
    return max(low, min(high, 1 << max(0, value - 1).bit_length()))
