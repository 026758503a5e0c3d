"""Draw scenes of overlapping shapes on cluttered, noisy backgrounds, and say exactly where every shape is.

Every shape has a front, so that its rotation and its left and right are to be seen. In a shape's own frame its box is
-1..1 both ways and its nose points to y = -1; it is scaled to half its width and height, turned and put somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_ARC = np.linspace(np.pi, 2 * np.pi, 25)
_DROP = np.linspace(0, np.pi, 21)


@dataclass(frozen=True)
class Kind:
    """A class of shapes: its outline, and its keypoints on it, in its own frame; y points down, x to the right."""

    name: str
    outline: tuple[tuple[float, float], ...]
    left: tuple[float, float]
    """The leftmost keypoint; the rightmost one mirrors it."""
    tail: tuple[float, float] = (0.0, 1.0)
    aspect: tuple[float, float] = (0.6, 1.4)
    """Width ÷ height, from and to."""


KINDS = (
    Kind("triangle", ((0, -1), (1, 1), (-1, 1)), (-1, 1)),
    Kind(
        "arrow",
        ((0, -1), (1, 0.1), (0.35, 0.1), (0.35, 1), (-0.35, 1), (-0.35, 0.1), (-1, 0.1)),
        (-1, 0.1),
        aspect=(0.5, 1.0),
    ),
    Kind("house", ((0, -1), (1, -0.2), (1, 1), (-1, 1), (-1, -0.2)), (-1, -0.2)),
    Kind(
        "dome",
        tuple((float(np.cos(a)), float(1 + 2 * np.sin(a))) for a in _ARC),
        (-1, 1),
        aspect=(1.1, 2.2),
    ),
    Kind(
        "drop",
        ((0, -1), *((float(np.cos(a)), float(0.35 + 0.65 * np.sin(a))) for a in _DROP)),
        (-1, 0.35),
        aspect=(0.5, 0.9),
    ),
    Kind(
        "heart",
        (
            (0, -1), (0.55, -0.35), (0.95, 0.2), (1, 0.6), (0.8, 0.92), (0.5, 1), (0.2, 0.88), (0, 0.6),
            (-0.2, 0.88), (-0.5, 1), (-0.8, 0.92), (-1, 0.6), (-0.95, 0.2), (-0.55, -0.35),
        ),
        (-1, 0.6),
        tail=(0.0, 0.6),
    ),
)  # fmt: skip
"""Every class, in the order of its index."""

NAMES = {index: kind.name for index, kind in enumerate(KINDS)}

BACKGROUND = len(KINDS)
"""The class of the pixels that no shape covers, in maps of classes."""

FOCAL_PX = 160.0
"""Every shape's longer side is a metre: one of so many pixels is a metre away, one of half as many two metres."""

WALL_M = (12.0, 8.0)
"""Distance of the background at the top and at the bottom of a picture, behind all shapes of the usual sizes."""

KEYPOINTS = ("centre", "nose", "left", "right", "tail")
MIRRORED = (0, 1, 3, 2, 4)
"""Which keypoint each becomes in a mirrored picture (Ultralytics' `flip_idx`)."""

HIDDEN, VISIBLE = 1, 2
"""Visibility of a keypoint as COCO counts it: covered by another shape, or seen; outside the picture it is 0."""

_LEAST_VISIBLE = 0.45
"""Of a shape's area, so much stays uncovered and inside the picture."""


_FINE = 8
"""Contours are traced on pixels split in so many, each way."""


@dataclass(frozen=True)
class Shape:
    """One shape in a scene; everything in pixels of the picture, x to the right and y down."""

    label: int
    polygon: Floats
    """float32 (N, 2): outline of the visible part."""
    box_xyxy: Floats
    """float32 (4,): box around the visible part."""
    corners: Floats
    """float32 (4, 2): the rotated box around the whole shape."""
    keypoints: Floats
    """float32 (5, 3): x, y and visibility (0, 1 or 2), in the order of `KEYPOINTS`."""


@dataclass(frozen=True)
class Scene:
    """A picture, RGB uint8 (H, W, 3), and what is in it."""

    image: NDArray[np.uint8]
    shapes: tuple[Shape, ...]
    classes: NDArray[np.uint8]
    """uint8 (H, W): the class of each pixel, `BACKGROUND` where no shape is."""
    depth_m: Floats
    """float32 (H, W): how far away what each pixel shows is, metres; see `FOCAL_PX` and `WALL_M`."""


@dataclass
class _Placed:
    label: int
    corners: Floats
    points: Floats
    visible: NDArray[np.bool_]
    area: float
    """Pixels of the whole shape, also outside the picture."""
    side_px: float
    """Its longer side."""


