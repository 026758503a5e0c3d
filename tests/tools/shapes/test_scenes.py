from __future__ import annotations

import cv2
import numpy as np
import pytest
from matplotlib.path import Path as MplPath

from shapes import scenes
from shapes.scenes import BACKGROUND, FOCAL_PX, HIDDEN, KEYPOINTS, KINDS, MIRRORED, VISIBLE, WALL_M, Scene, Shape

CENTRE, NOSE, LEFT, RIGHT, TAIL = range(5)


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [scenes.draw(np.random.default_rng(seed), (160, 224)) for seed in range(30)]


@pytest.fixture(scope="module")
def shapes(drawn: list[Scene]) -> list[Shape]:
    return [shape for scene in drawn for shape in scene.shapes]


def mask(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centre lies in the polygon."""
    down, across = np.mgrid[: size[0], : size[1]]
    inside = MplPath(shape.polygon).contains_points(np.stack([across, down], -1).reshape(-1, 2) + 0.5)
    return inside.reshape(size).astype(np.uint8)


def test_the_same_numbers_give_the_same_scene() -> None:
    one, other, third = (scenes.draw(np.random.default_rng(seed), (96, 96)) for seed in (5, 5, 6))
    assert (one.image == other.image).all()
    assert all((a.polygon == b.polygon).all() for a, b in zip(one.shapes, other.shapes, strict=True))
    assert (one.image != third.image).any()


def test_every_class_is_drawn_small_and_large_and_partly_hidden(shapes: list[Shape]) -> None:
    assert {shape.label for shape in shapes} == set(range(len(KINDS)))
    sides = [max(shape.box_xyxy[2:] - shape.box_xyxy[:2]) for shape in shapes]
    assert min(sides) < 24
    assert max(sides) > 100
    seen = {float(value) for shape in shapes for value in shape.keypoints[:, 2]}
    assert seen == {0.0, float(HIDDEN), float(VISIBLE)}


def test_boxes_end_where_polygons_do(shapes: list[Shape]) -> None:
    for shape in shapes:
        extent = np.concatenate([shape.polygon.min(0), shape.polygon.max(0)])
        assert np.abs(extent - shape.box_xyxy).max() < 0.1


def test_polygons_do_not_overlap(drawn: list[Scene]) -> None:
    for scene in drawn:
        size = scene.image.shape[:2]
        masks = [mask(shape, size) for shape in scene.shapes]
        if masks:
            assert np.max(np.sum(masks, axis=0)) == 1


def test_each_pixel_is_of_the_shape_that_is_seen_there(drawn: list[Scene]) -> None:
    for scene in drawn:
        size = scene.image.shape[:2]
        expected = np.full(size, BACKGROUND)
        for shape in scene.shapes:
            expected[mask(shape, size) > 0] = shape.label
        assert (scene.classes == expected).all()


def test_what_is_nearer_is_larger_and_in_front() -> None:
    for seed in range(10):
        scene = scenes.draw(np.random.default_rng(seed), (160, 224), far_first=True)
        sides = [np.linalg.norm(np.diff(shape.corners, axis=0), axis=1).max() for shape in scene.shapes]
        assert sides == sorted(sides)
        for shape, side in zip(scene.shapes, sides, strict=True):
            inside = mask(shape, scene.image.shape[:2]) > 0
            assert np.abs(scene.depth_m[inside] - FOCAL_PX / side).max() < 1e-3
        wall = scene.depth_m[scene.classes == BACKGROUND]
        assert min(WALL_M) <= wall.min()
        assert all(FOCAL_PX / side < wall.min() for side in sides)


def test_rotated_boxes_hold_the_visible_part_and_are_rectangles(shapes: list[Shape]) -> None:
    for shape in shapes:
        first, second = shape.corners[1] - shape.corners[0], shape.corners[2] - shape.corners[1]
        assert abs(first @ second) <= 1e-3 * np.linalg.norm(first) * np.linalg.norm(second) + 1e-3
        for point in shape.polygon:
            assert cv2.pointPolygonTest(shape.corners.reshape(-1, 1, 2), (float(point[0]), float(point[1])), True) > -2


def test_the_nose_is_in_front_and_left_is_left(shapes: list[Shape]) -> None:
    for shape in shapes:
        points = shape.keypoints
        if (points[:, 2] == 0).any():
            continue
        forward = points[NOSE, :2] - points[TAIL, :2]
        rightward = points[RIGHT, :2] - points[LEFT, :2]
        # x to the right and y down: what is right of somebody who looks forward is forward turned clockwise.
        assert forward[0] * rightward[1] - forward[1] * rightward[0] > 0
        assert abs(forward @ rightward) <= 1e-3 * np.linalg.norm(forward) * np.linalg.norm(rightward) + 1e-2


def test_keypoints_that_are_seen_are_not_covered(drawn: list[Scene]) -> None:
    covered = 0
    for scene in drawn:
        size = scene.image.shape[:2]
        masks = [mask(shape, size) for shape in scene.shapes]
        for index, shape in enumerate(scene.shapes):
            for x, y, visibility in shape.keypoints:
                if not visibility:
                    continue
                inside = [cv2.erode(above, np.ones((3, 3)))[int(y), int(x)] for above in masks[index + 1 :]]
                if any(inside):
                    assert visibility == HIDDEN
                    covered += 1
    assert covered


def test_a_mirrored_keypoint_mirrors_back() -> None:
    assert len(MIRRORED) == len(KEYPOINTS)
    assert [MIRRORED[index] for index in MIRRORED] == list(range(len(KEYPOINTS)))
    assert MIRRORED[LEFT] == RIGHT


@pytest.mark.parametrize("label", range(len(KINDS)))
def test_a_picture_to_classify_has_its_shape_largest(label: int) -> None:
    scene = scenes.draw_one(np.random.default_rng(label), label, (128, 128))
    assert scene.shapes[0].label == label
    areas = [np.prod(shape.box_xyxy[2:] - shape.box_xyxy[:2]) for shape in scene.shapes]
    assert areas[0] == max(areas)
