"""Images a second of Ray's batch inference with a model on each of one, two, … GPUs.

python tools/ray_gpus.py ARTIFACT OUT.json [--images 4000]

Images are drawn and lie decoded in Ray's object store before the clock starts; models are open and have run. Each GPU
has one predictor, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from shapes import scenes

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
SIZE = (480, 640)
"""Height and width of the images."""
DRAWN = 64
"""Different images; they are repeated."""


def main() -> int:
    """Measure, print a row for each number of GPUs, and write them; returns the exit status."""
    parser = argparse.ArgumentParser(description="Images a second of Ray's batch inference on one and more GPUs.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=50)
    args = parser.parse_args()

    import ray
    import torch

    from yolo26_executorch.vision.ray_data import YOLO26Predictor

    ray.init(address="local", log_to_driver=False, logging_level="ERROR")
    drawn = [scenes.draw(np.random.default_rng([26, index]), SIZE, count=(6, 12)).image for index in range(DRAWN)]
    batches = [
        ray.put({"image": [drawn[(start + offset) % DRAWN] for offset in range(args.batch_size)]})
        for start in range(0, args.images, args.batch_size)
    ]

    @ray.remote(num_gpus=1, num_cpus=1)
    class Worker:
        def __init__(self, artifact: str) -> None:
            self._predictor = YOLO26Predictor(artifact)

        def run(self, batch: dict[str, Any]) -> int:
            return sum(len(boxes) for boxes in self._predictor(batch)["boxes"].to_pylist())

    actor: Any = Worker  # the decorator makes it an actor class, which the type checker does not see
    rows = []
    for count in range(1, torch.cuda.device_count() + 1):
        workers = [actor.remote(str(args.artifact.resolve())) for _ in range(count)]
        ray.get([worker.run.remote(batch) for worker in workers for batch in batches[:4]])
        rates, objects = [], set()
        for _ in range(args.rounds):
            began = time.perf_counter()
            found = ray.get([workers[index % count].run.remote(batch) for index, batch in enumerate(batches)])
            rates.append(len(batches) * args.batch_size / (time.perf_counter() - began))
            objects.add(sum(found))
        for worker in workers:
            ray.kill(worker)
        rows.append({"gpus": count, "images_per_s": sorted(rates)[len(rates) // 2], "all": rates,
                     "objects": sorted(objects)})  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    args.out.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "size": SIZE, "rows": rows}, indent=1) + "\n")
    return 0 if len({tuple(row["objects"]) for row in rows}) == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
