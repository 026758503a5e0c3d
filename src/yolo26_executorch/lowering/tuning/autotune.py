"""Measure which tile is the fastest for each convolution on the GPU at hand; `tile_table` says where results go.

Kernels are compiled by several processes side by side, on operands of a few pixels, since sizes are no part of their
code; each tile is then timed alone, as a CUDA graph of several runs. A tile whose result is not that of the eager
reference is not taken, however fast.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import LoweringError
from ..kernels.conv import conv2d, conv2d_group, conv2d_group_reference, conv2d_reference, even_blocks
from ..kernels.layout import unit_of
from ..kernels.tf32 import round_tf32
from ..kernels.tile import Tile
from ..target import H100, Target
from .cost_model import Problem, expected_fastest, feasible_tiles, predicted_us
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
    default_us: float | None
    """Of the tile that is taken where none was measured; None where that one does not work."""
    tried: int
    refused: tuple[str, ...] = ()
    """Tiles that could not be run, or gave wrong numbers, each with the reason."""

    def __str__(self) -> str:
        default = "does not work" if self.default_us is None else f"{self.default_us:.2f} µs"
        refused = f", {len(self.refused)} refused" if self.refused else ""
        return f"{self.problem.key}: {self.us:.2f} µs, predicted tile {default}{refused}"


class Workload:
    """A convolution on random operands.

    Args:
        problem: what is convolved.
        device: where.
        pixels: of an image's side, instead of as many as the problem writes.
    """

    def __init__(self, problem: Problem, *, device: str, pixels: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        dtype = torch.float16 if problem.element_bytes == 2 else torch.float32
        tf32 = problem.element_bytes == 4 and not problem.ieee

        def random(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator)
            # As a model's operands are, so that the reference multiplies the same numbers.
            return (round_tf32(values) if tf32 else values).to(device, dtype)

        def images(written: int, channels: int, half: int) -> Tensor:
            width = pixels or _side(written)
            height = pixels or written // width
            scale = problem.stride
            value = random(1, height * scale >> half, width * scale >> half, channels)
            return value.permute(0, 3, 1, 2)

        precision = "ieee" if problem.ieee else "tf32"
        self.grouped = len(problem.pixels) > 1
        inside = problem.channels if self.grouped else (sum(problem.channels),)
        taps = problem.kernel**2
        weights = [random(problem.out_channels, taps * count) / (taps * count) ** 0.5 for count in inside]
        weights = [round_tf32(weight) if tf32 else weight for weight in weights]
        biases = [random(max(16, problem.out_channels)) for _ in inside]
        self.arguments: tuple[Any, ...]
        """Of the operator, before its tile."""
        if self.grouped:
            batches = [images(*each, 0) for each in zip(problem.pixels, problem.channels, strict=True)]
            self.arguments = (batches, weights, biases, problem.kernel, True, tf32, precision)
        else:
            inputs = [
                images(problem.pixels[0], count, problem.upsampled >> index & 1)
                for index, count in enumerate(problem.channels)
            ]
            shape = (problem.kernel, problem.stride, problem.kernel // 2)
            self.arguments = (inputs, weights[0], biases[0], None, *shape, True, tf32, precision)

    def __call__(self, tile: Tile) -> list[Tensor]:
        """Run the operator with a tile; one result for each batch."""
        if self.grouped:
            results: list[Tensor] = conv2d_group(*self.arguments, list(tile), [])
            return results
        return [conv2d(*self.arguments, list(tile), [])]

    def reference(self) -> list[Tensor]:
        """Return the same from the eager reference."""
        if self.grouped:
            results: list[Tensor] = conv2d_group_reference(*self.arguments, [], [])
            return results
        return [conv2d_reference(*self.arguments, [], [])]


def candidates(problem: Problem, *, full: bool, gpu: Target = H100) -> list[Tile]:
    """Return the tiles to try, from the one that should take the least time on: `FAST` of them or `FULL`."""
    if problem.ieee:
        return [expected_fastest(problem, gpu)]
    expected = {tile: predicted_us(problem, tile, gpu) for tile in feasible_tiles(problem, gpu)}
    return sorted(expected, key=lambda tile: expected[tile])[: FULL if full else FAST]


def tune(problems: Iterable[Problem], *, full: bool, jobs: int) -> Iterator[Measured]:
    """Compile the tiles of every problem, side by side, and yield the fastest of each.

    Args:
        problems: what to measure; those that are equal once.
        full: see `candidates`.
        jobs: processes that compile.

    Raises:
        LoweringError: no tile of a problem works.
    """
    gpu = Target.at_hand()
    work = {problem: candidates(problem, full=full, gpu=gpu) for problem in dict.fromkeys(problems)}
    compile_all(work, jobs)
    for problem, tiles in work.items():
        yield fastest(problem, candidates(problem, full=True, gpu=gpu), enough=len(tiles))


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

    Raises:
        LoweringError: no tile of a problem works.
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


def fastest(problem: Problem, tiles: Sequence[Tile], *, enough: int = FULL) -> Measured:
    """Time each tile alone and return the fastest that gives the reference's numbers.

    Args:
        problem: what is convolved.
        tiles: to try, the one that is taken unmeasured first.
        enough: so many are tried; more only as long as none of them works.

    Raises:
        LoweringError: none works.
        torch.OutOfMemoryError: the GPU's memory ran out.
    """
    work = Workload(problem, device="cuda")
    expected = work.reference()
    times: dict[Tile, float] = {}
    refused: dict[Tile, str] = {}
    for index, tile in enumerate(tiles):
        if times and index >= enough:
            break
        try:
            given = work(tile)
            if all(_alike(one, other) for one, other in zip(given, expected, strict=True)):
                times[tile] = _microseconds(functools.partial(work, tile))
            else:
                refused[tile] = "wrong numbers"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # too much shared memory, or what else a compiler finds
            refused[tile] = type(error).__name__
    if not times:
        reasons = ", ".join(f"{count} × {why}" for why, count in Counter(refused.values()).most_common())
        raise LoweringError(
            f"none of the {len(refused)} tiles tried works on this GPU for the convolution {problem.key} ({reasons}); "
            "fix: export with another --precision, and report this line"
        )
    best = min(times, key=lambda tile: times[tile])
    told = tuple(f"{tile}: {why}" for tile, why in refused.items())
    return Measured(problem, best, times[best], times.get(tiles[0]), len(times), told)


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
    masks = even_blocks(tile, problem.channels, problem.out_channels).values()
    units = (unit_of(*problem.channels), unit_of(problem.out_channels))
    kind = (len(problem.pixels) > 1, len(problem.channels), problem.upsampled, problem.kernel, problem.stride)
    return (*kind, problem.element_bytes, problem.ieee, *masks, *units, tile)


def _compile(task: tuple[Problem, Tile]) -> None:
    problem, tile = task
    small = replace(problem, pixels=tuple(16 for _ in problem.pixels))
    try:
        Workload(small, device="cuda", pixels=4)(tile)
    except Exception:  # `fastest` meets it again, and says so
        return


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _side(pixels: int) -> int:
    """Return the width of an image of so many pixels, as square as they allow, even where they are."""
    return max(side for side in range(1, int(pixels**0.5) + 1) if pixels % side == 0)
