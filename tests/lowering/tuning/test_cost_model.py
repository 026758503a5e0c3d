from __future__ import annotations

import itertools
import json
import math
import re
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo26_executorch.lowering.kernels.tile import Tile
from yolo26_executorch.lowering.target import Target
from yolo26_executorch.lowering.tuning.cost_model import (
    Problem,
    expected_fastest,
    feasible_tiles,
    predicted_us,
    template_tile,
)
from yolo26_executorch.lowering.tuning.tile_table import TileTable

SIZES = st.integers(1, 2**20)


def is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


@given(
    m=SIZES, n=st.integers(1, 4096), k=st.integers(1, 4096), element_bytes=st.sampled_from([2, 4]),
    ieee=st.booleans(), convolution=st.booleans(), multiprocessors=st.integers(1, 200),
)  # fmt: skip
def test_every_tile_is_one_that_triton_takes(
    m: int, n: int, k: int, element_bytes: int, ieee: bool, convolution: bool, multiprocessors: int
) -> None:
    tile = template_tile(
        m, n, k, element_bytes=element_bytes, ieee=ieee, convolution=convolution, multiprocessors=multiprocessors
    )
    assert all(map(is_power_of_two, (tile.m, tile.n, tile.k, tile.warps)))
    # `tl.dot` takes no side under 16.
    assert min(tile.m, tile.n, tile.k) >= 16
    assert tile.stages >= 1
    assert tile.warps <= 8
    # What the pipeline keeps in shared memory must fit the smallest GPU served.
    assert (tile.m + tile.n) * tile.k * element_bytes * tile.stages <= 99 * 1024
    if convolution:
        assert tile.warps <= 4
    if ieee:
        # Wider ones unroll into kernels that take a minute to compile.
        assert tile.m * tile.n <= 64 * 32


@pytest.mark.parametrize("element_bytes", [2, 4])
def test_a_tile_is_no_larger_than_its_product_needs(element_bytes: int) -> None:
    for m, n, k in itertools.product((1, 20, 400, 6400), (3, 16, 80, 256), (16, 64, 512)):
        tile = template_tile(m, n, k, element_bytes=element_bytes, ieee=False, convolution=False)
        assert tile.m < max(32, 2 * m)
        assert tile.n < max(32, 2 * n)
        assert tile.k < max(32, 2 * k)


def test_a_small_product_still_reaches_many_multiprocessors() -> None:
    small, large = (
        template_tile(400, 256, 128, element_bytes=2, ieee=False, convolution=False, multiprocessors=count)
        for count in (132, 1)
    )
    assert small.m * small.n < large.m * large.n


def test_the_same_question_has_the_same_answer() -> None:
    tiles = {template_tile(6400, 64, 64, element_bytes=4, ieee=False, convolution=True) for _ in range(3)}
    assert len(tiles) == 1
    assert isinstance(tiles.pop(), Tile)


PROBLEMS = st.builds(
    Problem,
    pixels=st.lists(st.integers(1, 10**6), min_size=1, max_size=1).map(tuple),
    out_channels=st.integers(1, 2048),
    channels=st.lists(st.integers(1, 2048), min_size=1, max_size=1).map(tuple),
    kernel=st.sampled_from([1, 3]),
    stride=st.just(1),
    element_bytes=st.sampled_from([2, 4]),
    ieee=st.booleans(),
)
LEVELS = Problem((6400, 1600, 400), 96, (384, 768, 768), 3, 1, 2, ieee=False)
SMALL = Target(multiprocessors=20, shared_bytes=64 * 1024)
"""A Turing's shared memory, the smallest of all served."""


@settings(max_examples=60, deadline=None)
@given(problem=PROBLEMS, gpu=st.sampled_from([Target(), SMALL]))
def test_the_expected_fastest_is_a_tile_that_the_gpu_takes(problem: Problem, gpu: Target) -> None:
    tile = expected_fastest(problem, gpu)
    assert all(map(is_power_of_two, (tile.m, tile.n, tile.k, tile.warps)))
    assert min(tile.m, tile.n, tile.k) >= 16
    assert (tile.m + tile.n) * tile.k * problem.element_bytes * tile.stages < gpu.shared_bytes
    assert tile.split_k == 1 or problem.kernel > 1
    if problem.ieee:
        assert tile.m * tile.n <= 32 * 32
    else:
        assert tile in set(feasible_tiles(problem, gpu))


def test_levels_do_not_split_k() -> None:
    assert {tile.split_k for tile in feasible_tiles(LEVELS)} == {1}


def test_more_work_takes_longer() -> None:
    tile = Tile(64, 64, 64, 4, 4)
    times = [
        predicted_us(Problem((pixels,), out_channels, (channels,), 3, 1, 2, ieee=False), tile)
        for pixels, out_channels, channels in (
            (1600, 192, 192),
            (1600, 192, 768),
            (25_600, 192, 768),
            (25_600, 384, 768),
        )
    ]
    assert times == sorted(times)
    assert len(set(times)) == 4


def test_a_smaller_gpu_takes_longer() -> None:
    problem, tile = Problem((6400,), 384, (384,), 3, 1, 2, ieee=False), Tile(64, 128, 64, 3, 4)
    assert predicted_us(problem, tile, Target(multiprocessors=66)) > 1.5 * predicted_us(problem, tile)


def test_few_tiles_split_k() -> None:
    deep = Problem((400,), 768, (768,), 3, 1, 2, ieee=False)
    wide = Problem((102_400,), 768, (768,), 3, 1, 2, ieee=False)
    assert expected_fastest(deep).split_k > 1
    assert expected_fastest(wide).split_k == 1


def test_what_ships_is_near_what_is_expected() -> None:
    """The model was fitted to these times; it is to be fitted anew where the kernels change."""
    table = TileTable.of_package((9, 0))
    times = json.loads(table.path.read_text())["us"]
    measured = [(key, tile) for key, tile in table.tiles().items() if re.fullmatch("half [^+]+", key)]
    assert len(measured) > 50
    errors = []
    for key, tile in measured:
        _, shape, pixels, out_channels, channels = key.split()
        kernel, stride = int(shape[0]), int(shape[-1])
        problem = Problem((int(pixels),), int(out_channels), (int(channels),), kernel, stride, 2, ieee=False)
        errors.append(abs(math.log(predicted_us(problem, tile) / times[key][0])))
    assert statistics.mean(errors) < 0.2
