from __future__ import annotations

import json
from pathlib import Path

import pytest

from yolo26_executorch.lowering.kernels.tile import Tile
from yolo26_executorch.lowering.tuning import cost_model, tile_table
from yolo26_executorch.lowering.tuning.tile_table import TileTable, a_line_each

ONE, OTHER = Tile(64, 64, 32, 4, 4, 2), Tile(16, 32, 64, 2, 2)


def test_what_is_added_is_read_by_all(tmp_path: Path) -> None:
    table, again = (TileTable(tmp_path / "tiles" / "9.0.json") for _ in range(2))
    assert table.tiles() == {}
    table.add("one", ONE, 4.126, 8.5, full=False)
    again.add("other", OTHER, 2.0, 2.0, full=True)
    assert table.tiles() == again.tiles() == {"one": ONE, "other": OTHER}
    content = json.loads(table.path.read_text())
    assert content["us"] == {"one": [4.13, 8.5], "other": [2.0, 2.0]}
    assert {"torch", "executorch"} <= set(content["versions"])
    assert [path.name for path in table.path.parent.iterdir() if path.suffix == ".part"] == []


def test_a_full_search_needs_no_fast_one_but_not_the_other_way_round(tmp_path: Path) -> None:
    table = TileTable(tmp_path / "tiles.json")
    table.add("one", ONE, 4.0, 8.0, full=False)
    table.add("other", OTHER, 4.0, 8.0, full=True)
    assert table.searched(full=False) == {"one", "other"}
    assert table.searched(full=True) == {"other"}
    table.add("one", OTHER, 3.0, 8.0, full=True)
    assert table.searched(full=True) == {"one", "other"}
    table.add("other", ONE, 3.0, 8.0, full=False)
    assert table.searched(full=True) == {"one"}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", '{"tiles": 3}', '{"tiles": {"one": 3}}', '{"tiles": {"one": [1, 2]}}',
        '{"tiles": {"one": null}}', '{"tiles": {"one": [64, 64, 32, 4, 4, "2"]}}',
        '{"tiles": {"one": [64, 64, 32, 4, 4, -2]}}',
    ],
)  # fmt: skip
def test_a_damaged_table_is_measured_again(tmp_path: Path, text: str) -> None:
    table = TileTable(tmp_path / "tiles.json")
    table.path.write_text(text)
    assert table.tiles() == {}
    assert table.searched(full=True) == table.searched(full=False) == set()
    table.add("one", ONE, 4.0, 8.0, full=True)
    assert table.tiles() == {"one": ONE}


def test_a_users_table_is_the_gpus_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = TileTable.of_user("NVIDIA H100 80GB HBM3")
    assert table.path == tmp_path / "yolo26-executorch" / "tiles" / "nvidia-h100-80gb-hbm3.json"
    assert TileTable.of_user("../../etc").path.parent == table.path.parent
    table.add("one", ONE, 4.0, 8.0, full=False)
    assert table.path.parent.stat().st_mode & 0o077 == 0


def test_the_packages_table_is_what_tuning_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_table, "__file__", str(tmp_path / "tile_table.py"))
    cost_model.table.cache_clear()
    TileTable.of_package((9, 0)).add("one", ONE, 4.0, 8.0, full=False)
    assert (tmp_path / "tiles" / "9.0.json").is_file()
    assert cost_model.table((9, 0)) == {"one": ONE}
    assert cost_model.table((8, 0)) == {}
    cost_model.table.cache_clear()


def test_what_ships_is_written_as_it_would_be() -> None:
    paths = [*Path(tile_table.__file__).with_name("tiles").glob("*.json")]
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert a_line_each(json.loads(text)) == text
