"""A shared object as AOTInductor makes them, but for the CPU: its weights, and what opening it again does."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from yolo26_executorch.artifacts.program_file import CudaPayload, Weight
from yolo26_executorch.errors import ArtifactError
from yolo26_executorch.runtime import gpu, shared_object

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]

CPU = torch.device("cpu")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 8, bias=False)).eval()


class Two(nn.Module):
    """Two outputs, which the program has in the other order."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.inner(images)
        return found, found.sum(1)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    cache = tmp_path_factory.mktemp("inductor")
    options = {"aot_inductor.package_constants_in_so": False, "aot_inductor.precompile_headers": False}
    with warnings.catch_warnings(), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        program = torch.export.export(Two(network(0)), (torch.zeros(2, 8),)).module()
        path: Any = torch._inductor.aot_compile(program, (torch.zeros(2, 8),), options=options)
        return Path(path).read_bytes()


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shared_object, "_LIBRARIES", ("libc10.so", "libtorch_cpu.so"))
    monkeypatch.setattr(shared_object, "_idle", defaultdict(list))
    monkeypatch.setattr(gpu, "using", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    yield


def payload(library: bytes, net: nn.Module) -> CudaPayload:
    weights = [
        Weight(
            f"inner.{name}", weight.detach().numpy().tobytes(), weight.dtype, 0, tuple(weight.shape), weight.stride()
        )
        for name, weight in net.named_parameters()
    ]
    return CudaPayload(library, tuple(weights), (1, 0))


def right(model: shared_object.CompiledModel, net: nn.Module, seed: int) -> bool:
    batch = torch.rand(2, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = net(batch)
    sums, found = model.run(batch)
    return torch.allclose(found, expected, atol=1e-5) and torch.allclose(sums, expected.sum(1), atol=1e-5)


def test_each_has_its_own_weights(library: bytes) -> None:
    first, second = (shared_object.open_model(payload(library, network(seed)), CPU) for seed in (1, 2))
    for turn in range(2):
        assert right(first, network(1), turn)
        assert right(second, network(2), turn)
    assert not right(first, network(2), 0)


def test_what_was_closed_is_opened_again_with_other_weights(library: bytes) -> None:
    first = shared_object.open_model(payload(library, network(1)), CPU)
    second = shared_object.open_model(payload(library, network(2)), CPU)
    assert right(first, network(1), 0)
    first.close()
    assert all(weight.untyped_storage().nbytes() == 0 for weight in first._weights)
    assert right(second, network(2), 0)
    again = shared_object.open_model(payload(library, network(3)), CPU)
    assert again is first
    for turn in range(2):
        assert right(again, network(3), turn)
        assert right(second, network(2), turn)
    other = shared_object.open_model(payload(library, network(4)), CPU)
    assert other not in (first, second)
    assert right(other, network(4), 0)


def test_opening_and_closing_leaves_nothing(library: bytes) -> None:
    """PyTorch's container leaves a reference of some bytes for each weight; nothing else may grow."""
    given = payload(library, network(1))

    def open_and_close(times: int) -> None:
        for _ in range(times):
            model = shared_object.open_model(given, CPU)
            model.run(torch.zeros(2, 8))
            model.close()

    open_and_close(200)
    before = psutil.Process().memory_info().rss
    open_and_close(2000)
    assert psutil.Process().memory_info().rss - before < 2000 * 512
    assert len([line for line in Path("/proc/self/maps").read_text().splitlines() if "model.so" in line]) < 12


def test_a_weight_that_is_missing_is_named(library: bytes) -> None:
    given = payload(library, network(1))
    with pytest.raises(ArtifactError, match=r"weight 'inner\.2\.weight' is not in .*export the model again"):
        shared_object.open_model(replace(given, weights=given.weights[:1]), CPU)


def test_models_of_another_layout_are_not_mixed_up(library: bytes) -> None:
    """The key tells everything but the weights' values."""
    given = payload(library, network(1))
    assert shared_object._key(given) == shared_object._key(payload(library, network(2)))
    moved = replace(given.weights[0], offset=1)
    for other in (
        replace(given, library=library + b"\0"),
        replace(given, order=(0, 1)),
        replace(given, weights=(moved, *given.weights[1:])),
    ):
        assert shared_object._key(given) != shared_object._key(other)


def test_the_private_copy_is_gone(library: bytes) -> None:
    shared_object.open_model(payload(library, network(1)), CPU)
    mapped = {
        line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "model.so" in line
    }
    assert mapped
    assert not any(Path(name).exists() for name in mapped)
