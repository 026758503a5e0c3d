from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from support import random_model
from yolo26_executorch.errors import LoweringError
from yolo26_executorch.lowering.kernels.tf32 import round_tf32
from yolo26_executorch.lowering.kernels.tile import Tile
from yolo26_executorch.lowering.passes.fusion import fuse
from yolo26_executorch.lowering.passes.rewrites import for_cuda
from yolo26_executorch.lowering.passes.tiles import problem_of, problems_of, set_tiles
from yolo26_executorch.lowering.target import Target
from yolo26_executorch.lowering.tuning import autotune, cost_model
from yolo26_executorch.lowering.tuning.autotune import Measured, Workload, candidates
from yolo26_executorch.lowering.tuning.cost_model import Problem, expected_fastest
from yolo26_executorch.lowering.tuning.tile_table import TileTable

SQUARE = Problem((400,), 256, (128,), 3, 1, 2, ieee=False)
LAID = Problem((6400,), 64, (32, 16), 1, 1, 4, ieee=False, upsampled=1)
LEVELS = Problem((6400, 1600, 400), 80, (64, 128, 256), 1, 1, 2, ieee=False)
EXACT = Problem((400,), 256, (128,), 3, 1, 4, ieee=True)
STRIDED = Problem((1600,), 128, (128,), 3, 2, 2, ieee=False)


@pytest.mark.parametrize("problem", [SQUARE, LAID, LEVELS, STRIDED])
@pytest.mark.parametrize("full", [True, False])
def test_candidates_are_tiles_that_triton_takes(problem: Problem, full: bool) -> None:
    tiles = candidates(problem, full=full)
    assert tiles[0] == expected_fastest(problem)
    assert len(set(tiles)) == len(tiles) > 3
    for tile in tiles:
        assert min(tile.m, tile.n, tile.k) >= 16
        assert (tile.m + tile.n) * tile.k * problem.element_bytes * tile.stages < Target().shared_bytes
        assert tile.split_k == 1 or problem.kernel > 1
    assert set(candidates(problem, full=False)) < set(candidates(problem, full=True))


def test_nothing_is_searched_for_exact_float32() -> None:
    assert candidates(EXACT, full=True) == [expected_fastest(EXACT)]


@pytest.mark.parametrize("problem", [SQUARE, LAID, LEVELS, EXACT, STRIDED])
def test_the_operator_is_the_problem(problem: Problem) -> None:
    outs = Workload(problem, device="cpu")(expected_fastest(problem))
    assert [out.shape[1] for out in outs] == [problem.out_channels] * len(problem.pixels)
    assert tuple(out.shape[2] * out.shape[3] for out in outs) == problem.pixels


@pytest.mark.parametrize("pixels", [2, 4])
def test_a_small_operator_has_the_same_code(pixels: int) -> None:
    outs = Workload(LEVELS, device="cpu", pixels=pixels)(expected_fastest(LEVELS))
    assert [tuple(out.shape) for out in outs] == [(1, 80, pixels, pixels)] * 3


def test_the_problems_of_a_model() -> None:
    model = for_cuda(random_model("yolo26n", precision="fp16", backend="cuda"))
    graph = fuse(model, model.example_input, "tf32")
    found = problems_of(graph)
    nodes = [node for node in graph.graph.nodes if "yolo26_et.conv2d" in str(node.target)]
    assert len(found) == len(nodes) > 50
    assert {problem.element_bytes for problem in found} == {2}
    assert any(problem.upsampled for problem in found)
    assert max(len(problem.pixels) for problem in found) == 3
    # Every problem can be made again from what is known of it.
    for problem in set(found):
        outs = Workload(problem, device="cpu", pixels=4)(expected_fastest(problem))
        assert all(out.shape[1] == problem.out_channels for out in outs)


def test_ones_own_measurement_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    package, own = Tile(16, 16, 16, 2, 4), Tile(32, 16, 16, 2, 4)
    monkeypatch.setattr(cost_model, "table", lambda capability: {SQUARE.key: package, LAID.key: package})
    assert cost_model.choose(SQUARE, own={SQUARE.key: own}) == own
    assert cost_model.choose(LAID, own={SQUARE.key: own}) == package
    assert cost_model.choose(LEVELS, own={SQUARE.key: own}) == expected_fastest(LEVELS)


