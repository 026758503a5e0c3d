from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from support import GPU_MACHINE, H100, P100, V100
from yolo26_executorch.errors import BackendError
from yolo26_executorch.system import probe, requirements
from yolo26_executorch.system.probe import Driver
from yolo26_executorch.system.requirements import Usable


def test_a_gpu_machine_is_usable() -> None:
    assert requirements.usable_cuda(GPU_MACHINE) == Usable(True)


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({"system": "Darwin"}, "needs Linux, and this is Darwin", "Linux machine"),
        ({"driver": None, "gpus": ()}, "no NVIDIA driver", "ubuntu-drivers install"),
        ({"torch": None, "torch_cuda": None}, "not installed", 'pip install "torch>=2.13,<2.14"'),
        ({"torch_problem": "libc10.so: cannot open"}, "libc10.so: cannot open", 'pip install "torch>=2.13,<2.14"'),
        ({"torch": "2.13.0+cpu", "torch_cuda": None}, "2.13.0+cpu is a build without CUDA", "pip uninstall -y torch"),
        ({"driver": Driver(None, (12, 4)), "gpus": ()}, "driver serves CUDA 12.4", "update it"),
        ({"gpus": ()}, "sees no GPU", "nvidia-smi"),
        ({"gpus": (), "visible_devices": ""}, "CUDA_VISIBLE_DEVICES='' hides", "unset CUDA_VISIBLE_DEVICES"),
        (
            {"gpus": (P100,)},
            "(Tesla P100, compute capability 6.0, 16 GB) is older than compute capability 7.0",
            "Volta",
        ),
        ({"triton": None}, "Triton", 'pip install "triton'),
        ({"cxx": None}, "g++", "apt-get install g++"),
        ({"cuda_home": None}, "include/cuda.h", "apt-get install cuda-toolkit-13-0"),
        ({"gpus": (V100,), "nvcc": None}, "nvcc", "apt-get install cuda-toolkit-13-0"),
    ],
)
def test_what_is_missing_is_named_with_its_fix(changes: dict[str, Any], cause: str, remedy: str) -> None:
    found = requirements.usable_cuda(dataclasses.replace(GPU_MACHINE, **changes))
    assert not found
    assert cause in str(found.cause)
    assert remedy in str(found.remedy)
    assert len(str(found).splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": (V100,)},
        {"gpus": (H100, P100)},
        {"gpus": (P100, H100)},
        {"gpus": (P100, H100, V100), "nvcc": None},
        {"nvcc": None},
        {"driver": Driver(None, (13, 4))},
        {"visible_devices": "0"},
    ],
)
def test_what_is_enough(changes: dict[str, Any]) -> None:
    assert requirements.usable_cuda(dataclasses.replace(GPU_MACHINE, **changes))


MIXED = dataclasses.replace(GPU_MACHINE, gpus=(P100, H100, V100, H100))


def test_the_gpus_that_are_named_are_judged() -> None:
    old, h100, v100, _ = requirements.all_devices(MIXED)
    assert requirements.usable_cuda(MIXED, [h100, v100])
    found = requirements.usable_cuda(MIXED, [h100, old])
    assert "GPU 0 (Tesla P100, compute capability 6.0, 16 GB)" in str(found.cause)
    assert found.remedy == "--devices 1"
    without_nvcc = dataclasses.replace(MIXED, nvcc=None)
    assert requirements.usable_cuda(without_nvcc, [h100])
    assert "GPU 2 (Tesla V100" in str(requirements.usable_cuda(without_nvcc, [h100, v100]).cause)
    with pytest.raises(BackendError, match=r"GPU 0 \(Tesla P100.*fix: --devices 1"):
        requirements.resolve_backend("cuda", MIXED, [old])


def test_where_none_is_named_the_first_that_can_be_used_is_it() -> None:
    found = requirements.default_device(MIXED)
    assert found is not None
    assert (found.index, found.visible, found.gpu) == (1, "1", H100)
    only = requirements.default_device(dataclasses.replace(MIXED, gpus=(P100,)))
    assert only is not None
    assert only.gpu == P100
    assert requirements.default_device(dataclasses.replace(MIXED, gpus=())) is None


