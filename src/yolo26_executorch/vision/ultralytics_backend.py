"""A runner in the place of Ultralytics' `AutoBackend`.

Ultralytics' predictors and validators know a model by the attributes and the output layout of
`ultralytics/nn/autobackend.py` (8.4). This is the only file of ours that knows them, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import runtime
from ..artifacts.folder import load_manifest
from ..models.tasks import TASKS, Task

if TYPE_CHECKING:
    from typing_extensions import Self

STRIDE = 32
"""The coarsest stride of YOLO26's heads, pixels; sizes that were exported are multiples of it (or a task's own)."""


class RunnerBackend(nn.Module):
    """A runner with the face of Ultralytics' backend for an exported model of one fixed shape.

    The attributes are those that Ultralytics reads; "executorch" is its own name of the format. Masks come at a quarter
    of the input's resolution, already 0 or 1, so that edges of masks drawn at full resolution may lie elsewhere than
    PyTorch's by a part of those four pixels.
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
        # Ultralytics' predictors may be used in several threads, a model in one at a time.
        self._lock = threading.Lock()
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
    def open(cls, folder: Path | str, runner: str = "auto") -> Self:
        """Open an artifact; arguments and errors are those of `open_runner`."""
        opened = runtime.open_runner(folder, runner=runner)
        manifest = load_manifest(Path(folder))
        return cls(opened, task=TASKS[manifest.task], names=manifest.classes, keypoint_shape=manifest.keypoint_shape)

    def close(self) -> None:
        """Close the runner."""
        self.runner.close()

    def warmup(self, *_: object, **__: object) -> None:
        """Do nothing: the runners need no warming up."""

    def forward(self, images: Tensor, *_: object, **__: object) -> Tensor | list[Tensor]:
        """Run pictures through the model, however many there are.

        Args:
            images: float32 (b, 3, H, W), RGB, 0..1, on any device; cut into, and filled up to, batches of the model's.
                Other arguments are Ultralytics' wishes to a PyTorch model (`augment`, `embed`), and mean nothing here.

        Returns:
            What Ultralytics' end-to-end models return, on the same device: rows (b, K, 6 + values), sorted by
            confidence; for segment a list of such rows and prototypes (b, E, H/4, W/4), float32; for classify
            probabilities (b, classes).

        Raises:
            InputError: pictures of another size than the model's, or of values beyond 0..1.
        """
        parts = [self._run(part) for part in torch.split(images, self.batch)]
        first, *others = (torch.cat(tensors).to(images.device) for tensors in zip(*parts, strict=True))
        return [first, *others] if others else first

    def _run(self, images: Tensor) -> list[Tensor]:
        """Run at most one batch of the model's; returns its rows and, where there are any, prototypes."""
        count = len(images)
        if count < self.batch:
            images = torch.cat([images, images.new_zeros(self.batch - count, *images.shape[1:])])
        if self._takes_bytes:
            images = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        with self._lock:
            outputs = self.runner(images)
        given = {spec.name: outputs[spec.name][:count] for spec in self.runner.outputs}
        columns = self.runner.outputs[0].columns
        if "detections" not in given:  # `--outputs ultralytics` and probabilities are as Ultralytics has them
            return list(given.values())
        rows = _rows(given.pop("detections"), columns)
        if not given:
            return [rows]
        if "coefficients" in given:
            return [torch.cat([rows, given["coefficients"]], dim=-1), given["protos"]]
        ((name, values),) = given.items()
        return _MORE[name](rows, values)


def _rows(detections: Tensor, columns: tuple[str, ...]) -> Tensor:
    """Put named boxes (b, K, columns) into Ultralytics' order, and into corners where they have no angle."""
    box, rest = detections[..., :4], detections[..., 4:]
    if "angle" in columns:
        return torch.cat([box, rest.roll(-1, dims=-1)], dim=-1)  # angle, confidence, class: the angle goes last
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat([centre - half, centre + half, rest], dim=-1)


def _with_keypoints(rows: Tensor, keypoints: Tensor) -> list[Tensor]:
    return [torch.cat([rows, keypoints.flatten(2)], dim=-1)]


def _with_masks(rows: Tensor, masks: Tensor) -> list[Tensor]:
    """Say masks, 0 or 1 (b, K, H/4, W/4), as prototypes of which row k takes the k-th alone.

    Ultralytics multiplies coefficients with prototypes, calls inside what is above 0, and crops that to the box, which
    gives the same masks. Where it enlarges them first, what lies beyond the box counts, too: the masks' edges go on
    there, as PyTorch's would, that have not been cropped yet.
    """
    coefficients = torch.eye(masks.shape[1], dtype=rows.dtype, device=rows.device).expand(len(rows), -1, -1)
    corners = (rows[..., :4] / 4).ceil().long()[..., None]  # as masks are cropped: the first inside, the first behind
    for axis, low in ((2, 1), (3, 0)):
        size = masks.shape[axis]
        places = torch.arange(size, device=rows.device)
        first, last = (corners[:, :, low].clamp(0, size - 1), (corners[:, :, low + 2] - 1).clamp(0, size - 1))
        nearest = places.maximum(first).minimum(last)  # (b, K, size)
        masks = masks.gather(axis, nearest.unsqueeze(5 - axis).expand(masks.shape))
    return [torch.cat([rows, coefficients], dim=-1), masks.to(rows.dtype) * 2 - 1]


_MORE: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {"keypoints": _with_keypoints, "masks": _with_masks}
"""What is done with a row's other values, by the output's name."""
