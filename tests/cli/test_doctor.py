from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yolo26_executorch.cli import doctor, main
from yolo26_executorch.system import probe
from yolo26_executorch.system.probe import Driver, Environment, Gpu, Libraries, Tool

GB = 10**9
P100, V100 = Gpu("Tesla P100", (6, 0), 16 * GB), Gpu("Tesla V100", (7, 0), 16 * GB)
ALL_DELEGATES = ("CudaBackend", "XnnpackBackend")


NMS = "operator torchvision::nms does not exist"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return the facts of a machine that lacks nothing."""
    return dataclasses.replace(
        probe.probe(),
        system="Linux",
        memory_bytes=64 * GB,
        disk_free_bytes=100 * GB,
        torch="2.13.0",
        torch_problem=None,
        torch_cuda="13.0",
        executorch="1.5.1",
        ultralytics="8.4.190",
        torchvision="0.28.0",
        triton="3.7.1",
        driver=Driver("580.95", (13, 0)),
        gpus=(Gpu("NVIDIA H100", (9, 0), 80 * GB),),
        cxx=Tool("/usr/bin/g++", "12.2.0"),
        nvcc=Tool("/usr/local/cuda/bin/nvcc", "13.0"),
        ptxas=None,
        visible_devices=None,
        cuda_home="/usr/local/cuda",
        libraries=Libraries(ALL_DELEGATES, None, str(tmp_path_factory.mktemp("weights")), True),
    )


def levels(facts: Environment) -> dict[str, str]:
    return {check.name: check.level for check in doctor.diagnose(facts)}


def test_a_healthy_machine_has_nothing_to_fix(healthy: Environment) -> None:
    checks = [*doctor.diagnose(healthy)]
    assert {check.level for check in checks} == {doctor.OK}
    assert all(check.remedy is None for check in checks)
    findings = {check.name: check.finding for check in checks}
    assert findings["GPU"] == "GPU 0 (NVIDIA H100, compute capability 9.0, 80 GB)"
    assert findings["NVIDIA driver"] == "580.95, serves CUDA 13.0"
    assert findings["torch's CUDA"] == "13.0"
    assert findings["Triton"] == "3.7.1"
    assert findings["CUDA toolkit"] == "/usr/local/cuda"
    assert findings["nvcc"] == "/usr/local/cuda/bin/nvcc (13.0)"
    assert findings["ptxas"] == "not found; Triton brings its own"
    assert findings["g++"] == "/usr/bin/g++ (12.2.0)"
    assert findings["delegates"] == "CudaBackend, XnnpackBackend"
    assert findings["exports"] == "to CUDA and to XNNPACK"
    assert all(findings.values())


@pytest.mark.parametrize(
    ("changes", "name", "level", "remedy"),
    [
        ({"system": "Darwin"}, "CUDA", doctor.WARNING, "Linux machine"),
        ({"driver": None, "gpus": ()}, "NVIDIA driver", doctor.WARNING, "ubuntu-drivers"),
        ({"driver": Driver(None, (12, 4)), "gpus": ()}, "NVIDIA driver", doctor.WARNING, "update it"),
        ({"gpus": ()}, "GPU", doctor.WARNING, "nvidia-smi"),
        ({"gpus": (P100,)}, "GPU", doctor.WARNING, "Volta"),
        ({"torch_cuda": None}, "torch's CUDA", doctor.WARNING, "pip uninstall -y torch"),
        ({"triton": None}, "Triton", doctor.WARNING, 'pip install "triton'),
        ({"cuda_home": None}, "CUDA toolkit", doctor.WARNING, "apt-get install cuda-toolkit-13-0"),
        ({"gpus": (V100,), "nvcc": None}, "nvcc", doctor.WARNING, "apt-get install cuda-toolkit-13-0"),
        ({"cxx": None}, "g++", doctor.WARNING, "apt-get install g++"),
        ({"torch": None}, "torch", doctor.PROBLEM, 'pip install "torch>=2.11,<2.14"'),
        ({"torch_problem": "no libc10"}, "torch", doctor.PROBLEM, "--force-reinstall"),
        ({"torch": "2.15.0"}, "torch", doctor.PROBLEM, 'pip install "torch>=2.11,<2.14"'),
        ({"executorch": None}, "executorch", doctor.PROBLEM, 'pip install "executorch>=1.5,<1.6"'),
        ({"executorch": "1.4.0"}, "executorch", doctor.PROBLEM, 'pip install "executorch>=1.5,<1.6"'),
        ({"ultralytics": "8.3.200"}, "ultralytics", doctor.PROBLEM, 'pip install "ultralytics>=8.4.190,<8.5"'),
        ({"torch": "2.11.0+cu130"}, "ExecuTorch runtime", doctor.WARNING, 'pip install "torch>=2.13,<2.14"'),
        (
            {"libraries": Libraries(None, "it crashes", "w")},
            "ExecuTorch runtime", doctor.WARNING, "--force-reinstall",
        ),
        (
            {"libraries": Libraries(("XnnpackBackend",), None, "w")},
            "CUDA delegate", doctor.WARNING, "install_executorch.sh",
        ),
        ({"libraries": Libraries(("CudaBackend",), None, "w")}, "XNNPACK delegate", doctor.WARNING, "pip install"),
        ({"torchvision": None}, "torchvision", doctor.PROBLEM, '--no-deps "torchvision==0.28.*"'),
        (
            {"torch": "2.12.0+cpu", "libraries": Libraries(ALL_DELEGATES, None, "w", True, NMS)},
            "torchvision", doctor.WARNING, '"torchvision==0.27.*" --index-url URL, with the URL that torch came from',
        ),
        ({"libraries": Libraries(ALL_DELEGATES, None, None)}, "weights", doctor.WARNING, "--weights-dir"),
        ({"disk_free_bytes": 2 * GB}, "disk", doctor.WARNING, "--base-path"),
        ({"disk_free_bytes": 1000}, "disk", doctor.PROBLEM, "--base-path"),
        ({"memory_bytes": 4 * GB}, "memory", doctor.WARNING, "--jobs 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_fix(
    healthy: Environment, changes: dict[str, Any], name: str, level: str, remedy: str
) -> None:
    checks = {check.name: check for check in doctor.diagnose(dataclasses.replace(healthy, **changes))}
    assert checks[name].level == level
    assert remedy in str(checks[name].remedy)


def test_a_cpu_machine_has_no_cuda_delegate_to_miss(healthy: Environment) -> None:
    facts = dataclasses.replace(healthy, gpus=(), libraries=Libraries(("XnnpackBackend",), None, "w"))
    assert "CUDA delegate" not in levels(facts)


def test_everything_that_is_missing_for_cuda_is_named_at_once(healthy: Environment) -> None:
    facts = dataclasses.replace(healthy, driver=None, gpus=(), torch_cuda=None, triton=None, cxx=None, cuda_home=None)
    checks = {check.name: check for check in doctor.diagnose(facts)}
    missing = ("NVIDIA driver", "torch's CUDA", "Triton", "CUDA toolkit", "g++")
    assert all(checks[name].level == doctor.WARNING and checks[name].remedy for name in missing)
    assert checks["GPU"].level == doctor.OK  # follows from the driver's absence
    assert checks["exports"].finding.endswith("what is missing: driver, torch, Triton, g++, toolkit")
    assert checks["exports"].level == doctor.OK


def test_old_and_mixed_gpus_are_told_of(healthy: Environment) -> None:
    h100 = healthy.gpus[0]
    facts = dataclasses.replace(healthy, gpus=(P100, h100, V100))
    checks = {check.name: check for check in doctor.diagnose(facts)}
    assert checks["GPU"].level == doctor.OK
    assert checks["GPU"].finding.startswith("GPU 1 (NVIDIA H100")
    assert "GPU 0 (Tesla P100" in checks["GPUs too old"].finding
    assert checks["GPU kinds"].level == doctor.WARNING
    assert checks["GPU kinds"].remedy == "yolo26-et export --devices 1 or --devices 2"
    assert checks["exports"].finding == "to CUDA and to XNNPACK"


def test_the_gpus_that_are_named_are_judged(
    healthy: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = dataclasses.replace(healthy, gpus=(healthy.gpus[0], P100))
    monkeypatch.setattr(probe, "probe", lambda thorough: facts)
    assert main(["doctor", "--devices", "1", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["GPU"]["level"] == doctor.WARNING
    assert checks["GPU"]["remedy"] == "--devices 0"
    assert main(["doctor", "--devices", "7"]) == 2


def test_problems_are_summed_up(healthy: Environment) -> None:
    facts = dataclasses.replace(healthy, executorch=None, disk_free_bytes=1000)
    *_, last = doctor.diagnose(facts)
    assert (last.name, last.level) == ("exports", doctor.PROBLEM)
    assert "disk, executorch" in last.finding


@pytest.mark.parametrize(("token", "finding"), [(True, "there"), (False, "none; only"), (None, "not known; only")])
def test_the_hub_s_token_is_there_or_not_and_no_matter_for_exports(
    healthy: Environment, token: bool | None, finding: str
) -> None:
    facts = dataclasses.replace(healthy, libraries=Libraries(ALL_DELEGATES, None, "w", token))
    checks = {check.name: check for check in doctor.diagnose(facts)}
    assert checks["Hub token"].finding.startswith(finding)
    assert checks["Hub token"].level == doctor.OK
    assert (checks["Hub token"].remedy == "hf auth login") == (not token)


def test_a_weights_folder_that_cannot_be_written_to_is_noticed(
    healthy: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    facts = dataclasses.replace(healthy, libraries=Libraries(ALL_DELEGATES, None, str(tmp_path)))
    (weights,) = (check for check in doctor.diagnose(facts) if check.name == "weights")
    assert (weights.level, weights.remedy) == (doctor.WARNING, "yolo26-et export --weights-dir DIR")


def test_unknown_sizes_are_no_problem(healthy: Environment) -> None:
    facts = dataclasses.replace(healthy, disk_free_bytes=None, memory_bytes=None)
    assert set(levels(facts).values()) == {doctor.OK}


def test_checkpoints_are_counted(healthy: Environment, tmp_path: Path) -> None:
    for name in ("yolo26n.pt", "yolo26s-seg.pt", "other.pt"):
        (tmp_path / name).touch()
    facts = dataclasses.replace(healthy, libraries=Libraries(ALL_DELEGATES, None, str(tmp_path)))
    (weights,) = (check for check in doctor.diagnose(facts) if check.name == "weights")
    assert weights.finding.startswith("2 YOLO26 checkpoints")


@pytest.mark.parametrize(("changes", "status"), [({"driver": None}, 0), ({"executorch": None}, 1)])
def test_only_a_problem_fails(
    healthy: Environment,
    changes: dict[str, Any],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "probe", lambda thorough: dataclasses.replace(healthy, **changes))
    assert main(["doctor"]) == status
    out = capsys.readouterr().out
    assert "→ " in out
    assert main(["doctor", "--json"]) == status
    data = json.loads(capsys.readouterr().out)
    assert data["environment"]["torch"] == "2.13.0"
    assert {"level", "name", "finding", "remedy"} == set(data["checks"][0])


def test_this_machine(tmp_path: Path) -> None:
    """The real thing once: it loads ExecuTorch and Ultralytics in a process of its own and still prints only lines."""
    secret = "hf_nobody_may_read_this"  # noqa: S105
    done = subprocess.run(
        [sys.executable, "-m", "yolo26_executorch", "doctor", "--json"],
        env={**os.environ, "HF_TOKEN": secret, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    data = json.loads(done.stdout)
    assert data["environment"]["libraries"]["delegates"]
    assert data["environment"]["libraries"]["weights_dir"]
    assert data["environment"]["libraries"]["hub_token"] is True
    assert secret not in done.stdout
    assert done.returncode == any(check["level"] == doctor.PROBLEM for check in data["checks"])