def draw(
    rng: np.random.Generator,
    size: tuple[int, int] = (320, 320),
    *,
    count: tuple[int, int] = (3, 12),
    sides_px: tuple[float, float] = (24.0, 160.0),
    far_first: bool = False,
) -> Scene:
    """Draw a scene.

    Args:
        rng: where all its randomness comes from; the same state gives the same scene.
        size: height and width of the picture, pixels.
        count: fewest and most shapes tried; one that finds no place is left out.
        sides_px: shortest and longest of the shapes' longer sides; drawn evenly on a logarithmic scale.
        far_first: draw small shapes before large ones, so that nothing far away covers anything nearer.
    """
    canvas = _background(rng, size)
    placed: list[_Placed] = []
    number = int(rng.integers(count[0], count[1] + 1))
    sides = [sides_px] * number
    if far_first:
        low, high = np.log(sides_px)
        sides = [(side, side) for side in np.sort(np.exp(rng.uniform(low, high, number))).tolist()]
    for from_to in sides:
        for _ in range(8):
            label = int(rng.integers(len(KINDS)))
            if _place(rng, canvas, placed, label, from_to):
                break
    return _scene(rng, canvas, placed)


def draw_one(rng: np.random.Generator, label: int, size: tuple[int, int] = (256, 256)) -> Scene:
    """Draw a scene that one shape dominates, with small ones about it: a picture to classify."""
    while True:
        canvas = _background(rng, size)
        placed: list[_Placed] = []
        side = min(size)
        if not _place(rng, canvas, placed, label, (0.3 * side, 0.8 * side), margin=0.3):
            continue
        for _ in range(int(rng.integers(0, 6))):
            _place(rng, canvas, placed, int(rng.integers(len(KINDS))), (0.06 * side, 0.25 * side))
        return _scene(rng, canvas, placed)


def _scene(rng: np.random.Generator, canvas: Floats, placed: Sequence[_Placed]) -> Scene:
    height, width = canvas.shape[:2]
    classes = np.full((height, width), BACKGROUND, np.uint8)
    depth = np.repeat(np.linspace(*WALL_M, height, dtype=np.float32)[:, None], width, axis=1)
    for shape in placed:
        classes[shape.visible] = shape.label
        depth[shape.visible] = FOCAL_PX / shape.side_px
    shapes = tuple(_describe(shape, placed[index + 1 :]) for index, shape in enumerate(placed))
    return Scene(_photograph(rng, canvas), shapes, classes, depth)


def _place(
    rng: np.random.Generator,
    canvas: Floats,
    placed: list[_Placed],
    label: int,
    sides_px: tuple[float, float],
    margin: float = 0.0,
) -> bool:
    """Draw one shape over the canvas, unless that would hide too much of one, cut one in two or make a hole in it.

    `margin` is the part of the picture, on each side, that the shape's centre stays out of.
    """
    height, width = canvas.shape[:2]
    kind = KINDS[label]
    longer = float(np.exp(rng.uniform(*np.log(np.minimum(sides_px, 0.9 * min(height, width))))))
    ratio = float(np.exp(rng.uniform(*np.log(kind.aspect))))
    half = np.array([min(1.0, ratio), min(1.0, 1 / ratio)]) * longer / 2
    angle = float(rng.uniform(-np.pi, np.pi))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    extent = np.array([width, height])
    centre = rng.uniform(margin * extent, (1 - margin) * extent)

    def there(points: Sequence[tuple[float, float]]) -> Floats:
        turned: Floats = ((np.asarray(points) * half) @ turn + centre).astype(np.float32)
        return turned

    outline = there(kind.outline)
    alpha = _fill(outline, (height, width))
    visible = alpha > 0.5
    area = _area(outline)
    if visible.sum() < _LEAST_VISIBLE * area or not _one_piece(visible):
        return False
    left = [shape.visible & ~visible for shape in placed]
    if any(
        after.sum() < _LEAST_VISIBLE * shape.area or not _one_piece(after)
        for after, shape in zip(left, placed, strict=True)
        if after.sum() != shape.visible.sum()
    ):
        return False
    for shape, after in zip(placed, left, strict=True):
        shape.visible = after
    points = there([(0, 0), (0, -1), kind.left, (-kind.left[0], kind.left[1]), kind.tail])
    placed.append(_Placed(label, there([(-1, -1), (1, -1), (1, 1), (-1, 1)]), points, visible, area, longer))
    touched = np.ix_(alpha.any(1), alpha.any(0))
    under = canvas[touched]
    canvas[touched] = under + alpha[touched][..., None] * (_paint(rng, (under.shape[0], under.shape[1])) - under)
    if rng.random() < 0.3:  # an outline, as if drawn with a pen
        _pen(rng, canvas, outline)
    return True


