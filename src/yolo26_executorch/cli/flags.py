"""Flags that several subcommands share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..artifacts.reading import load_manifest
from ..errors import BackendError, OptionError
from ..models.options import RUNNERS


def add_runner(group: Any) -> None:
    """Add `--runner`, which `runtime.open_runner` takes."""
    group.add_argument(
        "--runner", choices=RUNNERS, default="auto",
        help="what runs the artifact: executorch, the official runtime, or aoti, a CUDA artifact's shared object in "
        "PyTorch; auto: the official one where it can (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--device", metavar="N", help="the GPU that a CUDA artifact runs on, by its number (default: the first)"
    )


def use_device(number: str | None, folder: Path) -> None:
    """Make one GPU the current one, on which everything is then opened; None leaves PyTorch's choice.

    Args:
        number: the GPU's, or "cpu".
        folder: the artifact that is to run there.

    Raises:
        OptionError: that is no number, or the artifact cannot run there.
        BackendError: there is no such GPU.
        ArtifactError: the folder is no artifact.
    """
    if number is None or _is_cpu(number, folder):
        return
    index = _gpu_number(number)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        have = f"GPUs {', '.join(map(str, range(count)))}" if count else "none"
        raise BackendError(f"--device {number}: no such GPU; PyTorch sees {have}, and `nvidia-smi` lists all")
    torch.cuda.set_device(index)


def show_device(number: str | None, folders: Sequence[Path]) -> None:
    """Let the processes that are started from now on see one GPU alone; None leaves all of them to them.

    It must come before this process asks CUDA for its GPUs; raises as `use_device`.
    """
    if number is None:
        return
    on_cpu = [_is_cpu(number, folder) for folder in folders]  # each of them can run there, or is refused
    if any(on_cpu):
        return
    index = _gpu_number(number)
    # Where the variable is set already, numbers count within it.
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[index] if index < len(visible) else number


def _is_cpu(word: str, folder: Path) -> bool:
    """Whether the CPU is asked for, and an artifact can run there; raises OptionError where it cannot."""
    if word != "cpu":
        return False
    if load_manifest(folder).backend == "cuda":
        raise OptionError(
            f"--device cpu: {folder} was exported for CUDA; `yolo26-et export … --backend xnnpack` makes one for CPUs"
        )
    return True


def _gpu_number(word: str) -> int:
    if not word.isdecimal():
        raise OptionError(f"--device {word}: expected a GPU's number, or cpu; try --device 0")
    return int(word)


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
