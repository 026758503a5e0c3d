"""Export a variant for described GPUs, as the command does on a machine without one.

    python without_gpu.py BASE_PATH VARIANT PRECISION CAPABILITY …

The H100's L2 cache is taken to be 1 MiB, so that a small model's kernels overlap there as a large one's do. Prints the
export's record as JSON, and copies what Inductor wrote for the last GPU to BASE_PATH/wrapper.cpp.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from yolo26_executorch.exporter.jobs import Job
from yolo26_executorch.lowering.gpus import GPUS
from yolo26_executorch.lowering.target import MIB
from yolo26_executorch.models.checkpoints import find_sources
from yolo26_executorch.models.options import ExportOptions


def main(base_path: str, name: str, precision: str, *architectures: str) -> None:
    from yolo26_executorch.exporter.pipeline import export_one

    GPUS[9, 0] = GPUS[9, 0]._replace(l2_bytes=MIB)
    [source] = find_sources([name])
    options = ExportOptions(backend="cuda", precision=precision, imgsz=(320, 320), random_weights=True)
    job = Job(
        source, Path(base_path), options, weights_dir=None, test=True, skip_existing=False, trusted=False,
        command="yolo26-et export", architectures=architectures,
    )  # fmt: skip
    record = export_one(job, lambda event: print(json.dumps(event), file=sys.stderr, flush=True))
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    wrappers = sorted(Path(cache_dir()).rglob("*.wrapper.cpp"), key=lambda path: path.stat().st_mtime)
    shutil.copy(wrappers[-1], Path(base_path) / "wrapper.cpp")
    print(json.dumps(record.to_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
