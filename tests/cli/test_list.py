from __future__ import annotations

import json

import pytest

from support import run_python
from yolo26_executorch.cli import main
from yolo26_executorch.models.variants import ALL_VARIANTS


def rows_of(out: str) -> dict[str, str]:
    return {line.split()[0]: line for line in out.splitlines() if line.strip().startswith("yolo")}


def test_the_table_has_a_row_for_each_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == list(dict.fromkeys(variant.family for variant in ALL_VARIANTS.values()))
    assert len(rows) == 15
    assert "not published" in rows["yolo26[nsmlx]-p6"]
    assert "the classes of --words" in rows["yoloe-26[nsmlx]-seg"]
    assert "a list of its own" in rows["yoloe-26[nsmlx]-seg-pf"]


def test_a_table_of_what_patterns_name_has_a_row_for_each_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "*"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == list(ALL_VARIANTS)
    assert "obb" in rows["yolo26x-obb"]
    assert "1024×1024" in rows["yolo26x-obb"]
    assert "detections (B, 300, 7)" in rows["yolo26x-obb"]
    assert "masks (B, 300, H/4, W/4)" in rows["yolo26n-seg"]
    assert "224×224" in rows["yolo26n-cls"]
    assert "classes (B, H, W), logits (B, classes, H/8, W/8)" in rows["yolo26n-sem-ade20k"]


def test_patterns_choose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "yolo26?-seg", "yolo26n", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [*(f"yolo26{size}-seg" for size in "nsmlx"), "yolo26n"]


def test_json_has_what_the_table_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "yolo26s-pose", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["task"], row["size"], row["native_imgsz"]) == ("pose", "s", 640)
    assert main(["list", "yolo26n-sem", "yolo26n-sem-ade20k", "--json"]) == 0
    assert [one["native_imgsz"] for one in json.loads(capsys.readouterr().out)] == [[1024, 2048], 512]
    assert (row["trained_on"], row["checkpoint"]) == ("coco-pose", "yolo26s-pose.pt")
    assert [output["name"] for output in row["outputs"]] == ["detections", "keypoints"]
    assert row["outputs"][0] == {"name": "detections", "dtype": "float32", "shape": ["B", "300", "6"]}


def test_an_unknown_name_is_refused_with_near_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "yolo26n-sge"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "yolo26n-seg" in captured.err


def test_it_answers_without_what_takes_long_to_import() -> None:
    code = (
        "import sys; from yolo26_executorch.cli import main; status = main(['list', 'yolo26n'])\n"
        "heavy = {'torch', 'numpy', 'ultralytics', 'executorch', 'yolo26_executorch.exporter.request', 'msgspec'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    assert run_python(code).stdout.splitlines()[-1] == "0 []"
