from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray

from support import each_task, eager_artifact
from yolo26_executorch.errors import ArtifactError, InputError, OptionError
from yolo26_executorch.models import preprocess
from yolo26_executorch.vision.api import YOLO26
from yolo26_executorch.vision.ray_data import YOLO26Predictor

ADDED = ["boxes", "rotated", "classes", "names", "confidences", "keypoints", "masks", "class_map", "depth", "error"]


def paths() -> list[Path]:
    return [*preprocess.sample_images()][:2]


def cells(*values: Any) -> NDArray[Any]:
    """Return a column as Ray Data gives cells of differing shapes."""
    column = np.empty(len(values), object)
    for place, value in enumerate(values):
        column[place] = value
    return column


@pytest.mark.parametrize("task", each_task("detect", "segment", "pose", "obb", "classify"))
def test_rows_are_what_predict_finds(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, task)
    table = YOLO26Predictor(folder, conf=0.3, max_det=7)({"path": np.array([str(path) for path in paths()])})
    assert table.column_names == ["path", *ADDED]
    with YOLO26(folder) as model:
        results = [model.predict(path, conf=0.3, max_det=7)[0] for path in paths()]
    for row, result in zip(table.to_pylist(), results, strict=True):
        found = result.probs or result.obb or result.boxes
        has = {
            "rotated": result.obb, "keypoints": result.keypoints, "masks": result.masks,
            "class_map": result.semantic_mask, "depth": result.depth,
        }  # fmt: skip
        assert row["error"] is None
        assert {name for name in has if row[name] is not None} == {name for name in has if has[name] is not None}
        if result.probs is not None:
            assert (row["classes"], row["boxes"]) == (result.probs.top5, None)
            continue
        for name in ("class_map", "depth"):
            if has[name] is not None:
                np.testing.assert_allclose(row[name], has[name].data, rtol=1e-5)
                assert (row["boxes"], row["confidences"]) == (None, None)
        if result.semantic_mask is not None:
            present = result.semantic_mask.data.unique().tolist()
            assert (row["classes"], row["names"]) == (present, [result.names[index] for index in present])
        if found is None:
            continue
        assert len(row["boxes"]) == len(found) > 0
        np.testing.assert_allclose(row["boxes"], found.xyxy, rtol=1e-5)
        np.testing.assert_allclose(row["confidences"], found.conf, rtol=1e-5)
        assert row["classes"] == found.cls.int().tolist()
        assert row["names"] == [result.names[index] for index in row["classes"]]
        if has["masks"] is not None:
            assert len(row["masks"]) == len(row["boxes"])
            for outline, expected in zip(row["masks"], result.masks.xy, strict=True):
                np.testing.assert_allclose(np.reshape(outline, (-1, 2)), expected)
        if has["keypoints"] is not None:
            np.testing.assert_allclose(row["keypoints"], result.keypoints.data, rtol=1e-5)
        if has["rotated"] is not None:
            np.testing.assert_allclose(row["rotated"], found.xywhr, rtol=1e-5)


def test_arrays_bytes_and_paths_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = YOLO26Predictor(eager_artifact(tmp_path, monkeypatch, "detect")[0])
    as_paths = predictor({"path": np.array([str(path) for path in paths()])})
    as_bytes = predictor({"bytes": cells(*(path.read_bytes() for path in paths()))})
    rgb = [cv2.imread(str(path))[..., ::-1] for path in paths()]
    assert rgb[0].shape != rgb[1].shape
    as_arrays = predictor({"image": cells(*rgb), "path": np.array(["a", "b"])})
    assert as_bytes.column_names == ADDED
    assert as_arrays.column_names == ["path", *ADDED]
    for name in ADDED:
        assert as_bytes[name] == as_paths[name] == as_arrays[name]
    wrong = predictor({"image": cells(*(np.ascontiguousarray(one[..., ::-1]) for one in rgb))})
    assert wrong["boxes"] != as_paths["boxes"]


def test_what_cannot_be_read_is_said_in_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = YOLO26Predictor(eager_artifact(tmp_path, monkeypatch, "detect")[0], column="file")
    good = paths()[0].read_bytes()
    batch = {
        "number": np.arange(4),
        "pair": np.ones((4, 2)),
        "file": cells(b"", good, b"no picture", str(tmp_path / "a")),
    }
    table = predictor(batch)
    rows = table.to_pylist()
    assert table.column_names == ["number", "pair", *ADDED]
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["pair"] == [1.0, 1.0]
    unreadable = "OpenCV cannot read it as an image"
    assert [row["error"] for row in rows] == [unreadable, None, unreadable, "No such file or directory"]
    assert rows[1]["boxes"]
    assert all(row[name] is None for row in (rows[0], rows[2], rows[3]) for name in ADDED[:-1])


def test_columns_have_one_type_whatever_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "detect")
    batch = {"path": np.array([str(paths()[0])])}
    tables = [YOLO26Predictor(folder, conf=conf)(batch) for conf in (0.01, 0.999)]
    tables.append(YOLO26Predictor(folder)({"path": np.array(["/no/such/file"])}))
    assert [len(table["boxes"][0].as_py() or []) > 0 for table in tables] == [True, False, False]
    assert tables[1]["boxes"][0].as_py() == []
    assert pyarrow.concat_tables(tables).num_rows == 3
    assert YOLO26Predictor(folder)({"path": np.array([], dtype=str)}).num_rows == 0


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"label": np.array(["cat"])}, "no images in the columns label: expected image, bytes, path, item"),
        ({"image": np.zeros((1, 8, 8, 3), np.float32)}, "expected images of uint8 .* given float32"),
        ({"image": np.zeros((1, 8, 8), np.uint8)}, r"given uint8 \(8, 8\)"),
        ({"image": np.array([7])}, "given int64"),
    ],
)
def test_what_is_unreadable_is_refused(
    batch: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=said):
        YOLO26Predictor(eager_artifact(tmp_path, monkeypatch, "detect")[0])(batch)


def test_a_wrong_artifact_or_setting_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError):
        YOLO26Predictor(tmp_path)
    folder, _ = eager_artifact(tmp_path, monkeypatch, "detect")
    with pytest.raises(OptionError):
        YOLO26Predictor(folder, nonsense=1)({"path": np.array([str(paths()[0])])})
