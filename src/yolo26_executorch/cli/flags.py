"""Flags that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RUNNERS = ("auto", "executorch", "aoti")


def add_runner(group: Any) -> None:
    """Add `--runner`, which `runtime.open_runner` takes."""
    group.add_argument(
        "--runner", choices=RUNNERS, default="auto",
        help="what runs the artifact: executorch, the official runtime, or aoti, a CUDA artifact's shared object in "
        "PyTorch; auto: the official one where it can (default: %(default)s)",
    )  # fmt: skip


def add_checkpoint(group: Any) -> None:
    """Add the flags that `reference` finds an artifact's checkpoint by."""
    group.add_argument(
        "--checkpoint", type=Path, metavar="FILE",
        help="the .pt file that the artifact was made from; its SHA-256 is checked",
    )  # fmt: skip
    group.add_argument(
        "--weights-dir", type=Path, metavar="DIR",
        help="where that file is looked for first (then here, and in Ultralytics' weights folder)",
    )  # fmt: skip
    group.add_argument(
        "--trust-checkpoint", action="store_true",
        help="load a .pt file that holds more than weights and known classes; it runs whatever code its author chose",
    )  # fmt: skip
