"""Tile shapes of the matrix kernels: which for which product and GPU, without measuring anything.

Inductor's own search compiles and times up to 20 configurations of every convolution and matrix product, again for each
epilogue it could fuse; that is hours for the 25 variants. The rule here is what that search mostly finds: the largest
tile that the product fills and that still gives every multiprocessor a tile.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from .kernels.conv import Tile
from .tile_table import TileTable

MULTIPROCESSORS = 132
"""Of an H100; the rule asks the GPU at hand and uses this where it cannot."""


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


@dataclass(frozen=True)
class Problem:
    """What the best tile of one of our convolutions depends on."""

    pixels: tuple[int, ...]
    """Written, of each batch that one launch convolves."""
    columns: int
    """Output channels."""
    channels: tuple[int, ...]
    """Of each batch; or of each tensor laid side by side, where the batch is one."""
    kernel: int
    stride: int
    element_bytes: int
    """4, or 2 for half precisions."""
    ieee: bool
    """Whether float32 products are exact instead of tf32."""
    doubled: int = 0
    """Bit i: tensor i is read enlarged to the double."""

    @property
    def key(self) -> str:
        """The problem in a line, as tables of tiles name it."""
        kind = "fp32" if self.ieee else {2: "half", 4: "tf32"}[self.element_bytes]
        shape = f"{self.kernel}x{self.kernel}/{self.stride}"
        sizes = ["+".join(map(str, part)) for part in (self.pixels, (self.columns,), self.channels)]
        return " ".join([kind, shape, *sizes, *([f"doubled{self.doubled}"] if self.doubled else [])])


def choose(
    problem: Problem,
    capability: tuple[int, int] | None,
    multiprocessors: int = MULTIPROCESSORS,
    own: Mapping[str, Tile] | None = None,
) -> Tile:
    """Return the tile of a convolution: the measured one where a table has it, else a rule's.

    Args:
        problem: what is convolved.
        capability: the GPU's compute capability, whose table ships with the package; None asks the rule alone.
        multiprocessors: of the GPU.
        own: tiles that were measured on the very GPU, by `Problem.key`; they come first.
    """
    measured = (own or {}).get(problem.key) or (None if capability is None else table(capability).get(problem.key))
    return measured or rule(problem, multiprocessors)


def rule(problem: Problem, multiprocessors: int = MULTIPROCESSORS) -> Tile:
    """Return the tile that no measurement is needed for: the largest that keeps every multiprocessor busy."""
    m, n = sum(problem.pixels), problem.columns
    if problem.ieee:
        return Tile(_between(m, 16, 32), _between(n, 16, 32), 16, 2, 4)
    taps = problem.kernel**2
    grouped = len(problem.pixels) > 1
    # A step costs about as much as 32 channels whatever it multiplies.
    sizes = [size for size in (16, 32, 64) if size * problem.element_bytes <= 128]
    block_k = min(sizes, key=lambda size: sum(-(-count // size) for count in problem.channels) * (size + 32))
    counts = [-(-count // block_k) for count in problem.channels]
    steps = taps * (max(counts) if grouped else sum(counts))
    block_n = _between(n, 16, 128)
    block_m = _between(m, 16, 64 if block_n > 64 else 128)
    while _tiles(m, n, block_m, block_n) < multiprocessors and block_m * block_n > 32 * 32 and block_m > 16:
        block_m, block_n = (block_m // 2, block_n) if block_m >= block_n else (block_m, block_n // 2)
    tiles = _tiles(m, n, block_m, block_n)
    splits = min(4, multiprocessors // tiles, steps // 16) if taps > 1 and not grouped else 1
    warps = 8 if block_m * block_n > 128 * 64 else 4 if block_m * block_n > 32 * 32 else 2
    return Tile(block_m, block_n, block_k, 4 if steps > 4 else 2, warps, max(1, splits))


@functools.cache
def table(capability: tuple[int, int]) -> dict[str, Tile]:
    """Return the tiles that were measured on GPUs of an architecture, by `Problem.key`; empty where none were."""
    return TileTable.of_package(capability).tiles()


def _tiles(m: int, n: int, block_m: int, block_n: int) -> int:
    return -(-m // block_m) * -(-n // block_n)


def _between(value: int, low: int, high: int) -> int:
    """Return the power of two at or above the value, within bounds."""
    return max(low, min(high, 1 << max(0, value - 1).bit_length()))
