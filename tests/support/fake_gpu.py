"""A GPU that is not there: what `runtime.gpu` asks of one, done on the CPU, and a model for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support import make_manifest
from yolo26_executorch.artifacts.program_file import CudaPayload
from yolo26_executorch.artifacts.reading import Artifact
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.tasks import TensorSpec
from yolo26_executorch.runtime import aoti, gpu, shared_object
from yolo26_executorch.runtime.aoti import AotiRunner

IMAGES = TensorSpec("images", (1, 3, 4, 4), "float32", "RGB images")
OUTPUTS = (TensorSpec("sums", (1, 3), "float32", ""), TensorSpec("doubled", (1, 3, 4, 4), "float32", ""))


class FakeGpus:
    """GPUs whose graphs are replayed by this machine, slowly enough for other threads to come between.

    Everything that belongs to a device has to be asked for while that is the current one; otherwise the test fails.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self.captured: list[torch.device] = []
        self.waited: list[torch.device] = []

    @property
    def current(self) -> torch.device:
        """The current GPU of this thread."""
        return getattr(self._local, "device", torch.device("cuda", 0))

    @contextlib.contextmanager
    def using(self, device: torch.device) -> Iterator[None]:
        before, self._local.device = self.current, device
        try:
            yield
        finally:
            self._local.device = before

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def wait_for_device(self, device: torch.device) -> None:
        self.waited.append(device)

    def capture(
        self, run: Callable[[Tensor], Sequence[Tensor]], spec: TensorSpec, device: torch.device
    ) -> gpu.Captured:
        batch = gpu.zeros(spec, torch.device("cpu"))
        with self.using(device), torch.inference_mode(False):  # a graph writes to memory of any kind
            outputs = [output.clone() for output in run(batch)]
        self.captured.append(device)

        def replay() -> None:
            assert self.current == device, f"{self.current} is current, and the graph is {device}'s"
            seen = batch.clone()
            time.sleep(1e-4)
            for held, output in zip(outputs, run(seen), strict=True):
                held.copy_(output)
            time.sleep(1e-4)

        return gpu.Captured(batch, outputs, replay)


class FakeEvent:
    """An event of the GPU that is current when it is first recorded; never to be waited for on another's stream."""

    def __init__(self, gpus: FakeGpus) -> None:
        self._gpus = gpus
        self.device: torch.device | None = None

    def record(self) -> None:
        self.device = self.device or self._gpus.current
        assert self.device == self._gpus.current

    def wait(self) -> None:
        assert self.device in (None, self._gpus.current)

    def synchronize(self) -> None:
        pass


class FakeModel:
    """What stands for a loaded shared object."""

    def __init__(self, device: torch.device, gpus: FakeGpus) -> None:
        self.device, self.gpus = device, gpus
        self.closed = 0

    def run(self, batch: Tensor) -> list[Tensor]:
        assert self.gpus.current == self.device
        return [batch.sum((2, 3)), batch * 2]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Put fake GPUs in the place of PyTorch's."""
    fake = FakeGpus()
    for name in ("using", "event", "capture", "wait_for_device"):
        monkeypatch.setattr(gpu, name, getattr(fake, name))
    monkeypatch.setattr(gpu, "is_capturing", lambda: False)
    monkeypatch.setattr(gpu, "wait_for_stream", lambda: time.sleep(1e-4))
    monkeypatch.setattr(shared_object, "open_model", lambda payload, device: FakeModel(device, fake))
    monkeypatch.setattr(aoti, "read_cuda_payload", lambda program, weights: CudaPayload(b"", (), ()))
    return fake


def fake_runner(index: int = 0, *, io: str = "host") -> Any:
    """Return a CUDA artifact's runner on a fake GPU."""
    options = ExportOptions(backend="cuda", io=io)
    manifest = make_manifest(input=IMAGES, outputs=OUTPUTS, options=options)
    return AotiRunner(Artifact(Path("nowhere"), manifest, {}), torch.device("cuda", index))


def images(seed: int) -> Tensor:
    """Return a batch of the fake model's."""
    return torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(seed))
