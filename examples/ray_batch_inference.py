"""Predict on every image of a folder with an exported model, on all machines of a Ray cluster.

pip install 'yolo26-executorch[ray]'
python examples/ray_batch_inference.py yolo26_cuda_exports/yolo26n images --out found --num-gpus 1 --concurrency 4
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from pyarrow.dataset import dataset

from yolo26_executorch.vision.ray_data import YOLO26Predictor


def main() -> None:
    """Write a row for each image to Parquet files, and print the number of objects by class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="folder of an exported model, on every machine")
    parser.add_argument("images", help="folder of images, or a URL such as s3://bucket/images")
    parser.add_argument("--out", default="found", help="folder or URL for the Parquet files (default: %(default)s)")
    parser.add_argument("--ray", default="local", help="address of a Ray cluster (default: one of this machine alone)")
    parser.add_argument("--num-gpus", type=float, default=0, help="GPUs for each model (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=1, help="models at a time (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time (default: %(default)s)")
    args = parser.parse_args()

    ray.init(address=args.ray, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Bytes rather than `read_images`, which ends everything at the first file that is not an image.
    files = ray.data.read_binary_files(args.images, include_paths=True)
    found = files.map_batches(
        YOLO26Predictor,
        fn_constructor_kwargs={"artifact": str(Path(args.artifact).resolve())},
        batch_size=args.batch_size,
        compute=ray.data.ActorPoolStrategy(size=args.concurrency),
        num_gpus=args.num_gpus,
    )
    found.write_parquet(args.out)

    objects: Counter[str] = Counter()
    rows = dataset(args.out).to_table(columns=["path", "names", "error"]).to_pylist()
    for row in sorted(rows, key=lambda row: row["path"]):
        if row["error"]:
            print(f"{row['path']}: {row['error']}")
        else:
            objects.update(row["names"])
    print(f"{len(rows)} images, {sum(objects.values())} objects:")
    for name, count in objects.most_common():
        print(f"{count:8} {name}")


if __name__ == "__main__":
    main()
