"""Draw scenes of shapes: one picture, or a data set for a task.

python tools/draw.py scene FILE
python tools/draw.py dataset TASK FOLDER
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from shapes import dataset, scenes
from yolo26_executorch.models.tasks import TASKS


def main(argv: list[str] | None = None) -> int:
    """Draw what is asked for and print where it is; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python tools/draw.py", description="Draw scenes of shapes.")
    commands = parser.add_subparsers(required=True)
    scene = commands.add_parser("scene", help="draw one picture")
    scene.add_argument("file", type=Path, help="the picture to write, .png or .jpg")
    scene.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="pixels (480 640)")
    scene.add_argument("--seed", type=int, default=0, help="another seed, another scene (0)")
    scene.set_defaults(run=_scene)
    data = commands.add_parser("dataset", help="write a data set in Ultralytics' format")
    data.add_argument("task", choices=list(TASKS))
    data.add_argument("folder", type=Path)
    data.add_argument("--train", type=int, default=2000, metavar="N", help="images to train on (2000)")
    data.add_argument("--val", type=int, default=300, metavar="N", help="images to validate on (300)")
    data.add_argument("--seed", type=int, default=0, help="another seed, other scenes (0)")
    data.set_defaults(run=_dataset)
    args = parser.parse_args(argv)
    print(args.run(args))
    return 0


def _scene(args: argparse.Namespace) -> Path:
    from PIL import Image

    drawn = scenes.draw(np.random.default_rng(args.seed), tuple(args.size), count=(12, 16))
    args.file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn.image).save(args.file)
    file: Path = args.file
    return file


def _dataset(args: argparse.Namespace) -> Path:
    counts = {split: count for split, count in (("train", args.train), ("val", args.val)) if count}
    return dataset.write(args.folder, args.task, counts, seed=args.seed)


if __name__ == "__main__":
    sys.exit(main())
