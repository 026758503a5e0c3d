from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from support import make_manifest, publish, xnnpack_program
from yolo26_executorch.artifacts import program_file
from yolo26_executorch.artifacts.manifest import MANIFEST, PROGRAM, WEIGHTS, Platform
from yolo26_executorch.errors import ArtifactError, BackendError, CompatibilityError, IntegrityError, OptionError
from yolo26_executorch.models.tasks import TensorSpec
from yolo26_executorch.runtime import executorch, open_runner
from yolo26_executorch.system.requirements import Usable

SPEC = TensorSpec("images", (1, 4), "float32", "pictures")
HERE = Platform(platform.system(), platform.machine(), ("9.0a",), ())


class Net(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + images


@pytest.fixture(scope="module")
def program() -> bytes:
    return xnnpack_program(Net(), torch.zeros(1, 4))


@pytest.fixture
def folder(tmp_path: Path, program: bytes) -> Path:
    outputs = (TensorSpec("doubled", (1, 4), "float32", ""),)
    return publish(tmp_path, make_manifest(backend="xnnpack", input=SPEC, outputs=outputs), program)


def cuda(tmp_path: Path, **changes: Any) -> Path:
    return publish(tmp_path, make_manifest(**{"platform": HERE, **changes}))


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a file is read for more than its hash."""
    for owner, name in (
        (executorch, "_bindings"),
        (program_file, "_read_program"),
        (program_file, "read_named_data"),
        (program_file, "read_cuda_payload"),
    ):
        monkeypatch.setattr(owner, name, lambda *_, name=name: pytest.fail(f"{name} was called"))


def see_gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])


@pytest.mark.parametrize("given", [Path, str])
def test_the_official_runtime_opens_what_it_has_the_delegate_of(folder: Path, given: Any) -> None:
    with open_runner(given(folder)) as runner:
        assert runner.name == "executorch"
        assert runner(torch.full((1, 4), 0.25))["doubled"].tolist() == [[0.5] * 4]
    with open_runner(folder, runner="executorch") as runner:
        assert runner.name == "executorch"


@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS])
def test_a_truncated_file_is_refused_before_anything_is_loaded(
    tmp_path: Path, nothing_is_loaded: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    see_gpus(monkeypatch, (9, 0))
    path = cuda(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=rf"{name} has \d+ bytes, its manifest says \d+"):
        open_runner(path.parent)


@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS])
def test_a_changed_file_is_refused_before_anything_is_loaded(
    tmp_path: Path, nothing_is_loaded: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    see_gpus(monkeypatch, (9, 0))
    path = cuda(tmp_path) / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"{name} was changed: its SHA-256 is"):
        open_runner(path.parent)


def test_no_artifact(tmp_path: Path, nothing_is_loaded: None) -> None:
    with pytest.raises(ArtifactError, match="no artifact at"):
        open_runner(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        open_runner(tmp_path)


@pytest.mark.parametrize("runner", ["auto", "executorch", "aoti"])
def test_a_cuda_artifact_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str) -> None:
    """The GPU and the delegate that are missing are both named."""
    see_gpus(monkeypatch)
    with pytest.raises(CompatibilityError) as caught:
        open_runner(cuda(tmp_path), runner=runner)
    for part in (
        "compiled for compute capability 9.0, and no CUDA GPU is seen here",
        "has no CudaBackend",
        "wheel index",
    ):
        assert part in str(caught.value)


def test_a_cuda_artifact_for_another_gpu_or_machine(
    tmp_path: Path, nothing_is_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch, "obstacle", lambda manifest: None)
    see_gpus(monkeypatch, (8, 6))
    with pytest.raises(CompatibilityError, match=r"capability 9\.0; this GPU is 8\.6"):
        open_runner(cuda(tmp_path))
    with pytest.raises(CompatibilityError, match=rf"native code for Plan9 vax; this machine is {platform.system()}"):
        open_runner(cuda(tmp_path, platform=Platform("Plan9", "vax", ("8.6",), ())))


def test_a_cuda_artifact_where_executorch_has_no_cuda_delegate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPI's ExecuTorch beside a GPU: the other runner is taken, or the delegate that is missing is named."""
    see_gpus(monkeypatch, (9, 0))
    folder = cuda(tmp_path)
    with pytest.raises(CompatibilityError, match=r"this ExecuTorch has no CudaBackend: .*install_executorch\.sh"):
        open_runner(folder, runner="executorch")
    from yolo26_executorch.runtime import aoti

    monkeypatch.setattr(aoti, "AotiRunner", lambda artifact, device: ("aoti", artifact.folder, artifact.manifest.name))
    for runner in ("auto", "aoti"):
        opened: Any = open_runner(folder, runner=runner)
        assert opened == ("aoti", folder, "yolo26n")


def test_versions_that_do_not_fit_are_said_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = Usable(
        False, "executorch 1.5.1 executes programs only beside torch 2.13", 'pip install "torch>=2.13,<2.14"'
    )
    monkeypatch.setattr(executorch, "executorch_runtime_fits", lambda: words)
    with pytest.raises(CompatibilityError, match=r'only beside torch 2\.13; pip install "torch>=2\.13,<2\.14"'):
        open_runner(folder)


def test_versions_that_do_not_fit_leave_the_other_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yolo26_executorch.runtime import aoti

    see_gpus(monkeypatch, (9, 0))
    monkeypatch.setattr(executorch, "executorch_runtime_fits", lambda: Usable(False, "cause", "remedy"))
    monkeypatch.setattr(aoti, "AotiRunner", lambda artifact, device: "aoti")
    opened: Any = open_runner(cuda(tmp_path))
    assert opened == "aoti"


def test_an_xnnpack_artifact_has_no_other_runner(folder: Path) -> None:
    with pytest.raises(CompatibilityError, match="runner 'aoti' runs CUDA artifacts only"):
        open_runner(folder, runner="aoti")


# ---- devices ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened_on(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Where runners inside PyTorch were opened; nothing is loaded."""
    from yolo26_executorch.runtime import aoti

    found: list[torch.device] = []
    monkeypatch.setattr(aoti, "AotiRunner", lambda artifact, device: found.append(device))
    return found


@pytest.mark.parametrize("device", ["cuda:1", 1, torch.device("cuda", 1)])
def test_a_named_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_on: list[torch.device], device: Any
) -> None:
    see_gpus(monkeypatch, (8, 6), (9, 0))
    open_runner(cuda(tmp_path), device=device)
    assert opened_on == [torch.device("cuda", 1)]