def test_what_is_missing_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Problem]] = []

    def measure(problems: list[Problem], **_: object) -> list[Measured]:
        asked.append(problems)
        return [Measured(problem, expected_fastest(problem), 2.0, 3.0, tried=5) for problem in problems]

    monkeypatch.setattr(autotune, "tune", measure)
    table = TileTable(tmp_path / "tiles.json")
    told = list(autotune.tune_missing(table, [SQUARE, LAID, SQUARE], full=False, jobs=1))
    assert [(done, of, found.problem) for done, of, found in told] == [(1, 2, SQUARE), (2, 2, LAID)]
    assert list(autotune.tune_missing(table, [SQUARE, LAID], full=False, jobs=1)) == []
    list(autotune.tune_missing(table, [SQUARE, LEVELS], full=True, jobs=1))
    assert asked == [[SQUARE, LAID], [], [SQUARE, LEVELS]]
    assert table.tiles() == {problem.key: expected_fastest(problem) for problem in (SQUARE, LAID, LEVELS)}


def test_tiles_are_replaced_and_nothing_else() -> None:
    model = for_cuda(random_model("yolo26n", precision="fp16", backend="cuda"))
    graph = fuse(model, model.example_input, "tf32", prefetch=True)
    before = [node.args for node in graph.graph.nodes if problem_of(node) is not None]
    tile = Tile(16, 16, 16, 2, 4)
    set_tiles(graph, lambda problem: tile)
    after = [node.args for node in graph.graph.nodes if problem_of(node) is not None]
    assert [(args[:-2], args[-1]) for args in after] == [(args[:-2], args[-1]) for args in before]
    assert all(args[-2] == list(tile) for args in after)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "half"), ("bf16", "half"), ("tf32", "tf32")])
def test_what_ships_was_measured_on_an_h100(precision: str, kind: str) -> None:
    model = for_cuda(random_model("yolo26n-seg", precision=precision, backend="cuda", imgsz=(640, 640)))
    found = problems_of(fuse(model, model.example_input, "tf32"))
    assert {problem.key.split()[0] for problem in found} == {kind}
    assert {problem.key for problem in found} <= set(cost_model.table((9, 0)))


def test_keys_tell_problems_apart() -> None:
    problems = [SQUARE, LAID, LEVELS, EXACT, STRIDED]
    assert len({problem.key for problem in problems}) == len(problems)
    assert SQUARE.key == "half 3x3/1 400 256 128"
    assert LAID.key == "tf32 1x1/1 6400 64 32+16 doubled1"


def test_a_measured_tile_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    tile = Tile(16, 16, 16, 2, 4)
    monkeypatch.setattr(cost_model, "table", lambda capability: {SQUARE.key: tile} if capability == (9, 0) else {})
    assert cost_model.choose(SQUARE) == tile
    other = Target(capability=(8, 9))
    assert cost_model.choose(SQUARE, other) == expected_fastest(SQUARE, other)
    assert cost_model.choose(LAID) == expected_fastest(LAID)


class Stub:
    """Stands in for `Workload`: tiles that are right at 2, wrong at 3, refused at 4 and out of memory at 5 stages."""

    def __init__(self, *_: object, **__: object) -> None:
        self.tried: list[Tile] = []

    def __call__(self, tile: Tile) -> list[torch.Tensor]:
        self.tried.append(tile)
        if tile.stages == 4:
            raise RuntimeError("out of shared memory")
        if tile.stages == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [torch.ones(4) * (2 if tile.stages == 3 else 1)]

    def reference(self) -> list[torch.Tensor]:
        return [torch.ones(4)]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """The convolution that `fastest` runs; a tile takes as many microseconds as it has rows."""
    made = Stub()
    monkeypatch.setattr(autotune, "Workload", lambda *_, **__: made)
    monkeypatch.setattr(autotune, "_microseconds", lambda timed: float(timed.args[0].m))
    return made


