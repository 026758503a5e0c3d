"""ExecuTorch's own runtime on small programs; `tests/test_export.py` runs whole models through it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from check_runners import in_threads, mistakes
from support import make_manifest, publish, unverified, xnnpack_program
from yolo26_executorch.artifacts.manifest import PROGRAM, Manifest
from yolo26_executorch.artifacts.reading import Artifact
from yolo26_executorch.errors import ArtifactError, InputError
from yolo26_executorch.models.tasks import TensorSpec
from yolo26_executorch.runtime import executorch as module
from yolo26_executorch.runtime.executorch import ExecuTorchRunner, obstacle
from yolo26_executorch.system.requirements import Usable

SHAPE = (1, 3, 8, 8)


class Net(nn.Module):
    """A convolution, and a sum outside the delegate; where a value stands in the picture matters to both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(images), torch.cumsum(images, dim=-1)


def manifest(**changes: Any) -> Manifest:
    outputs = (
        TensorSpec("features", (1, 4, 6, 6), "float32", ""),
        TensorSpec("sums", SHAPE, "float32", ""),
    )
    spec = TensorSpec("images", SHAPE, "float32", "pictures")
    return make_manifest(backend="xnnpack", **{"input": spec, "outputs": outputs, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = xnnpack_program(Net(), torch.zeros(SHAPE))
    return publish(tmp_path_factory.mktemp("artifacts"), manifest(), program)


def opened(folder: Path) -> ExecuTorchRunner:
    with Artifact.open(folder) as artifact:
        return ExecuTorchRunner(artifact)


def pictures(seed: int) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_outputs_by_name(folder: Path) -> None:
    with opened(folder) as runner, torch.no_grad():
        assert (runner.name, runner.input, runner.outputs) == ("executorch", manifest().input, manifest().outputs)
        for seed in (1, 2, 1):
            given = runner(pictures(seed))
            assert list(given) == ["features", "sums"]
            for output, expected in zip(given.values(), Net()(pictures(seed)), strict=True):
                torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_only_the_outputs_asked_for_are_given(folder: Path) -> None:
    with opened(folder) as runner:
        every = runner(pictures(1))
        some = runner(pictures(1), outputs=["sums"], on_device=True)
        assert list(some) == ["sums"]
        assert torch.equal(some["sums"], every["sums"])
        with pytest.raises(InputError, match="expected outputs among features, sums, given masks"):
            runner(pictures(1), outputs=["masks"])


def test_outputs_of_one_call_outlive_the_next(folder: Path) -> None:
    """The runtime may hand out its own memory."""
    with opened(folder) as runner:
        first = runner(pictures(1))
        kept = {name: output.clone() for name, output in first.items()}
        runner(pictures(2))
    assert all(torch.equal(first[name], kept[name]) for name in kept)


def test_a_strided_picture_gives_what_a_contiguous_one_gives(folder: Path) -> None:
    picture = pictures(3)
    strided = picture.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    with opened(folder) as runner:
        expected = {name: output.clone() for name, output in runner(picture).items()}
        for images in (
            strided,
            strided.double(),
            strided.numpy(),
            picture.transpose(2, 3).contiguous().transpose(2, 3),
        ):
            given = runner(images)
            assert all(torch.equal(given[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 8, 8, 3), torch.zeros(SHAPE, dtype=torch.uint8), torch.full(SHAPE, 255.0), torch.zeros(3)]
)
def test_wrong_input_is_refused_and_the_runner_goes_on(folder: Path, images: Tensor) -> None:
    with opened(folder) as runner:
        with pytest.raises(InputError):
            runner(images)
        assert runner(pictures(1))["sums"].shape == SHAPE


def test_threads_get_the_outputs_of_their_own_pictures(folder: Path) -> None:
    with opened(folder) as runner:
        own = [[(pictures(seed), runner(pictures(seed))) for seed in range(8 * i, 8 * i + 8)] for i in range(4)]
        assert in_threads([lambda each=each: mistakes(runner, each, 100) for each in own]) == 0  # type: ignore[misc]


def test_closing_twice_is_no_error(folder: Path) -> None:
    runner = opened(folder)
    runner.close()
    runner.close()


def test_a_file_that_is_no_program_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / PROGRAM).write_bytes(b"no program" * 100)
    with (
        unverified(tmp_path, manifest()) as artifact,
        pytest.raises(ArtifactError, match="ExecuTorch could not load") as caught,
    ):
        ExecuTorchRunner(artifact)
    assert "\n" not in str(caught.value)


def test_what_stands_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert obstacle(manifest()) is None
    reason = obstacle(make_manifest(backend="cuda"))
    assert reason is not None
    assert reason.startswith("this ExecuTorch has no CudaBackend: ")
    assert "./install_executorch.sh" in reason
    monkeypatch.setattr(
        module, "executorch_runtime_fits", lambda: Usable(False, "torch 2.11 and 1.5.1", "pip install x")
    )
    monkeypatch.setattr(module, "_bindings", lambda: pytest.fail("the runtime was loaded"))
    assert obstacle(manifest()) == "torch 2.11 and 1.5.1; pip install x"


def test_another_name_of_the_extension_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in releases of ExecuTorch that call it otherwise."""
    place = "executorch.extension.pybindings"
    stub = ModuleType(f"{place}.portable_lib")
    monkeypatch.setitem(sys.modules, f"{place}._C", None)
    monkeypatch.delattr(f"{place}._C", raising=False)
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    assert module._bindings.__wrapped__() is stub


def test_importing_it_loads_neither_pytorch_nor_executorch() -> None:
    source = importlib.import_module("inspect").getsource(module)
    assert "\nimport torch" not in source.split("if TYPE_CHECKING:")[0]
