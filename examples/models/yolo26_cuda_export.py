"""Export YOLO26 models to ExecuTorch and test them: the guide's script, with the flags of `yolo26-et export`.

python examples/models/yolo26_cuda_export.py --base-path ./yolo26_cuda_exports
python examples/models/yolo26_cuda_export.py --models yolo26n yolo26s-seg
python examples/models/yolo26_cuda_export.py --no-test
python examples/models/yolo26_cuda_export.py --skip-existing
"""

from __future__ import annotations

import sys

from yolo26_executorch.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