def tiles_of(*kinds: tuple[int, int]) -> list[Tile]:
    """Tiles of so many rows (hence microseconds) and stages (hence what becomes of them)."""
    return [Tile(rows, 16, 16, stages, 4) for rows, stages in kinds]


@pytest.mark.usefixtures("stub")
def test_the_fastest_that_is_right_is_taken() -> None:
    tiles = tiles_of((64, 2), (128, 2), (16, 3), (16, 4), (32, 2))
    found = autotune.fastest(SQUARE, tiles)
    assert (found.tile, found.us, found.default_us, found.tried) == (tiles[4], 32.0, 64.0, 3)
    assert [reason.rpartition(": ")[2] for reason in found.refused] == ["wrong numbers", "RuntimeError"]
    assert str(found) == "half 3x3/1 400 256 128: 32.00 µs, predicted tile 64.00 µs, 2 refused"


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("first", [3, 4])
def test_a_first_tile_that_is_wrong_is_not_the_measure(first: int) -> None:
    tiles = tiles_of((16, first), (64, 2), (32, 2))
    found = autotune.fastest(SQUARE, tiles)
    assert (found.tile, found.default_us, found.tried, len(found.refused)) == (tiles[2], None, 2, 1)
    assert "predicted tile does not work" in str(found)


@pytest.mark.usefixtures("stub")
def test_no_tile_at_all_is_told_in_words() -> None:
    with pytest.raises(LoweringError) as error:
        autotune.fastest(SQUARE, tiles_of((16, 3), (16, 4), (32, 4)))
    assert str(error.value) == (
        "none of the 3 tiles tried works on this GPU for the convolution half 3x3/1 400 256 128 "
        "(2 × RuntimeError, 1 × wrong numbers); fix: export with another --precision, and report this line"
    )


@pytest.mark.parametrize(("enough", "tried"), [(1, 3), (3, 3), (4, 4), (9, 5)])
def test_more_are_tried_where_none_of_the_first_works(stub: Stub, enough: int, tried: int) -> None:
    tiles = tiles_of((16, 3), (16, 4), (64, 2), (32, 2), (16, 2))
    assert autotune.fastest(SQUARE, tiles, enough=enough).tile == tiles[tried - 1]
    assert stub.tried == tiles[:tried]


@pytest.mark.usefixtures("stub")
def test_memory_that_runs_out_is_no_tiles_fault() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        autotune.fastest(SQUARE, tiles_of((16, 2), (16, 5)))


@pytest.mark.parametrize("problem", [SQUARE, LAID, LEVELS, EXACT, STRIDED])
def test_operands_are_those_that_a_matrix_unit_keeps(problem: Problem) -> None:
    """So that a tile is compared with the sum of the very products that it adds up."""
    inputs, weights, *_ = Workload(problem, device="cpu", pixels=4).arguments
    for value in [*inputs, *(weights if isinstance(weights, list) else [weights])]:
        kept = value if problem.ieee else round_tf32(value.float()).to(value.dtype)
        assert torch.equal(value, kept)


def test_a_tile_that_does_not_work_leaves_no_time_in_the_table(tmp_path: Path) -> None:
    table = TileTable(tmp_path / "tiles.json")
    table.add(SQUARE.key, Tile(16, 16, 16, 2, 4), 2.0, None, full=False)
    assert json.loads(table.path.read_text(), parse_constant=pytest.fail)["us"] == {SQUARE.key: [2.0, None]}


def test_a_kernel_is_compiled_once_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    class Pool:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...

        def map(self, _: Any, todo: list[Any], **__: Any) -> list[Any]:
            compiled.extend(todo)
            return []

    monkeypatch.setattr(autotune, "ProcessPoolExecutor", Pool)
    tile, other = Tile(64, 64, 32, 2, 4), Tile(32, 64, 32, 2, 4)
    larger = Problem((1600,), 128, (64,), 3, 1, 2, ieee=False)
    autotune.compile_all({SQUARE: [tile, other], larger: [tile], STRIDED: [tile]}, jobs=4)
    assert len(compiled) == 3
