"""Lower a variant to CUDA for a described GPU, as an export does on a machine without one.

    python without_gpu.py FOLDER VARIANT PRECISION CAPABILITY L2_MIB

writes model.pte, aoti_cuda_blob.ptd and wrapper.cpp. Everything is compiled and linked; nothing is run.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from yolo26_executorch.lowering.gpus import named
from yolo26_executorch.lowering.target import MIB


def main(folder: str, name: str, precision: str, capability: str, cache_mib: str) -> None:
    from yolo26_executorch.lowering import cuda
    from yolo26_executorch.models.checkpoints import find_sources, load
    from yolo26_executorch.models.export_model import ExportModel
    from yolo26_executorch.models.options import ExportOptions

    [gpu] = named([capability], precision)
    [source] = find_sources([name])
    options = ExportOptions(backend="cuda", precision=precision, imgsz=(320, 320))
    model = ExportModel(load(source, weights_dir=None, random=True, seed=0), options)
    gpu = gpu._replace(l2_bytes=int(cache_mib) * MIB)
    lowered = cuda.lower(model, options, lambda stage: print(stage, flush=True), [gpu])
    lowered.write(Path(folder), "model.pte")
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    [wrapper] = Path(cache_dir()).rglob("*.wrapper.cpp")
    shutil.copy(wrapper, Path(folder) / "wrapper.cpp")


if __name__ == "__main__":
    main(*sys.argv[1:])
