"""Which tile a convolution or matrix product gets on a GPU, without measuring anything.

Inductor's own autotuning compiles and times up to 20 configurations of every convolution and matrix product, again for
each epilogue it could fuse; that is hours for the 25 variants. For our kernels a cost model (`predicted_us`) says how
long each tile would take, and where a table has measured tiles, it is not asked. For Inductor's templates, to which few
products are left, a rule does: the largest tile that is filled and that still leaves every multiprocessor one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..kernels.tile import Tile
from ..target import H100, Target
from .tile_table import TileTable


def template_tile(
    m: int,
    n: int,
    k: int,
    *,
    element_bytes: int,
    ieee: bool,
    convolution: bool,
    multiprocessors: int = H100.multiprocessors,
) -> Tile:
    """Choose the tile of an (m, k) by (k, n) product.

    Args:
        m: rows: the pixels of all images for a convolution.
        n: columns: output channels.
        k: summed length: input channels (of one tap for a convolution).
        element_bytes: bytes of one input element: 4, or 2 for half precisions.
        ieee: whether float32 products are exact instead of tf32: they run on CUDA cores, and a wide tile of them
            unrolls into a kernel that takes a minute to compile.
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
    out_channels: int
    channels: tuple[int, ...]
    """Of each batch; or of each concatenated tensor, where the batch is one."""
    kernel: int
    stride: int
    element_bytes: int
    """4, or 2 for half precisions."""
    ieee: bool
    """Whether float32 products are exact instead of tf32."""
    upsampled: int = 0
    """Bit i: tensor i is read upsampled 2×."""

    @property
    def key(self) -> str:
        """The problem in a line, as tables of tiles name it."""
        kind = "fp32" if self.ieee else {2: "half", 4: "tf32"}[self.element_bytes]
        shape = f"{self.kernel}x{self.kernel}/{self.stride}"
        sizes = ["+".join(map(str, part)) for part in (self.pixels, (self.out_channels,), self.channels)]
        return " ".join([kind, shape, *sizes, *([f"doubled{self.upsampled}"] if self.upsampled else [])])


def choose(
    problem: Problem,
    gpu: Target = H100,
    own: Mapping[str, Tile] | None = None,
) -> Tile:
    """Return the tile of a convolution: the measured one where a table has it, else the one expected to do best.

    Args:
        problem: what is convolved.
        gpu: the GPU, for whose architecture a table may ship with the package.
        own: tiles that were measured on this kind of GPU, by `Problem.key`; they come first.
    """
    measured = (own or {}).get(problem.key) or table(gpu.capability).get(problem.key)
    return measured or expected_fastest(problem, gpu)


@functools.lru_cache(maxsize=4096)
def expected_fastest(problem: Problem, gpu: Target = H100) -> Tile:
    """Return the tile that no measurement is needed for: the one that should take the least time."""
    if problem.ieee:  # on CUDA cores; wide tiles unroll into kernels that take a minute to compile
        return Tile(_between(sum(problem.pixels), 16, 32), _between(problem.out_channels, 16, 32), 16, 2, 4)
    return min(feasible_tiles(problem, gpu), key=lambda tile: predicted_us(problem, tile, gpu))


