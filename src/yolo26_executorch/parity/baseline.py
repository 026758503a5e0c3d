"""PyTorch's answers for the checkpoint that an artifact was made from, and the comparison with them.

The one body of the test after an export (`trial`) and of `yolo26-et verify` (`verification`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ..artifacts.manifest import Manifest, computed_precision
from ..models.checkpoints import Checkpoint
from ..models.export_model import Dense, ExportModel
from ..runtime.eager import EagerRunner
from . import compare, tolerance_scaling
from .records import ParityReport

if TYPE_CHECKING:
    from torch import Tensor

Answers: TypeAlias = "Mapping[str, Dense | Tensor]"
"""PyTorch's predictions of a batch before the ranking, by precision: the artifact's own first, and fp32. For tf32 there
is `OPERANDS`, too."""

OPERANDS = "tf32 operands"
"""fp32 with every operand rounded to tf32: nothing to compare with, but what shows how far rounding leads."""


def device_of(manifest: Manifest) -> str:
    """Return the device, "cuda" or "cpu", that an artifact runs on and is compared on."""
    return "cuda" if manifest.backend == "cuda" else "cpu"


def precision_of(manifest: Manifest) -> str:
    """Return the precision that an artifact computes in."""
    return computed_precision(manifest.backend, manifest.options.precision)


class Reference:
    """Eager PyTorch in the artifact's precision and in fp32; for tf32 also as `rounding` wants to see it."""

    def __init__(self, manifest: Manifest, checkpoint: Checkpoint) -> None:
        self._manifest = manifest
        self._task = checkpoint.task
        self._eager: dict[str, EagerRunner] = {}

        def model(precision: str) -> ExportModel:
            own = replace(checkpoint, network=copy.deepcopy(checkpoint.network))  # ExportModel fuses and casts it
            return ExportModel(own, replace(manifest.options, precision=precision))

        for precision in dict.fromkeys((precision_of(manifest), "fp32")):
            self._eager[precision] = EagerRunner(model(precision), device_of(manifest))
        if precision_of(manifest) == "tf32":
            operands = model("fp32")
            tolerance_scaling.round_operands(operands)
            self._eager[OPERANDS] = EagerRunner(operands, device_of(manifest))

    def answers(self, batch: Tensor) -> Answers:
        """Return PyTorch's predictions of an input of the artifact's."""
        return {precision: eager.reference(batch) for precision, eager in self._eager.items()}

    def compare(
        self, given: Mapping[str, Tensor], answers: Answers, image: int | None = None
    ) -> dict[str, ParityReport]:
        """Compare an artifact's outputs, by name, with PyTorch's answers for the same input.

        `image` picks one picture of the batch; None takes all of it. Returns a report for each precision of PyTorch's,
        under "eager fp32" and the like.
        """
        manifest, precision = self._manifest, precision_of(self._manifest)
        specs = manifest.outputs
        if image is not None:
            specs = tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in specs)
            given = {name: output[image : image + 1] for name, output in given.items()}
            answers = {name: _picture(answer, image) for name, answer in answers.items()}
        tolerances = tolerance_scaling.stretched(
            self._task, [answers[name] for name in (precision, OPERANDS) if name in answers], answers["fp32"],
            precision=precision, keypoint_shape=manifest.keypoint_shape,
        )  # fmt: skip
        return {
            f"eager {name}": compare.compare(
                self._task, specs, given, answer,
                precision=precision, keypoint_shape=manifest.keypoint_shape, tolerances=tolerances,
            )
            for name, answer in answers.items()
            if name != OPERANDS
        }  # fmt: skip


def _picture(answer: Dense | Tensor, image: int) -> Dense | Tensor:
    """Return one picture's predictions, still as a batch."""
    if not isinstance(answer, Dense):
        return answer[image : image + 1]
    parts = (answer.boxes, answer.scores, answer.extra, answer.protos)
    boxes, scores, extra, protos = (None if part is None else part[image : image + 1] for part in parts)
    assert boxes is not None and scores is not None and extra is not None
    return Dense(boxes, scores, extra, protos)
