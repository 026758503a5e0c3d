from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support import random_model
from yolo26_executorch.lowering.kernels.conv import Tile
from yolo26_executorch.lowering.passes.fusion import fuse, problem_of, set_tiles
from yolo26_executorch.lowering.passes.rewrites import for_cuda
from yolo26_executorch.lowering.tuning import autotune, cost_model
from yolo26_executorch.lowering.tuning.autotune import Measured, candidates, operator, problems_of
from yolo26_executorch.lowering.tuning.cost_model import Gpu, Problem, expected_fastest
from yolo26_executorch.lowering.tuning.tile_table import TileTable

SQUARE = Problem((400,), 256, (128,), 3, 1, 2, ieee=False)
LAID = Problem((6400,), 64, (32, 16), 1, 1, 4, ieee=False, doubled=1)
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
        assert (tile.m + tile.n) * tile.k * problem.element_bytes * tile.stages < Gpu().shared_bytes
        assert tile.splits == 1 or problem.kernel > 1
    assert set(candidates(problem, full=False)) < set(candidates(problem, full=True))


def test_nothing_is_searched_for_exact_float32() -> None:
    assert candidates(EXACT, full=True) == [expected_fastest(EXACT)]


@pytest.mark.parametrize("problem", [SQUARE, LAID, LEVELS, EXACT, STRIDED])
def test_the_operator_is_the_problem(problem: Problem) -> None:
    outs = operator(problem, device="cpu")(expected_fastest(problem))
    assert [out.shape[1] for out in outs] == [problem.columns] * len(problem.pixels)
    assert tuple(out.shape[2] * out.shape[3] for out in outs) == problem.pixels


@pytest.mark.parametrize("pixels", [2, 4])
def test_a_small_operator_has_the_same_code(pixels: int) -> None:
    outs = operator(LEVELS, device="cpu", pixels=pixels)(expected_fastest(LEVELS))
    assert [tuple(out.shape) for out in outs] == [(1, 80, pixels, pixels)] * 3


def test_the_problems_of_a_model() -> None:
    model = for_cuda(random_model("yolo26n", precision="fp16", backend="cuda"))
    graph = fuse(model, model.example_input, "tf32")
    found = problems_of(graph)
    nodes = [node for node in graph.graph.nodes if "yolo26_et.conv2d" in str(node.target)]
    assert len(found) == len(nodes) > 50
    assert {problem.element_bytes for problem in found} == {2}
    assert any(problem.doubled for problem in found)
    assert max(len(problem.pixels) for problem in found) == 3
    # Every problem can be made again from what is known of it.
    for problem in set(found):
        outs = operator(problem, device="cpu", pixels=4)(expected_fastest(problem))
        assert all(out.shape[1] == problem.columns for out in outs)


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
    graph = fuse(model, model.example_input, "tf32", ahead=True)
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
    other = Gpu(capability=(8, 9))
    assert cost_model.choose(SQUARE, other) == expected_fastest(SQUARE, other)
    assert cost_model.choose(LAID) == expected_fastest(LAID)


def test_the_fastest_that_is_right_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, broken, slow = (Tile(16, 16, 16, stages, 4) for stages in (2, 3, 4, 5))
    first = expected_fastest(SQUARE)
    speed = {first: 5.0, right: 2.0, slow: 9.0}
    exact = torch.ones(4)

    def run(tile: Tile) -> list[torch.Tensor]:
        if tile == broken:
            raise RuntimeError("out of shared memory")
        return [exact * (2 if tile == wrong else 1)]

    monkeypatch.setattr(autotune, "operator", lambda *_, **__: run)
    monkeypatch.setattr(autotune, "_microseconds", lambda timed: speed[timed.args[0]])
    found = autotune.fastest(SQUARE, [first, slow, wrong, broken, right])
    assert (found.tile, found.us, found.default_us, found.tried) == (right, 2.0, 5.0, 3)
    assert [reason.rpartition(": ")[2] for reason in found.refused] == ["other numbers", "RuntimeError"]


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
