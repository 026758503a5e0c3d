"""Train the small checkpoints of `weights/` on drawn data sets.

    python tools/train.py --output weights

A training that was interrupted resumes when the same command is given again; a task whose checkpoint exists is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from shapes.train import METRICS, RECIPES, checkpoint_name, train
from yolo26_executorch.models.tasks import TASKS


def main(argv: list[str] | None = None) -> int:
    """Train what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python tools/train.py", description="Train the checkpoints of weights/.")
    parser.add_argument("--output", type=Path, default=Path("weights"), help="folder of the checkpoints (weights)")
    parser.add_argument(
        "--work", type=Path, default=Path("build/shapes"), help="folder of data and runs (build/shapes)"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="which (all)")
    parser.add_argument("--device", help="as Ultralytics names it, such as 0 or cpu (the GPU where there is one)")
    parser.add_argument("--epochs", type=int, help="train so many instead of the recipe's")
    args = parser.parse_args(argv)
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_OFFLINE", "true")
    for name in args.tasks:
        task, recipe = TASKS[name], RECIPES[name]
        if args.epochs:
            recipe = replace(recipe, epochs=args.epochs)
        if (args.output / checkpoint_name(task)).exists():
            print(f"{name}: {args.output / checkpoint_name(task)} exists; remove it to train it again", flush=True)
            continue
        record = train(task, args.output, args.work.resolve(), recipe=recipe, device=args.device)
        path = args.output / METRICS
        records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        records[name] = record
        path.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {record['metrics']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
