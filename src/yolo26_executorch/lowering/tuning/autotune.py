"""Measure which tile is the fastest for each convolution on the GPU at hand; `tuning.table` says where results go.

Kernels are compiled by several processes side by side, on operands of a few pixels, since sizes are no part of their
code; each tile is then timed alone, as a CUDA graph of several runs. A tile that gives other numbers than the first's
is not taken, however fast.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from ..kernels.conv import Tile, conv2d, conv2d_group, unneeded_masks
from ..kernels.layout import unit_of
from ..passes.fusion import problem_of
from .cost_model import H100, Gpu, Problem, expected_fastest, predicted_us, sensible_tiles
from .tile_table import TileTable

FAST, FULL = 12, 100
"""Tiles that are tried for a problem."""

_RUNS = 20
"""Of the operator, in one CUDA graph."""
_REPLAYS = 5


@dataclass(frozen=True)
class Measured:
    """What was found for a problem; times in microseconds a run."""

    problem: Problem
    tile: Tile
    us: float
    default_us: float
    """Of the tile that would be taken unmeasured."""
    tried: int
    refused: tuple[str, ...] = ()
    """Tiles that could not be run, or gave other numbers."""


def problems_of(graph: fx.GraphModule) -> list[Problem]:
    """Return the convolutions of a fused graph, in order, each as often as it occurs."""
    return [problem for node in graph.graph.nodes if (problem := problem_of(node)) is not None]


def candidates(problem: Problem, *, full: bool, gpu: Gpu = H100) -> list[Tile]:
    """Return the tiles to try, from the one that should take the least time on: `FAST` of them or `FULL`."""
    if problem.ieee:
        return [expected_fastest(problem, gpu)]
    expected = {tile: predicted_us(problem, tile, gpu) for tile in sensible_tiles(problem, gpu)}
    return sorted(expected, key=lambda tile: expected[tile])[: FULL if full else FAST]


def operator(problem: Problem, *, device: str, pixels: int | None = None) -> Callable[[Tile], list[Tensor]]:
    """Return what runs a problem on random operands, with the tile that it is given.

    Args:
        problem: what is convolved.
        device: where.
        pixels: of a picture's side, instead of as many as the problem writes.
    """
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float16 if problem.element_bytes == 2 else torch.float32
    tf32 = problem.element_bytes == 4 and not problem.ieee

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator)
        return values.to(device, dtype)

    def pictures(written: int, channels: int, half: int) -> Tensor:
        width = pixels or _side(written)
        height = pixels or written // width
        scale = problem.stride
        value = random(1, height * scale >> half, width * scale >> half, channels)
        return value.permute(0, 3, 1, 2)

    precision = "ieee" if problem.ieee else "tf32"
    grouped = len(problem.pixels) > 1
    inside = problem.channels if grouped else (sum(problem.channels),)
    taps = problem.kernel**2
    weights = [random(problem.columns, taps * count) / (taps * count) ** 0.5 for count in inside]
    biases = [random(max(16, problem.columns)) for _ in inside]
    if grouped:
        images = [pictures(*each, 0) for each in zip(problem.pixels, problem.channels, strict=True)]
        return lambda tile: conv2d_group(images, weights, biases, problem.kernel, True, tf32, precision, list(tile), [])
    inputs = [
        pictures(problem.pixels[0], count, problem.doubled >> index & 1) for index, count in enumerate(problem.channels)
    ]
    shape = (problem.kernel, problem.stride, problem.kernel // 2)
    return lambda tile: [conv2d(inputs, weights[0], biases[0], None, *shape, True, tf32, precision, list(tile), [])]


def tune(problems: Iterable[Problem], *, full: bool, jobs: int) -> Iterator[Measured]:
    """Compile every tile of every problem, side by side, and yield the fastest of each.

    Args:
        problems: what to measure; those that are equal once.
        full: see `candidates`.
        jobs: processes that compile.
    """
    gpu = Gpu.at_hand()
    work = {problem: candidates(problem, full=full, gpu=gpu) for problem in dict.fromkeys(problems)}
    compile_all(work, jobs)
    for problem, tiles in work.items():
        yield fastest(problem, tiles)


def tune_missing(
    table: TileTable, problems: Iterable[Problem], *, full: bool, jobs: int
) -> Iterator[tuple[int, int, Measured]]:
    """Measure the problems that a table lacks, and write each into it; yields how many are done, of how many, and it.

    Exports side by side do this one after the other, since what runs beside a measurement spoils it; the later ones
    find done what they share with the earlier.

    Args:
        table: where tiles are kept.
        problems: what is needed.
        full: see `candidates`.
        jobs: processes that compile.
    """
    with table.locked("tuning"):
        known = table.searched(full=full)
        todo = [problem for problem in dict.fromkeys(problems) if problem.key not in known]
        for done, found in enumerate(tune(todo, full=full, jobs=jobs), 1):
            table.add(found.problem.key, found.tile, found.us, found.default_us, full=full)
            yield done, len(todo), found


def compile_all(work: dict[Problem, list[Tile]], jobs: int) -> None:
    """Compile what the problems need into Triton's cache, each kernel once."""
    kernels = {_code(problem, tile): (problem, tile) for problem, tiles in work.items() for tile in tiles}
    todo = list(kernels.values())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, max(1, len(todo))), context, initializer=_one_thread) as pool:
        for _ in pool.map(_compile, todo, chunksize=4):
            pass


