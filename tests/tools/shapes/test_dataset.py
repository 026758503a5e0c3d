from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shapes import dataset
from shapes.scenes import BACKGROUND, KEYPOINTS, NAMES
from support import load_tool
from yolo26_executorch.models.tasks import TASKS

LABELLED = [name for name, task in TASKS.items() if task.ranked]


def read(data: Path, task: str) -> list[dict[str, Any]]:
    """Read a data set's labels with Ultralytics' own reader; it refuses, in words, what is malformed."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    content = check_det_dataset(str(data), autodownload=False)
    return YOLODataset(content["val"], data=content, task=task, augment=False, imgsz=320).labels


@pytest.mark.parametrize("task", LABELLED)
def test_ultralytics_reads_what_is_written(tmp_path: Path, task: str) -> None:
    labels = read(dataset.write(tmp_path, task, {"val": 6}, seed=4), task)
    assert len(labels) == 6
    for index, label in enumerate(labels):
        scene = dataset.scene("val", index, seed=4)
        assert label["shape"] == scene.image.shape[:2]
        assert label["cls"].ravel().tolist() == [shape.label for shape in scene.shapes]
        height, width = label["shape"]
        for row, shape in enumerate(scene.shapes):
            if label["segments"]:
                # Rotated boxes come as their corners; polygons as they are. Both within the digits of the file.
                points = shape.corners if TASKS[task].rotated else shape.polygon
                found = label["segments"][row] * (width, height)
                assert np.abs(found - np.clip(points, 0, None)).max() < 0.01 or TASKS[task].rotated
            else:
                x, y, w, h = label["bboxes"][row] * (width, height, width, height)
                corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                assert np.abs(corners - shape.box_xyxy).max() < 0.01
            if label["keypoints"] is not None:
                points = label["keypoints"][row] * (width, height, 1)
                assert np.abs(points - shape.keypoints).max() < 0.01


def samples(data: Path, kind: type[Any], task: str) -> list[dict[str, Any]]:
    """Return the images of a data set of maps as Ultralytics loads them, at their own size."""
    from ultralytics.data.utils import check_det_dataset

    content = check_det_dataset(str(data), autodownload=False)
    found = kind(content["val"], data=content, task=task, augment=False, imgsz=320)
    return [found.get_image_and_label(index) for index in range(len(found))]


def test_ultralytics_reads_the_class_of_each_pixel(tmp_path: Path) -> None:
    import yaml
    from ultralytics.data.dataset import SemanticDataset

    data = dataset.write(tmp_path, "semantic", {"val": 3}, seed=4)
    found = samples(data, SemanticDataset, "semantic")
    assert len(found) == 3
    for index, sample in enumerate(found):
        assert (sample["semantic_mask"] == dataset.scene("val", index, seed=4).classes).all()
    assert yaml.safe_load(data.read_text(encoding="utf-8"))["names"] == {**NAMES, BACKGROUND: "background"}


def test_ultralytics_reads_the_distance_of_each_pixel(tmp_path: Path) -> None:
    from ultralytics.data.dataset import DepthDataset

    found = samples(dataset.write(tmp_path, "depth", {"val": 3}, seed=4), DepthDataset, "depth")
    assert len(found) == 3
    for index, sample in enumerate(found):
        expected = dataset.scene("val", index, seed=4, far_first=True).depth_m
        assert np.abs(sample["depth"] - expected).max() < 0.001  # whole millimetres


def test_scenes_do_not_depend_on_how_many_are_drawn_and_splits_share_none(tmp_path: Path) -> None:
    few, many = (dataset.write(tmp_path / str(n), "detect", {"train": n, "val": n}).parent for n in (2, 4))
    name = "000001.jpg"
    assert (few / "images/val" / name).read_bytes() == (many / "images/val" / name).read_bytes()
    assert (few / "images/val" / name).read_bytes() != (few / "images/train" / name).read_bytes()


def test_pictures_are_of_every_shape(tmp_path: Path) -> None:
    data = dataset.write(tmp_path, "detect", {"val": 3})
    sizes = []
    for path in sorted((data.parent / "images/val").iterdir()):
        with Image.open(path) as image:
            sizes.append(image.size)
    assert sizes == [(width, height) for height, width in dataset.SIZES]


def test_classes_are_folders(tmp_path: Path) -> None:
    from ultralytics.data.utils import check_cls_dataset

    folder = dataset.write(tmp_path / "set", "classify", {"train": 6, "val": 12})
    found = check_cls_dataset(str(folder), split="val")
    assert sorted(found["names"].values()) == sorted(NAMES.values())
    assert all(len(list((folder / "val" / name).iterdir())) == 2 for name in NAMES.values())


def test_the_keypoints_of_the_data_are_described(tmp_path: Path) -> None:
    import yaml

    content = yaml.safe_load(dataset.write(tmp_path, "pose", {"val": 1}).read_text(encoding="utf-8"))
    assert content["kpt_shape"] == [len(KEYPOINTS), 3]
    assert sorted(content["flip_idx"]) == list(range(len(KEYPOINTS)))


def test_the_command_writes_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = load_tool("draw")
    assert draw.main(["dataset", "segment", str(tmp_path), "--train", "2", "--val", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "data.yaml")
    assert len(list((tmp_path / "images/train").iterdir())) == 2
