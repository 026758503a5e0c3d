"""A runner in the place of Ultralytics' `AutoBackend`.

Ultralytics' predictors and validators know a model by the attributes and the output layout of
`ultralytics/nn/autobackend.py` (8.4). This is the only file of ours that knows them, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import runtime
from ..artifacts.reading import Artifact, opened
from ..models.tasks import TASKS, Task
from ..runtime.runner import Owner

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..models.checkpoints import Checkpoint

LOG = logging.getLogger("yolo26_executorch")

STRIDE = 32
"""The coarsest stride of YOLO26's heads, pixels; sizes that were exported are multiples of it (or a task's own)."""


class RunnerBackend(nn.Module):
    """A runner behind the interface of Ultralytics' backend for an exported model of one fixed shape.

    The attributes are those that Ultralytics reads; "executorch" is its own name of the format. Images and outputs are
    on `device`, the one that the runner computes on, all the way: nothing goes over the host.
    """

    format = "executorch"
    end2end = True
    dynamic = False
    base_model = False
    fp16 = False
    nhwc = False
    channels = 3
    stride = STRIDE
    model = None
    """Where Ultralytics looks for a PyTorch module's own transforms and layers."""

    def __init__(
        self, runner: runtime.Runner, *, task: Task, names: Mapping[int, str], keypoint_shape: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.runner = runner
        self.owner = Owner()
        self._outputs = _outputs_needed(task, [spec.name for spec in runner.outputs])
        self.task = task.name
        self.names = dict(names)
        self.kpt_shape = keypoint_shape
        shape = runner.input.shape
        self._takes_bytes = runner.input.dtype == "uint8"
        self.batch = shape[0]
        self.imgsz = list(shape[1:3] if self._takes_bytes else shape[2:4])
        self.device = getattr(runner, "device", torch.device("cpu"))
        self.metadata: dict[str, Any] = {
            "task": self.task, "names": self.names, "stride": self.stride, "batch": self.batch, "imgsz": self.imgsz,
            "kpt_shape": self.kpt_shape, "channels": self.channels, "end2end": self.end2end, "dynamic": self.dynamic,
            "args": {},
        }  # fmt: skip
        self.eval()

    @classmethod
    def open(
        cls, folder: Artifact | Path | str, runner: str = "auto", device: torch.device | str | int | None = None
    ) -> Self:
        """Open an artifact; arguments and errors are those of `open_runner`."""
        with opened(folder) as artifact:
            manifest, ready = artifact.manifest, runtime.open_runner(artifact, runner=runner, device=device)
        return cls(ready, task=TASKS[manifest.task], names=manifest.classes, keypoint_shape=manifest.keypoint_shape)

    def close(self) -> None:
        """Close the runner."""
        self.runner.close()

    def warmup(self, *_: object, **__: object) -> None:
        """Do nothing: the runners need no warming up."""

    def forward(self, images: Tensor, *_: object, **__: object) -> Tensor | list[Tensor]:
        """Run any number of images through the model.

        Args:
            images: float32 or float16 (b, 3, H, W), RGB, 0..1, best on `device`; divided into batches of the model's
                size, of which the last is padded. Other arguments are Ultralytics' requests to a PyTorch model
                (`augment`, `embed`), and mean nothing here.

        Returns:
            What Ultralytics' end-to-end models return, on the images' device: rows (b, K, 6 + values), sorted by
            confidence; for segment a list of such rows and prototypes (b, E, H/4, W/4), float32; for classify
            probabilities (b, classes); of maps the logits of classes (b, classes, H/8, W/8), which Ultralytics enlarges
            itself, or depths (b, 1, H, W).

        Raises:
            InputError: images of another size than the model's, or of values beyond 0..1.
            UsageError: this process is a forked child of the one that opened the model.
        """
        self.owner.check()
        parts = [self._run(part) for part in torch.split(images, self.batch)]
        joined = parts[0] if len(parts) == 1 else [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
        first, *others = (tensor.to(images.device) for tensor in joined)
        return [first, *others] if others else first

    def _run(self, images: Tensor) -> list[Tensor]:
        """Run at most one batch; returns its rows and, where there are any, prototypes."""
        count = len(images)
        if count < self.batch:
            images = torch.cat([images, images.new_zeros(self.batch - count, *images.shape[1:])])
        if self._takes_bytes:
            images = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        outputs = self.runner(images, outputs=self._outputs, on_device=True)
        given = {name: outputs[name][:count] for name in self._outputs}
        if "detections" not in given:  # `--outputs ultralytics` and probabilities are as Ultralytics has them
            return list(given.values())
        rows = _rows(given.pop("detections"), self.runner.outputs[0].columns)
        for name, values in given.items():
            if name in _ROW_VALUES:
                rows = torch.cat([rows, values.flatten(2)], dim=-1)
            elif name == "masks":
                return _from_masks(rows, values)
        return [rows, given["protos"]] if "protos" in given else [rows]


def pytorch_backend(checkpoint: Checkpoint, *, imgsz: tuple[int, int], batch: int, device: str) -> Any:
    """Return Ultralytics' own backend of a checkpoint in fp32, with the end-to-end head, for `RunnerBackend`'s users.

    Nothing of ours lies between the checkpoint and the predictions; the checkpoint's network is fused and kept.

    Args:
        checkpoint: what an artifact was made from.
        imgsz: height and width of the artifact's input, pixels.
        batch: images at a time.
        device: "cpu" or "cuda".
    """
    from ultralytics.nn.autobackend import AutoBackend

    network: Any = checkpoint.network
    network.names = dict(checkpoint.names)
    made: Any = AutoBackend(
        network.float().eval(), device=torch.device(device), channels_last=False, end2end=True, verbose=False
    )
    inner = made.backend
    inner.task, inner.batch, inner.imgsz = checkpoint.task.name, batch, list(imgsz)
    return made


_ROW_VALUES = ("keypoints", "coefficients")
"""Outputs (b, K, …) that Ultralytics has behind a row's box, confidence and class."""


def _outputs_needed(task: Task, names: Sequence[str]) -> list[str]:
    """Return the outputs that Ultralytics' results are made of, without those that it makes of others itself."""
    made_from = {row.name: set(row.made_from) for row in task.named}
    if "masks" in names and not made_from["masks"] <= set(names):
        LOG.warning(
            "the artifact was exported by an earlier version: it has masks of a quarter of the input's resolution "
            "only, whose edges differ from PyTorch's; export it again"
        )
    return [name for name in names if not made_from.get(name) or not made_from[name] <= set(names)]


def _rows(detections: Tensor, columns: tuple[str, ...]) -> Tensor:
    """Put named boxes (b, K, columns) into Ultralytics' order, and into corners where they have no angle."""
    box, rest = detections[..., :4], detections[..., 4:]
    if "angle" in columns:
        return torch.cat([box, rest.roll(-1, dims=-1)], dim=-1)  # angle, confidence, class: the angle goes last
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat([centre - half, centre + half, rest], dim=-1)


def _from_masks(rows: Tensor, masks: Tensor) -> list[Tensor]:
    """Return masks (b, K, H/4, W/4) of 0 and 1 as rows and prototypes, for artifacts that have nothing else.

    Each mask becomes a prototype of -1 and 1 that only its own row takes, so that what Ultralytics thresholds at 0 is
    the mask. Where Ultralytics upsamples first, values outside the box count, too: they continue the mask's edges, as
    logits that have not been cropped yet would.
    """
    coefficients = torch.eye(masks.shape[1], dtype=rows.dtype, device=rows.device).expand(len(rows), -1, -1)
    corners = (rows[..., :4] / 4).ceil().long()[..., None]  # as masks are cropped: first inside, first behind
    for axis, low in ((2, 1), (3, 0)):
        size = masks.shape[axis]
        places = torch.arange(size, device=rows.device)
        first, last = (corners[:, :, low].clamp(0, size - 1), (corners[:, :, low + 2] - 1).clamp(0, size - 1))
        nearest = places.maximum(first).minimum(last)  # (b, K, size)
        masks = masks.gather(axis, nearest.unsqueeze(5 - axis).expand(masks.shape))
    return [torch.cat([rows, coefficients], dim=-1), masks.to(rows.dtype) * 2 - 1]