def fastest(problem: Problem, tiles: Sequence[Tile]) -> Measured:
    """Time each tile alone and return the fastest that gives the numbers of the first."""
    run = operator(problem, device="cuda")
    times: dict[Tile, float] = {}
    refused = []
    expected: list[Tensor] = []
    for tile in tiles:
        try:
            given = run(tile)
        except Exception as error:  # too much shared memory, or what else a compiler finds
            refused.append(f"{tile}: {type(error).__name__}")
            continue
        expected = expected or given
        if not all(_alike(one, other) for one, other in zip(given, expected, strict=True)):
            refused.append(f"{tile}: other numbers")
            continue
        times[tile] = _microseconds(functools.partial(run, tile))
    best = min(times, key=lambda tile: times[tile])
    return Measured(problem, best, times[best], times.get(tiles[0], float("nan")), len(times), tuple(refused))


def _alike(given: Tensor, expected: Tensor) -> bool:
    """Whether two results are the same but for the order of their sums and their last rounding."""
    difference = (given.float() - expected.float()).norm() / expected.float().norm()
    return bool(difference < 2e-3)


def _microseconds(run: Callable[[], object]) -> float:
    cuda: Any = torch.cuda  # its streams and events have no types
    stream = cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        run()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(_RUNS):
                run()
        times: list[float] = []
        for _ in range(_REPLAYS):
            start, end = (cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return statistics.median(times) * 1000 / _RUNS


def _code(problem: Problem, tile: Tile) -> tuple[object, ...]:
    """Return what a kernel's machine code depends on."""
    masks = unneeded_masks(tile, problem.channels, problem.columns).values()
    units = (unit_of(*problem.channels), unit_of(problem.columns))
    kind = (len(problem.pixels) > 1, len(problem.channels), problem.doubled, problem.kernel, problem.stride)
    return (*kind, problem.element_bytes, problem.ieee, *masks, *units, tile)


def _compile(task: tuple[Problem, Tile]) -> None:
    problem, tile = task
    small = replace(problem, pixels=tuple(16 for _ in problem.pixels))
    try:
        operator(small, device="cuda", pixels=4)(tile)
    except Exception:  # `fastest` meets it again, and says so
        return


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _side(pixels: int) -> int:
    """Return the width of a picture of so many pixels, as square as they allow, even where they are."""
    return max(side for side in range(1, int(pixels**0.5) + 1) if pixels % side == 0)
