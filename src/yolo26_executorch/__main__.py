"""`python -m yolo26_executorch` is `yolo26-et`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