def _describe(shape: _Placed, above: Sequence[_Placed]) -> Shape:
    import cv2

    height, width = shape.visible.shape
    rows, columns = np.flatnonzero(shape.visible.any(1)), np.flatnonzero(shape.visible.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    # A contour runs through the centres of pixels, so that it is drawn around smaller ones.
    part = shape.visible[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    fine = np.pad(part.repeat(_FINE, 0).repeat(_FINE, 1), 1)
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygon = ((max(contours, key=len)[:, 0] - 0.5) / _FINE + box[:2]).astype(np.float32)
    keypoints = np.zeros((len(KEYPOINTS), 3), np.float32)
    for index, (x, y) in enumerate(shape.points):
        if 0 <= x < width and 0 <= y < height:
            covered = any(other.visible[int(y), int(x)] for other in above)
            keypoints[index] = x, y, HIDDEN if covered else VISIBLE
    return Shape(shape.label, polygon, box, shape.corners, keypoints)


def _fill(outline: Floats, size: tuple[int, int]) -> Floats:
    """Return how much of each pixel an outline covers, float32 (H, W), 0..1."""
    import cv2

    height, width = size
    fine = np.zeros((2 * height, 2 * width), np.uint8)
    cv2.fillPoly(fine, [np.round((2 * outline - 0.5) * 16).astype(np.int32)], 255, shift=4)
    covered: Floats = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return covered


def _area(outline: Floats) -> float:
    x, y = outline.T.astype(np.float64)
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _one_piece(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask is one piece without holes, so that a single polygon is all of it."""
    import cv2

    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return len(outlines) == 1


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int, channels: int = 3) -> Floats:
    """Return smooth noise, float32 (H, W, channels), 0..1."""
    import cv2

    coarse = rng.random((cells, cells, channels), dtype=np.float32)
    smooth: Floats = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC).reshape(*size, channels)
    return smooth


def _colour(rng: np.random.Generator) -> Floats:
    return rng.random(3, dtype=np.float32) * 255


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return a canvas, float32 (H, W, 3), 0..255: smooth noise at several scales, with lines and blobs on it."""
    import cv2

    height, width = size
    canvas: Floats = np.zeros((height, width, 3), np.float32)
    for cells in (2, 5, 16):
        canvas += (_noise(rng, size, cells) - 0.5) * 255 * rng.random() * (2 / cells) ** 0.3
    canvas = np.clip(canvas + np.float32(127), 0, 255)
    for _ in range(int(rng.integers(0, 10))):
        start, end = (rng.uniform((0, 0), (width, height)) for _ in range(2))
        colour = tuple(map(float, _colour(rng)))
        if rng.random() < 0.5:
            cv2.line(canvas, _whole(start), _whole(end), colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            axes = _whole(rng.uniform(3, 0.12 * min(size), 2))
            thickness = -1 if rng.random() < 0.5 else int(rng.integers(1, 4))
            cv2.ellipse(canvas, _whole(start), axes, float(rng.uniform(0, 180)), 0, 360, colour, thickness, cv2.LINE_AA)
    return canvas


def _paint(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return a texture, float32 (H, W, 3), 0..255: plain, shaded, striped, chequered or mottled."""
    height, width = size
    one, other = _colour(rng), _colour(rng)
    pattern = int(rng.integers(5))
    if pattern == 0:
        return np.broadcast_to(one, (height, width, 3))
    if pattern == 4:
        mix = _noise(rng, size, int(rng.integers(8, 40)), 1)
        return one + mix * (other - one)
    down, across = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
    along = across * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
    if pattern == 1:
        mix = (along - along.min()) / np.ptp(along)
    else:
        mix = (np.sin(along * 2 * np.pi / period) > 0).astype(np.float32)
        if pattern == 3:
            athwart = down * np.cos(angle) - across * np.sin(angle)
            mix = np.abs(mix - (np.sin(athwart * 2 * np.pi / period) > 0))
    painted: Floats = one + mix[..., None].astype(np.float32) * (other - one)
    return painted


def _pen(rng: np.random.Generator, canvas: Floats, outline: Floats) -> None:
    import cv2

    colour = tuple(map(float, _colour(rng)))
    cv2.polylines(canvas, [np.round(outline * 16).astype(np.int32)], True, colour, 1, cv2.LINE_AA, shift=4)


def _photograph(rng: np.random.Generator, canvas: Floats) -> NDArray[np.uint8]:
    """Return the canvas as a camera might: lit unevenly, sometimes out of focus, always noisy."""
    import cv2

    height, width = canvas.shape[:2]
    taken: Any = canvas * (0.6 + 0.6 * _noise(rng, (height, width), 3, 1))
    if rng.random() < 0.3:
        taken = cv2.GaussianBlur(taken, (0, 0), float(rng.uniform(0.4, 1.2)))
    taken = taken + rng.standard_normal(taken.shape, np.float32) * np.float32(rng.uniform(2, 10))
    picture: NDArray[np.uint8] = np.clip(np.round(taken), 0, 255).astype(np.uint8)
    return picture


def _whole(point: NDArray[np.floating[Any]]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
