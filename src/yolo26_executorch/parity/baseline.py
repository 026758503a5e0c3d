"""PyTorch's predictions of the checkpoint that an artifact was made from, and the comparison with them.

The one body of the smoke test after an export and of `yolo26-et verify`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ..artifacts.manifest import Manifest
from ..models.checkpoints import Checkpoint
from ..models.export_model import Dense, ExportModel
from ..runtime.eager import EagerRunner
from . import compare, tolerance_scaling
from .records import ParityReport

if TYPE_CHECKING:
    from torch import Tensor

Predictions: TypeAlias = "Mapping[str, Dense | Tensor]"
"""PyTorch's predictions of a batch before the ranking, by precision: the artifact's own first, and fp32. For tf32 there
is `OPERANDS`, too."""

OPERANDS = "tf32 operands"
"""fp32 with every operand rounded to tf32: not compared with; it shows what rounding to tf32 costs at most."""


def device_of(manifest: Manifest) -> str:
    """Return the device, "cuda" or "cpu", that an artifact runs on and is compared on."""
    return "cuda" if manifest.backend == "cuda" else "cpu"


class Reference:
    """Eager PyTorch in the artifact's precision and in fp32; for tf32 also as `tolerance_scaling` wants it."""

    def __init__(self, manifest: Manifest, checkpoint: Checkpoint, device: str | None = None) -> None:
        """`device` is what PyTorch computes on; None is the artifact's own, `device_of`."""
        device = device or device_of(manifest)
        self._manifest = manifest
        self._task = checkpoint.task
        self._eager: dict[str, EagerRunner] = {}

        def model(precision: str) -> ExportModel:
            own = replace(checkpoint, network=copy.deepcopy(checkpoint.network))  # ExportModel fuses and casts it
            return ExportModel(own, replace(manifest.options, precision=precision))

        for precision in dict.fromkeys((manifest.precision, "fp32")):
            self._eager[precision] = EagerRunner(model(precision), device)
        if manifest.precision == "tf32":
            operands = model("fp32")
            tolerance_scaling.round_operands(operands)
            self._eager[OPERANDS] = EagerRunner(operands, device)

    def predictions(self, batch: Tensor) -> Predictions:
        """Return PyTorch's predictions of an input of the artifact's."""
        return {precision: eager.reference(batch) for precision, eager in self._eager.items()}

    def compare(
        self, given: Mapping[str, Tensor], predictions: Predictions, image: int | None = None
    ) -> dict[str, ParityReport]:
        """Compare an artifact's outputs, by name, with PyTorch's predictions for the same input.

        `image` picks one image of the batch; None takes all of it. Returns a report for each precision of PyTorch's,
        under "eager fp32" and the like.
        """
        manifest, precision = self._manifest, self._manifest.precision
        specs = manifest.outputs
        if image is not None:
            specs = tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in specs)
            given = {name: output[image : image + 1] for name, output in given.items()}
            predictions = {name: _one_image(prediction, image) for name, prediction in predictions.items()}
        tolerances = tolerance_scaling.scaled_tolerances(
            self._task, [predictions[name] for name in (precision, OPERANDS) if name in predictions],
            predictions["fp32"], precision=precision, keypoint_shape=manifest.keypoint_shape,
        )  # fmt: skip
        return {
            f"eager {name}": compare.compare(
                self._task, specs, given, prediction,
                precision=precision, keypoint_shape=manifest.keypoint_shape, tolerances=tolerances,
            )
            for name, prediction in predictions.items()
            if name != OPERANDS
        }  # fmt: skip


def _one_image(prediction: Dense | Tensor, image: int) -> Dense | Tensor:
    """Return one image's predictions, still as a batch."""
    if not isinstance(prediction, Dense):
        return prediction[image : image + 1]
    parts = (prediction.boxes, prediction.scores, prediction.extra, prediction.protos)
    boxes, scores, extra, protos = (None if part is None else part[image : image + 1] for part in parts)
    assert boxes is not None and scores is not None and extra is not None
    return Dense(boxes, scores, extra, protos)