@pytest.mark.parametrize(
    ("words", "visible", "expected"),
    [
        (["1"], None, ["1"]),
        (["3", "1"], None, ["3", "1"]),
        (["all"], None, ["1", "2", "3"]),
        (["1", "2"], "GPU-a,GPU-b,GPU-c,GPU-d", ["GPU-b", "GPU-c"]),
        (["1"], "0", ["1"]),  # it does not say which of PyTorch's this is
    ],
)
def test_devices_are_named_for_a_process_that_sees_one(
    words: list[str], visible: str | None, expected: list[str]
) -> None:
    facts = dataclasses.replace(MIXED, visible_devices=visible)
    assert [device.visible for device in requirements.choose_devices(words, facts)] == expected


@pytest.mark.parametrize(("words", "message"), [(["4"], "PyTorch sees GPUs 0, 1, 2, 3"), (["1", "1"], "named twice")])
def test_devices_that_are_not_there_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        requirements.choose_devices(words, MIXED)


def test_all_of_none_is_refused_and_all_of_old_ones_is_judged() -> None:
    with pytest.raises(BackendError, match="PyTorch sees none"):
        requirements.choose_devices(["all"], dataclasses.replace(MIXED, gpus=()))
    old = dataclasses.replace(MIXED, gpus=(P100,))
    assert not requirements.usable_cuda(old, requirements.choose_devices(["all"], old))


def test_mixed_kinds_are_told_with_what_to_type() -> None:
    devices = requirements.all_devices(MIXED)
    assert requirements.of_one_kind([devices[1], devices[3]])
    found = requirements.of_one_kind(devices[1:])
    assert "GPU 2 (Tesla V100, compute capability 7.0, 16 GB)" in str(found.cause)
    assert found.remedy == "--devices 1,3 or --devices 2"


def test_auto_takes_cuda_where_it_is_usable() -> None:
    assert requirements.resolve_backend("auto", GPU_MACHINE) == ("cuda", None)
    assert requirements.resolve_backend("cuda", GPU_MACHINE) == ("cuda", None)


def test_auto_without_cuda_warns_with_cause_and_remedy() -> None:
    backend, warning = requirements.resolve_backend("auto", dataclasses.replace(GPU_MACHINE, torch_cuda=None))
    assert backend == "xnnpack"
    assert warning is not None
    assert "without CUDA" in warning
    assert "pip install" in warning
    assert "XNNPACK" in warning


def test_cuda_by_name_without_cuda_is_refused() -> None:
    with pytest.raises(BackendError, match=r"--backend cuda: no NVIDIA driver.*--backend xnnpack") as caught:
        requirements.resolve_backend("cuda", dataclasses.replace(GPU_MACHINE, driver=None))
    assert caught.value.exit_status == 2


def test_xnnpack_by_name_needs_no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "probe", lambda: pytest.fail("looked"))
    assert requirements.resolve_backend("xnnpack") == ("xnnpack", None)


@pytest.mark.parametrize(
    ("executorch", "torch", "fits"),
    [
        ("1.5.1", "2.13.0", True),
        ("1.5.1", "2.13.0+cpu", True),
        ("1.5.0", "2.13.1+cu130", True),
        ("1.5.1", "2.11.0+cu130", False),
        ("1.5.1", "2.12.0", False),
        ("1.5.1", "2.14.0", False),
        ("1.4.0", "2.13.0", False),
        (None, "2.13.0", False),
        ("1.5.1", None, False),
    ],
)
def test_the_runtime_fits_one_torch(executorch: str | None, torch: str | None, fits: bool) -> None:
    found = requirements.executorch_runtime_fits(dataclasses.replace(GPU_MACHINE, executorch=executorch, torch=torch))
    assert bool(found) is fits
    assert fits or "pip install" in str(found.remedy)


def test_the_runtime_is_judged_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "installed", {"executorch": "1.5.1", "torch": "2.11.0+cu130"}.get)
    found = requirements.executorch_runtime_fits()
    assert "only beside torch 2.13, and this is 2.11.0+cu130" in str(found.cause)
    assert found.remedy == 'pip install "torch>=2.13,<2.14"'