@pytest.mark.parametrize("device", [None, "cuda"])
def test_the_current_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_on: list[torch.device], device: str | None
) -> None:
    see_gpus(monkeypatch, (8, 6), (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    open_runner(cuda(tmp_path), device=device)
    assert opened_on == [torch.device("cuda", 1)]


def test_a_named_gpu_that_the_artifact_is_not_for(
    tmp_path: Path, nothing_is_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch, "obstacle", lambda manifest: None)
    see_gpus(monkeypatch, (9, 0), (8, 6))
    with pytest.raises(CompatibilityError, match=r"yolo26n was compiled for compute capability 9\.0; cuda:1 is 8\.6"):
        open_runner(cuda(tmp_path), device=1)


def test_the_official_runtime_is_not_asked_for_another_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_on: list[torch.device]
) -> None:
    monkeypatch.setattr(executorch, "obstacle", lambda manifest: None)
    see_gpus(monkeypatch, (9, 0), (9, 0))
    folder = cuda(tmp_path)
    open_runner(folder, device="cuda:1")
    assert opened_on == [torch.device("cuda", 1)]
    with pytest.raises(CompatibilityError, match="on GPU 0 alone, and cuda:1 is asked for"):
        open_runner(folder, device="cuda:1", runner="executorch")


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see_gpus(monkeypatch, (9, 0), (9, 0))
    with pytest.raises(BackendError, match=r"device='cuda:7': no such GPU; PyTorch sees 2: 0, 1"):
        open_runner(cuda(tmp_path), device="cuda:7")


@pytest.mark.parametrize("device", ["cpu", "gpu", "cuda:x", "", "mps", -1])
def test_what_is_no_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    see_gpus(monkeypatch, (9, 0))
    with pytest.raises(OptionError, match="yolo26n was exported for cuda; expected a GPU, such as 'cuda:0' or 0"):
        open_runner(cuda(tmp_path), device=device)


def test_an_artifact_for_the_cpu_runs_nowhere_else(folder: Path) -> None:
    with open_runner(folder, device="cpu") as runner:
        assert runner.device == torch.device("cpu")
    for device in ("cuda", 0):
        with pytest.raises(OptionError, match="exported for xnnpack; expected 'cpu'"):
            open_runner(folder, device=device)


def test_a_runner_of_no_such_name(folder: Path) -> None:
    with pytest.raises(OptionError, match="runner='onnx': expected one of auto, executorch, aoti"):
        open_runner(folder, runner="onnx")