def feasible_tiles(problem: Problem, gpu: Target = H100) -> Iterator[Tile]:
    """Yield the tiles of reduced precisions that fit the GPU, and that the problem fills."""
    size = problem.element_bytes
    most_m, most_n = (_between(count, 16, 256) for count in (sum(problem.pixels), problem.out_channels))
    most_k = _between(max(problem.channels), 16, 256)
    shares = (1,) if problem.kernel == 1 or len(problem.pixels) > 1 else (1, 2, 3, 4, 6, 8)
    sides = (16, 32, 64, 128, 256)
    for m, n, line, stages in itertools.product(sides, sides, (32, 64, 128, 256), (2, 3, 4)):
        k = line // size
        if m > most_m or n > most_n or not 16 <= k <= most_k or m * n > _MOST_SUMS:
            continue
        if (m + n) * line * stages > gpu.shared_bytes - _OTHER_SHARED_BYTES:
            continue
        # Sums that a thread holds: more are spilled, fewer leave the matrix units waiting for the rest.
        warps_of = [warps for warps in (2, 4, 8) if 32 <= m * n // (32 * warps) <= 128 and (warps >= 4 or m < 64)]
        for warps, split_k in itertools.product(warps_of or [4 if m >= 64 else 2], shares):
            tile = Tile(m, n, k, stages, warps, split_k)
            steps = _steps(problem, tile)
            if stages > max(2, steps) or (stages == 2 and steps > 4 and line < 256):
                continue
            if split_k == 1 or (steps >= 4 and _programs(problem, tile) <= 4 * gpu.multiprocessors):
                yield tile


_OTHER_SHARED_BYTES = 2048
"""Of shared memory that a kernel takes beside its pipeline, at most."""
_MOST_SUMS = 128 * 32 * 8
"""Of a tile: 128 in each thread of 8 warps. More are spilled, and take ten times as long or longer."""

# What an H100 does in a clock, and what our kernels take of it: fitted to 4800 measured times of 74 16-bit and 36 tf32
# convolutions, so that the tile of the least expected time is one of the fastest; hence not what a data sheet says.
# That tile takes 6 % longer than the fastest on average, whose time is expected to 10 %. tf32 runs at half the rate.
_CLOCK_MHZ = 1755
_CACHE_BYTES = 81.0
"""That one multiprocessor reads from the L2 cache in a clock."""
_LINE_BYTES = 119.0
"""That could be read in the time that each pixel's piece takes beside its own; a column's, which all programs read at
about the same time, takes none."""
_PRODUCT_BYTES = 3540.0
"""Rows times columns times bytes of K that its matrix units multiply in a clock."""
_SCHEDULERS = 4
"""Of a multiprocessor, each of which one warp at a time has."""
_STEP_CLOCKS, _READ_CLOCKS = 146.0, 21.0
"""Of a scheduler for each step of a warp's sum, and for each 16 bytes a thread that the step fetches."""
_SMALL_CLOCKS, _SMALL_PRODUCT = 12.3, 16 * 8 * 32
"""Of a scheduler for each `mma` of one warp, and its rows times columns times bytes: with fewer than 64 rows or 4
warps, `wgmma`, which multiplies for 4 warps from shared memory, cannot be used."""
_WAIT_CLOCKS, _WAIT_CLOCKS_PER_BYTE = 300.0, 0.0363
"""From a fetch to all that is fetched, during which as many steps as the pipeline is long are under way."""
_SUM_CLOCKS = 0.38
"""To finish and write one sum."""
_SHARPNESS = 3.5
"""Of the bend from what a multiprocessor is busy with to what a program waits for. Were it an edge, tiles would tie
that only differ in what takes less time."""
_LAUNCH_US = 1.46
_PARTS_US = 1.28
"""For the launch that adds the parts of split sums."""
_PARTS_BYTES_PER_US = 4.0e6


def predicted_us(problem: Problem, tile: Tile, gpu: Target = H100) -> float:
    """Return how long a convolution should take with a tile, in microseconds.

    Programs are dealt out to the multiprocessors evenly. One of them takes as long as its cache, its matrix units or
    its schedulers need for all of its programs' steps; or, if that is longer, as a program alone needs for its own, as
    often as its programs do not fit side by side. Before its first step, a program waits for what it fetches.
    """
    line = tile.k * problem.element_bytes
    read = (tile.m + tile.n) * line
    steps = _steps(problem, tile)
    each = -(-_programs(problem, tile) // gpu.multiprocessors)
    registers = (tile.m * tile.n // (32 * tile.warps) + 60) * 32 * tile.warps
    beside = max(1, min(gpu.shared_bytes // (read * tile.stages + 1024), 65536 // registers))
    rounds = -(-each // beside)
    warp = _STEP_CLOCKS + _READ_CLOCKS * read / (512 * tile.warps)
    if tile.m < 64 or tile.warps < 4:
        warp += _SMALL_CLOCKS * tile.m * tile.n * line / (_SMALL_PRODUCT * tile.warps)
    busy = max(
        (read + tile.m * _LINE_BYTES) / _CACHE_BYTES,
        max(64, tile.m) * tile.n * line / _PRODUCT_BYTES,
        warp * tile.warps / _SCHEDULERS,
    )
    wait = _WAIT_CLOCKS + _WAIT_CLOCKS_PER_BYTE * read
    alone = max(wait / (tile.stages - 1), warp)
    step: float = ((each * busy) ** _SHARPNESS + (rounds * alone) ** _SHARPNESS) ** (1 / _SHARPNESS)
    clocks = steps * step + rounds * (wait + tile.m * tile.n * _SUM_CLOCKS)
    us = _LAUNCH_US + clocks / _CLOCK_MHZ
    if tile.split_k > 1:
        us += _PARTS_US + problem.pixels[0] * problem.out_channels * 4 * (tile.split_k + 1) / _PARTS_BYTES_PER_US
    return us


def _steps(problem: Problem, tile: Tile) -> int:
    """Return how many products one program adds up."""
    blocks = [-(-count // tile.k) for count in problem.channels]
    whole = problem.kernel**2 * (max(blocks) if len(problem.pixels) > 1 else sum(blocks))
    return -(-whole // tile.split_k)


def _programs(problem: Problem, tile: Tile) -> int:
    rows = sum(-(-count // tile.m) for count in problem.pixels)
    return rows * -(-problem.out_channels // tile.n) * tile.split_k


@functools.cache
def table(capability: tuple[int, int]) -> dict[str, Tile]:
    """Return the tiles that were measured on GPUs of an architecture, by `Problem.key`; empty where none were."""
    return TileTable.of_package(capability).tiles()


def _tiles(m: int, n: int, block_m: int, block_n: int) -> int:
    return -(-m // block_m) * -(-n // block_n)


def _between(value: int, low: int, high: int) -> int:
    """Return the power of two at or above the value, within bounds."""
    return max(low, min(high, 1 << max(0, value - 1).bit_length()))
