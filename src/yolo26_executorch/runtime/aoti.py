"""Run a CUDA artifact inside PyTorch, where ExecuTorch's CUDA delegate is not at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..artifacts.manifest import PROGRAM, WEIGHTS
from ..artifacts.program_file import read_cuda_payload
from ..artifacts.reading import Artifact
from . import gpu, shared_object
from .runner import BaseRunner, choose, prepare
from .staging import StagedCalls

if TYPE_CHECKING:
    from .runner import Images


class AotiRunner(BaseRunner):
    """The artifact's shared object, in this process and on one GPU.

    Calls replay a CUDA graph, captured at the first; `run` launches kernel by kernel. The object is native code: it is
    loaded from the very bytes whose hashes were checked.
    """

    name = "aoti"

    def __init__(self, artifact: Artifact, device: torch.device) -> None:
        super().__init__()
        manifest = artifact.manifest
        self.input = manifest.input
        self.outputs = manifest.outputs
        self.device = device
        self._on_host = manifest.options.io == "host"
        payload = read_cuda_payload(artifact.file(PROGRAM), artifact.file(WEIGHTS))
        if payload.variants:
            payload = payload.for_gpu(torch.cuda.get_device_capability(device))
        self._model = shared_object.open_model(payload, device)
        self._staged: StagedCalls | None = None
        """What calls replay."""
        self._lent: gpu.Captured | None = None
        """What `capture` has handed out."""

    def __call__(
        self, images: Images, *, outputs: Sequence[str] | None = None, on_device: bool = False
    ) -> dict[str, Tensor]:
        """Run one batch; see `Runner`.

        Artifacts made with `--io device` leave their outputs on the GPU, and so do all where the caller captures the
        current stream in a graph.
        """
        chosen = choose(self.outputs, outputs)
        self._owner.check()
        to_host = self._on_host and not on_device
        batch = prepare(images, self.input, check_values=not to_host)
        with self._exclusive(), gpu.using(self.device):
            if gpu.is_capturing():
                computed = self._model.run(batch.to(self.device))
                results = [computed[index] for index in chosen]
            else:
                staged = self._staged = self._staged or StagedCalls(self._capture(), self.input)
                results = staged(batch, chosen, to_host=to_host)
        return {self.outputs[index].name: result for index, result in zip(chosen, results, strict=True)}

    def run(self, batch: Tensor) -> list[Tensor]:
        """Run one contiguous batch on the GPU, on the current stream, and return the outputs there."""
        with self._exclusive(), gpu.using(self.device):
            return self._model.run(batch)

    def capture(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Capture one call in a CUDA graph of the caller's own.

        Returns:
            The input to write into and the outputs to read from; `replay` computes the second from the first, and
            plain calls touch neither. They are one set of tensors: threads that share them take turns by themselves.
        """
        with self._exclusive():
            self._lent = self._capture()
        return self._lent.batch, self._lent.outputs

    def replay(self) -> None:
        """Replay the captured call on the current stream of the runner's GPU."""
        self._owner.check()
        if self._lent is None:
            raise RuntimeError("capture() first")
        with gpu.using(self.device):
            self._lent.replay()

    def _capture(self) -> gpu.Captured:
        return gpu.capture(self._model.run, self.input, self.device)

    def _release(self) -> None:
        """Delete the graphs and the weights, once the GPU is done with them."""
        gpu.wait_for_device(self.device)
        self._staged = self._lent = None
        self._model.close()
