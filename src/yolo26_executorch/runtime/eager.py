"""The checkpoint itself in PyTorch: what every exported model is measured against."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.export_model import Dense, ExportModel, float32_precision, products
from .runner import BaseRunner, choose, prepare

if TYPE_CHECKING:
    from .runner import Images


_flags = threading.RLock()
"""Held while PyTorch's flags for float32 are a model's: they are the whole process'."""


class EagerRunner(BaseRunner):
    """An `ExportModel` behind the runners' protocol, on the CPU or a GPU."""

    name = "eager"

    def __init__(self, model: ExportModel, device: str = "cpu") -> None:
        super().__init__()
        self.input = model.input_spec
        self.outputs = model.output_specs
        self.device = torch.device(device)
        self._precision = model.options.precision
        self._model = model.to(device)
        self._model.move_anchors(device)

    def __call__(
        self, images: Images, *, outputs: Sequence[str] | None = None, on_device: bool = False
    ) -> dict[str, Tensor]:
        """Run one batch; see `Runner`."""
        chosen = choose(self.outputs, outputs)
        self._owner.check()
        batch = prepare(images, self.input)
        with self._computing():
            results = self._model(batch.to(self.device))
            device = self.device if on_device else "cpu"
            return {self.outputs[index].name: results[index].to(device) for index in chosen}

    def reference(self, images: Images) -> Dense | Tensor:
        """Return what the model's outputs are compared with, on the CPU; see `ExportModel.reference`."""
        self._owner.check()
        batch = prepare(images, self.input).to(self.device)
        with self._computing():
            found = self._model.reference(batch)
        if isinstance(found, Tensor):
            return found.cpu()
        protos = None if found.protos is None else found.protos.cpu()
        return Dense(found.boxes.cpu(), found.scores.cpu(), found.extra.cpu(), protos)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with self._exclusive(), _flags, torch.inference_mode(), float32_precision(products(self._precision)):
            yield
