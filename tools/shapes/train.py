"""Train YOLO26n on the drawn data sets with Ultralytics' own trainer: the checkpoints that are bundled in `weights/`.

`tools/train.py` runs it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from yolo26_executorch.models.tasks import TASKS, Task
from yolo26_executorch.system.probe import versions
from yolo26_executorch.vision.torchvision_shim import import_torchvision

from . import dataset

SEED = 26
VALIDATION = 300
"""Pictures that the metrics are of."""
METRICS = "metrics.json"


@dataclass(frozen=True)
class Recipe:
    """How one task's model is trained; what is not said here is Ultralytics' default."""

    epochs: int
    imgsz: int
    batch: int
    start_from: str | None = None
    """The task whose trained backbone it begins with; None begins with random weights."""
    more: tuple[tuple[str, Any], ...] = ()
    pictures: int = 4800
    """To train on."""


_PLAIN: tuple[tuple[str, Any], ...] = (
    ("optimizer", "AdamW"), ("lr0", 0.002), ("momentum", 0.9), ("cos_lr", True),
    # The scenes are as varied as can be, and drawing more of them is cheaper than changing the same ones.
    ("mosaic", 0.0), ("hsv_h", 0.0), ("hsv_s", 0.0), ("hsv_v", 0.0), ("scale", 0.3),
)  # fmt: skip
_UPSIDE_DOWN = (*_PLAIN, ("flipud", 0.5))
"""Not for keypoints: Ultralytics swaps left and right where it mirrors a picture, but not where it turns one over."""

RECIPES = {
    "detect": Recipe(12, 256, 16, None, _UPSIDE_DOWN),
    "segment": Recipe(6, 256, 16, "detect", _UPSIDE_DOWN),
    "pose": Recipe(12, 256, 16, "detect", _PLAIN),
    "obb": Recipe(8, 256, 16, "detect", _UPSIDE_DOWN),
    "classify": Recipe(12, 224, 32, "detect", (*_PLAIN, ("auto_augment", None), ("erasing", 0.1))),
    "semantic": Recipe(3, 256, 16, "detect", _UPSIDE_DOWN, 1600),
    # What is upside down is behind other things, and what is scaled is farther away or nearer than its label says.
    "depth": Recipe(3, 256, 16, "detect", (*_PLAIN, ("scale", 0.0), ("translate", 0.0)), 1600),
}
"""By task, in the order in which they are trained."""


def checkpoint_name(task: Task) -> str:
    """Return the file's name of a task's checkpoint."""
    return f"yolo26n-shapes{task.suffix}.pt"


def train(task: Task, output: Path, work: Path, *, recipe: Recipe, device: str | None = None) -> dict[str, Any]:
    """Train one task's model and put its checkpoint, fp16 and without the optimiser's state, into a folder.

    Args:
        task: what to train.
        output: folder of the checkpoints; `recipe.start_from`'s must be there already.
        work: folder of the data set and of the run, in which a training that was cut off is found again.
        recipe: how.
        device: as Ultralytics names it; None is the GPU where there is one.

    Returns:
        What is recorded of it: the validation's metrics, the recipe, time, device and versions.
    """
    import torch
    from ultralytics import YOLO

    import_torchvision()
    source = _data(task, work / "data" / task.name, recipe)
    last = work / "runs" / task.name / "weights" / "last.pt"
    began = time.perf_counter()
    arguments: dict[str, Any] = {"resume": True}
    if last.exists():
        model = YOLO(last)
    else:
        model = YOLO(f"yolo26n{task.suffix}.yaml")
        if recipe.start_from is not None:
            model.load(output / checkpoint_name(TASKS[recipe.start_from]))
        arguments = {
            "data": str(source), "epochs": recipe.epochs, "imgsz": recipe.imgsz, "batch": recipe.batch,
            "warmup_epochs": 0.5, "workers": 1, "seed": SEED,
            # Steps are few: take one a batch, instead of one for every 64 pictures.
            "nbs": recipe.batch,
            # Ultralytics would download a model to check fp16 with.
            "amp": "bf16" if _on_gpu(device) else False,
            "project": str(last.parents[2]), "name": task.name, "exist_ok": True, "plots": False, "val": False,
            "nms": False, "device": device, **dict(recipe.more),
        }  # fmt: skip
    if not _on_gpu(device):
        model.add_callback("on_train_start", _hasten)
    if not last.exists() or model.ckpt["epoch"] >= 0:  # it is -1 once the training has come to its end
        model.train(**arguments)
    output.mkdir(parents=True, exist_ok=True)
    part = output / (checkpoint_name(task) + ".part")
    _without_paths(last, part)  # the last epoch's weights, averaged; Ultralytics has stripped them to fp16
    part.replace(output / checkpoint_name(task))
    seconds = time.perf_counter() - began
    metrics = evaluate(task, output / checkpoint_name(task), source)
    return {
        "task": task.name,
        "file": checkpoint_name(task),
        "metrics": metrics,
        "recipe": {"epochs": recipe.epochs, "imgsz": recipe.imgsz, "batch": recipe.batch, "seed": SEED,
                   "start_from": recipe.start_from, **dict(recipe.more)},
        "pictures": {"train": recipe.pictures, "val": VALIDATION},
        "seconds": round(seconds),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


def _without_paths(source: Path, target: Path) -> None:
    """Copy a checkpoint, leaving out where on this machine its data and runs are."""
    import torch

    content = torch.load(source, map_location="cpu", weights_only=False)  # made here
    network = content["model"]
    arguments = getattr(network, "args", {})
    arguments = arguments if isinstance(arguments, dict) else vars(arguments)
    # "git" is of the repository that Ultralytics lies in.
    for holder in (content["train_args"], arguments, vars(network), content.get("git") or {}):
        for key, value in holder.items():
            if isinstance(value, str | Path) and Path(value).is_absolute():
                holder[key] = Path(value).name
    torch.save(content, target)


def _data(task: Task, folder: Path, recipe: Recipe) -> Path:
    """Return what Ultralytics takes as `data`, drawn unless all of it is there."""
    written = folder / "written"
    if not written.exists():
        pictures = {"train": recipe.pictures, "val": VALIDATION}
        written.write_text(str(dataset.write(folder, task.name, pictures, seed=SEED)), encoding="utf-8")
    return Path(written.read_text(encoding="utf-8"))


def _on_gpu(device: str | None) -> bool:
    import torch

    return torch.cuda.is_available() and device != "cpu"


def _hasten(trainer: Any) -> None:
    """Train in bf16 and channels last on a CPU, too: a third faster, but Ultralytics does so on GPUs alone."""
    import torch

    network = trainer.model.to(memory_format=torch.channels_last)
    network.forward = torch.autocast("cpu", torch.bfloat16)(network.forward)


def evaluate(task: Task, checkpoint: Path, data: Path, imgsz: int | None = None) -> dict[str, float]:
    """Return Ultralytics' metrics of a checkpoint on the validation pictures, by its own names for them."""
    from ultralytics import YOLO

    import_torchvision()
    side = imgsz or (RECIPES[task.name].imgsz if not task.ranked else 320)
    found = YOLO(checkpoint).val(data=str(data), imgsz=side, rect=False, nms=False, plots=False, verbose=False)
    return {name: round(float(value), 5) for name, value in found.results_dict.items()}
