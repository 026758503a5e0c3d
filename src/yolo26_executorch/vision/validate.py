"""Accuracy on a labelled data set: Ultralytics' own validators over a runner, beside PyTorch where that is asked for.

How images are fitted and matched, and every metric, is Ultralytics' (`validators.py`). PyTorch's side is Ultralytics'
own, too, without any code of ours between the checkpoint and what it predicts, and both sides' predictions are compared
image by image (`agreement.py`): metrics do not show a fault that both sides share, nor small ones that all masks have.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.reading import Artifact, opened
from ..models import checkpoints
from ..models.tasks import TASKS
from ..system.probe import versions

if TYPE_CHECKING:
    from .agreement import Agreement
    from .validators import Validation

SPLITS = ("val", "test", "train")

_WORKERS = 8
"""Ultralytics' own number of processes that read images."""

COMPARED_IMAGES = 200
"""Images of which predictions are compared, evenly spread over the data set."""


@dataclass(frozen=True)
class Measured:
    """What one model reached."""

    runner: str
    device: str
    metrics: dict[str, float]
    """By Ultralytics' own keys, such as metrics/mAP50-95(B): B boxes, M masks, P keypoints. 0..1, but of depth rmse in
    metres, silog in hundredths of a natural logarithm, and abs_rel, which has no upper limit."""
    speed_ms: dict[str, float]
    """Milliseconds an image of each step; "inference" holds the copies to and from the model."""


@dataclass(frozen=True)
class ValReport:
    """An artifact's accuracy on a data set and, if asked for, the accuracy of the checkpoint it was made from."""

    name: str
    task: str
    backend: str
    precision: str
    imgsz: tuple[int, int]
    """Height and width of the model's input, pixels."""
    batch: int
    data: str
    split: str
    pictures: int
    instances: int
    """Labelled objects; where none are labelled one by one, the images."""
    skipped: dict[str, str]
    """Pictures that count for nothing because they, or their labels, are damaged, and what is wrong with each."""
    artifact: Measured
    pytorch: Measured | None
    """The checkpoint in Ultralytics' PyTorch, fp32, over the same images in the same way."""
    versions: dict[str, str]
    created: str
    """ISO 8601, UTC."""
    agreement: Agreement | None = None
    """How far the predictions of both agree, image by image, on at most `COMPARED_IMAGES` of them."""

    @property
    def compared(self) -> tuple[str, ...]:
        """The metrics that a difference is judged by; see `Task.metrics`."""
        return TASKS[self.task].metrics

    @property
    def primary(self) -> str:
        """The metric of the task itself: mAP50-95 of boxes, masks or keypoints, top-1, mIoU or delta1."""
        return self.compared[-1]

    @property
    def differences(self) -> dict[str, float] | None:
        """Each metric's difference, artifact - PyTorch; None where PyTorch was not asked for."""
        if self.pytorch is None:
            return None
        return {key: value - self.pytorch.metrics[key] for key, value in self.artifact.metrics.items()}

    @property
    def largest_difference(self) -> float | None:
        """The largest of the `compared` metrics' differences, without its sign."""
        found = self.differences
        return None if found is None else max(abs(found[key]) for key in self.compared)

    def within(self, limit: float) -> bool:
        """Whether each `compared` metric lies at most so far from PyTorch's; a figure that is no number does not."""
        found = self.differences
        return found is None or all(abs(found[key]) <= limit for key in self.compared)

    @property
    def disagreements(self) -> list[str]:
        """What of the predictions lies farther from PyTorch's than the artifact's precision explains, in words."""
        return [] if self.agreement is None else self.agreement.failures(self.precision)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        more = ("primary", "differences", "largest_difference", "disagreements")
        return {**asdict(self), **{name: getattr(self, name) for name in more}}


def validate(
    folder: Artifact | Path | str,
    data: Path | str,
    *,
    split: str = "val",
    runner: str = "auto",
    checkpoint: Path | None = None,
    weights_dir: Path | None = None,
    trusted: bool = False,
    against_pytorch: bool = False,
    save_dir: Path | None = None,
    plots: bool = False,
    progress: bool = False,
) -> ValReport:
    """Measure an artifact's accuracy.

    Args:
        folder: the artifact, or its folder.
        data: a data.yaml in Ultralytics' format; for classify the folder that holds a folder of each split.
        split: one of `SPLITS`.
        runner: see `runtime.open_runner`.
        checkpoint: where the artifact's checkpoint is; this, `weights_dir` and `trusted` as in
            `weights.find_checkpoint`, and for `against_pytorch` alone.
        weights_dir: the folder where it is.
        trusted: whether it may run code.
        against_pytorch: measure the checkpoint, too, and compare both sides' predictions image by image.
        save_dir: where plots go, `runs/val/NAME` unless said; PyTorch's into a folder `pytorch` in it.
        plots: draw Ultralytics' curves, confusion matrices and images.
        progress: show Ultralytics' progress on standard error.

    Raises:
        UsageError: the data set is missing, damaged or not one for this model.
        CheckpointError: the checkpoint is not to be found.
        ArtifactError: as `runtime.open_runner`.
    """
    from ..models.export_model import float32_precision, products
    from ..parity.baseline import device_of
    from .ultralytics_backend import RunnerBackend, pytorch_backend
    from .validators import Validation, find_data

    with opened(folder) as artifact:
        manifest = artifact.manifest
        found = find_data(data, split, manifest)
        network = checkpoints.find_checkpoint(manifest, checkpoint, weights_dir, trusted) if against_pytorch else None
        backend = RunnerBackend.open(artifact, runner)
    plots_dir = (save_dir or Path("runs", "val", manifest.name)) if plots else None
    device = device_of(manifest)
    workers = _WORKERS if device == "cuda" else 0  # a CPU is busy with the model
    pytorch, agreement = None, None
    with contextlib.closing(backend):
        run = Validation(TASKS[manifest.task], found, split, workers=workers, progress=progress)
        measured = _measured(run, backend, backend.runner.name, device, plots_dir)
        if network is not None:
            options = manifest.options
            reference = pytorch_backend(network, imgsz=options.size, batch=options.batch, device=device)
            with float32_precision(products("fp32")):
                pytorch = _measured(run, reference, "eager", device, plots_dir / "pytorch" if plots_dir else None)
                agreement = run.compare(backend, reference, COMPARED_IMAGES)
    return ValReport(
        name=manifest.name,
        task=manifest.task,
        backend=manifest.backend,
        precision=manifest.precision,
        imgsz=manifest.options.size,
        batch=manifest.options.batch,
        data=str(data),
        split=split,
        pictures=run.pictures,
        instances=run.instances,
        skipped=run.skipped,
        artifact=measured,
        pytorch=pytorch,
        agreement=agreement,
        versions=versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _measured(run: Validation, backend: Any, runner: str, device: str, plots_dir: Path | None) -> Measured:
    import torch

    metrics, speed_ms = run(backend, plots_dir)
    return Measured(runner, torch.cuda.get_device_name() if device == "cuda" else device, metrics, speed_ms)
