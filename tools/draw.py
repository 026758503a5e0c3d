"""Run an exported detection model on the bundled picture and draw what it sees: `make demo` ends with this.

python tools/draw.py demo/yolo26n demo/bus.jpg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from yolo26_executorch import InputError, Yolo26Error, load_manifest, open_runner
from yolo26_executorch.pictures import letterbox, read, sample_pictures, to_input

MOST = 10


def to_picture(
    detections: torch.Tensor, scale: float, padding: tuple[int, int], confidence: float = 0.25
) -> torch.Tensor:
    """Return the best boxes in pixels of the picture.

    Args:
        detections: float32 (N, 6), sorted by confidence: x, y, w, h in pixels of the network's input, confidence,
            class_id.
        scale: pixels of the input per pixel of the picture.
        padding: what the input has left of the picture and above it, pixels.
        confidence: boxes below it are left out.

    Returns:
        float32 (M, 6), M at most `MOST`: x1, y1, x2, y2, confidence, class_id. Boxes without an area, which untrained
        models give, are left out.
    """
    centre, size, rest = detections[:, :2], detections[:, 2:4], detections[:, 4:]
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    placed = torch.cat([(corners - torch.tensor(padding * 2)) / scale, rest], dim=1)
    return placed[(size > 0).all(dim=1) & (rest[:, 0] >= confidence)][:MOST]


def draw(folder: Path, target: Path) -> str:
    """Write the bundled picture with the boxes that an artifact sees in it; returns what to say of it."""
    from ultralytics.engine.results import Results

    manifest = load_manifest(folder)
    if manifest.task != "detect" or manifest.options.outputs != "named" or manifest.options.batch != 1:
        raise InputError(f"expected a detection model with named outputs and batch 1, given {folder}")
    path = sample_pictures()[0]
    picture = read(path)
    fitted, scale, padding = letterbox(picture, manifest.options.size)
    with open_runner(folder) as run:
        detections = run(to_input(fitted[None], run.input))["detections"][0]
        name = run.name
    boxes = to_picture(detections, scale, padding)
    bgr = np.ascontiguousarray(picture[..., ::-1])
    Results(bgr, path=str(path), names=manifest.classes, boxes=boxes).save(str(target))
    said = f"picture: {target} ({len(boxes)} boxes, {manifest.backend} model run by {name})"
    if manifest.checkpoint["origin"] == "random":
        said += "\nThe weights are random: boxes, classes and confidences mean nothing."
    return said


def main() -> int:
    """Draw; returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw what an exported detection model sees in the bundled picture.")
    parser.add_argument("folder", type=Path, help="the artifact's folder")
    parser.add_argument("picture", type=Path, help="the file to write")
    args = parser.parse_args()
    try:
        print(draw(args.folder, args.picture))
    except Yolo26Error as error:
        print(f"draw: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
