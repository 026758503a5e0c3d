from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo26_executorch.lowering.kernels.conv import Tile
from yolo26_executorch.lowering.tuning import choose_tile

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
    tile = choose_tile(
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
        tile = choose_tile(m, n, k, element_bytes=element_bytes, ieee=False, convolution=False)
        assert tile.m < max(32, 2 * m)
        assert tile.n < max(32, 2 * n)
        assert tile.k < max(32, 2 * k)


def test_a_small_product_still_reaches_many_multiprocessors() -> None:
    small, large = (
        choose_tile(400, 256, 128, element_bytes=2, ieee=False, convolution=False, multiprocessors=count)
        for count in (132, 1)
    )
    assert small.m * small.n < large.m * large.n


def test_the_same_question_has_the_same_answer() -> None:
    tiles = {choose_tile(6400, 64, 64, element_bytes=4, ieee=False, convolution=True) for _ in range(3)}
    assert len(tiles) == 1
    assert isinstance(tiles.pop(), Tile)
