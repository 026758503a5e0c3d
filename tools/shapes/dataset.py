"""Write drawn scenes as data sets in Ultralytics' own formats, one format a task.

FOLDER/images/train/000000.jpg …   FOLDER/labels/train/000000.txt …   FOLDER/data.yaml      (detect … obb)
FOLDER/images/train/000000.jpg …   FOLDER/masks/train/000000.png …    FOLDER/data.yaml      (semantic: a class a pixel)
FOLDER/images/train/000000.jpg …   FOLDER/depth/train/000000.png …    FOLDER/data.yaml      (depth: millimetres)
FOLDER/train/CLASS/000000.jpg …                                                             (classify)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .scenes import BACKGROUND, KEYPOINTS, KINDS, MIRRORED, NAMES, Scene, Shape, draw, draw_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = {"train": 0, "val": 1, "test": 2}
"""Each split's own branch of the random numbers: no scene is in two."""

SIZES = ((320, 320), (240, 320), (320, 256))
"""Height and width of the pictures, in turn: square, landscape and portrait."""

_JPEG_QUALITY = 92


def write(folder: Path, task: str, pictures: Mapping[str, int], *, seed: int = 0) -> Path:
    """Draw a data set and write it; what is already there of the same name is drawn over.

    Args:
        folder: where to; made if missing.
        task: the name of a row of `tasks.TASKS`. The scenes of all but classify and depth are the same; the labels
            differ.
        pictures: how many pictures each split gets, by the names of `SPLITS`.
        seed: another seed, other scenes.

    Returns:
        What Ultralytics takes as `data`: the path of data.yaml; for classify the folder.
    """
    return _WRITERS[task](folder, task, pictures, seed)


def scene(split: str, index: int, *, seed: int = 0, far_first: bool = False) -> Scene:
    """Return a scene of the data set, whatever else is drawn; `far_first` as `draw`'s, for the data set of depths."""
    return draw(_generator(split, index, seed), SIZES[index % len(SIZES)], far_first=far_first)


def _generator(split: str, index: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS[split], index])


def _write_labelled(folder: Path, task: str, pictures: Mapping[str, int], seed: int) -> Path:
    row = _ROWS[task]
    for split, count in pictures.items():
        images, labels = (folder / kind / split for kind in ("images", "labels"))
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            drawn = scene(split, index, seed=seed)
            height, width = drawn.image.shape[:2]
            scale = np.array([width, height], np.float32)
            _save(images / f"{index:06}.jpg", drawn.image)
            lines = [
                " ".join([str(shape.label), *(f"{value:.6g}" for value in row(shape, scale))]) for shape in drawn.shapes
            ]
            (labels / f"{index:06}.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    content: dict[str, Any] = {"names": NAMES}
    if task == "pose":
        content |= {
            "kpt_shape": [len(KEYPOINTS), 3],
            "flip_idx": list(MIRRORED),
            "kpt_names": {index: list(KEYPOINTS) for index in NAMES},
        }
    return _describe(folder, pictures, content)


def _describe(folder: Path, pictures: Mapping[str, int], content: Mapping[str, Any]) -> Path:
    """Write data.yaml: where the pictures are, and what the task adds to that."""
    from ultralytics.utils import YAML

    # Training insists on a validation set, validation on a training set; neither looks into the other.
    splits = {split: f"images/{split if split in pictures else next(iter(pictures))}" for split in ("train", "val")}
    path = folder / "data.yaml"
    YAML.save(
        path,
        {
            "path": str(folder.resolve()),
            **splits,
            **{split: f"images/{split}" for split in pictures},
            **content,
        },
    )
    return path


def _write_maps(folder: Path, task: str, pictures: Mapping[str, int], seed: int) -> Path:
    kind, map_of, content, far_first = _MAPS[task]
    for split, count in pictures.items():
        images, maps = (folder / name / split for name in ("images", kind))
        images.mkdir(parents=True, exist_ok=True)
        maps.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            drawn = scene(split, index, seed=seed, far_first=far_first)
            _save(images / f"{index:06}.jpg", drawn.image)
            _save(maps / f"{index:06}.png", map_of(drawn))
    return _describe(folder, pictures, content)


def _write_classes(folder: Path, task: str, pictures: Mapping[str, int], seed: int) -> Path:
    for split, count in pictures.items():
        for index in range(count):
            label = index % len(KINDS)
            target = folder / split / NAMES[label]
            target.mkdir(parents=True, exist_ok=True)
            drawn = draw_one(_generator(split, index, seed), label)
            _save(target / f"{index:06}.jpg", drawn.image)
    return folder


def _save(path: Path, image: NDArray[np.uint8 | np.uint16]) -> None:
    from PIL import Image

    Image.fromarray(image).save(path, quality=_JPEG_QUALITY)


def _box(shape: Shape, scale: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = shape.box_xyxy[:2] / scale, shape.box_xyxy[2:] / scale
    return np.concatenate([(low + high) / 2, high - low])


def _polygon(shape: Shape, scale: NDArray[np.float32]) -> NDArray[np.float32]:
    inside: NDArray[np.float32] = np.clip(shape.polygon / scale, 0, 1).ravel()
    return inside


def _corners(shape: Shape, scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return (shape.corners / scale).ravel()


def _keypoints(shape: Shape, scale: NDArray[np.float32]) -> NDArray[np.float32]:
    points = np.concatenate([shape.keypoints[:, :2] / scale, shape.keypoints[:, 2:]], axis=1)
    return np.concatenate([_box(shape, scale), points.ravel()])


_ROWS: dict[str, Callable[[Shape, NDArray[np.float32]], NDArray[np.float32]]] = {
    "detect": _box, "segment": _polygon, "pose": _keypoints, "obb": _corners,
}  # fmt: skip
"""What a label's line holds behind the class, all relative to the picture's width and height."""

_MAPS: dict[str, tuple[str, Callable[[Scene], NDArray[np.uint8 | np.uint16]], dict[str, Any], bool]] = {
    "semantic": (
        "masks", lambda drawn: drawn.classes, {"names": {**NAMES, BACKGROUND: "background"}, "masks_dir": "masks"},
        False,
    ),
    "depth": (
        "depth", lambda drawn: np.round(drawn.depth_m * 1000).astype(np.uint16),
        {"names": {0: "depth"}, "nc": 1, "depth_scale": 1000}, True,
    ),
}  # fmt: skip
"""Folder of the maps, a scene's map, what data.yaml says beside where they are, and whether far shapes come first."""

_WRITERS: dict[str, Callable[[Path, str, Mapping[str, int], int], Path]] = {
    **dict.fromkeys(_ROWS, _write_labelled), **dict.fromkeys(_MAPS, _write_maps), "classify": _write_classes,
}  # fmt: skip
