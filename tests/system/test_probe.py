from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import GPU_MACHINE, project
from yolo26_executorch.system import probe
from yolo26_executorch.system.probe import Gpu, Tool
from yolo26_executorch.system.requirements import usable_cuda


def test_the_bounds_are_those_of_the_package() -> None:
    for library in probe.REQUIRES:
        assert probe.requirement(library) in project()["dependencies"]


@pytest.mark.parametrize(
    ("version", "good"),
    [("2.11.0+cu130", True), ("2.13.1", True), ("2.10.2", False), ("2.14.0", False), ("nightly", False)],
)
def test_supported_versions(version: str, good: bool) -> None:
    assert probe.supported("torch", version) is good


def test_probing_this_machine_gives_plain_data(tmp_path: Path) -> None:
    found = probe.probe(tmp_path / "not" / "there")
    data = json.loads(json.dumps(found.to_json()))
    assert data["cores"] >= 1
    assert data["disk_free_bytes"] > 0
    assert data["torch"].startswith("2.")
    assert data["libraries"] is None


def test_versions_has_every_key_in_words() -> None:
    found = probe.versions()
    assert {type(value) for value in found.values()} == {str}
    assert set(found) == {
        "yolo26-executorch", "python", "torch", "executorch", "ultralytics", "triton", "cuda", "gpu"
    }  # fmt: skip
    assert all(isinstance(value, str) and value for value in found.values())


def fake_torch(gpus: int, cuda: str | None = "13.0") -> SimpleNamespace:
    properties = SimpleNamespace(name="NVIDIA H100", major=9, minor=0, total_memory=80)
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0, device_count=lambda: gpus, get_device_properties=lambda index: properties
        ),
    )


def test_gpus_are_those_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(2))
    found = probe.probe()
    assert found.gpus == (Gpu("NVIDIA H100", (9, 0), 80),) * 2
    assert probe.versions()["gpu"] == "NVIDIA H100"


def test_a_cpu_build_of_torch_is_not_asked_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(1, cuda=None))
    assert probe.probe().gpus == ()


def test_a_torch_that_cannot_be_imported_is_a_fact_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = probe.probe()
    assert "torch" in str(found.torch_problem)
    assert not usable_cuda(dataclasses.replace(GPU_MACHINE, torch_problem=found.torch_problem))


class FakeDriver:
    def __init__(self, status: int, version: int) -> None:
        self.status, self.version = status, version

    def cuDriverGetVersion(self, number: Any) -> int:
        number._obj.value = self.version
        return self.status


def test_the_driver_says_which_cuda_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(0, 12040))
    found = probe._driver()
    assert found is not None
    assert found.cuda == (12, 4)


def test_the_toolkits_stub_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(34, 0))
    assert probe._driver() is None


def test_no_driver_library_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert probe._driver() is None


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 'nvcc: NVIDIA (R) compiler'; echo 'Cuda compilation tools, release 13.0, V13.0.88'", "13.0"),
        ("echo 'g++ (Debian 12.2.0-14+deb12u1) 12.2.1'; echo 'Copyright 2022'", "12.2.1"),
        ("echo 'Apple clang version 17.0.0 (clang-1700.0.13)'", "17.0.0"),
        ("echo what", None),
        ("exit 3", None),
    ],
)
def test_programs_are_asked_for_their_version(tmp_path: Path, script: str, version: str | None) -> None:
    path = program(tmp_path, "tool", script)
    assert probe._tool(str(path)) == Tool(str(path), version)


def test_an_absent_program_is_none() -> None:
    assert probe._tool("no-such-program-anywhere") is None


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a toolkit in a folder that PyTorch would not guess, the only one there is."""
    home = tmp_path / "cuda"
    (home / "include").mkdir(parents=True)
    (home / "include" / "cuda.h").touch()
    program(home / "bin", "nvcc", "echo release 13.0")
    monkeypatch.setattr(probe, "TOOLKIT_FOLDERS", (str(home),))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for name in ("CUDA_HOME", "CUDA_PATH", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)
    return home


def test_a_toolkit_off_path_is_found_and_shown_to_workers(toolkit: Path) -> None:
    found = probe.probe()
    assert found.cuda_home == str(toolkit)
    assert found.nvcc is not None
    assert found.nvcc.path == str(toolkit / "bin" / "nvcc")
    variables = probe.toolkit_variables()
    assert variables["CUDA_HOME"] == str(toolkit)
    assert variables["PATH"].split(os.pathsep)[0] == str(toolkit / "bin")


def test_a_wrapper_of_nvcc_does_not_lead_astray(toolkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "local" / "bin", "nvcc", "echo release 13.0")
    monkeypatch.setenv("PATH", str(tmp_path / "local" / "bin"))
    assert probe.toolkit_variables() == {"CUDA_HOME": str(toolkit)}


def test_the_users_own_cuda_home_comes_first(toolkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    (own / "include").mkdir(parents=True)
    (own / "include" / "cuda.h").touch()
    monkeypatch.setenv("CUDA_HOME", str(own))
    found = probe.probe()
    assert found.cuda_home == str(own)
    assert "CUDA_HOME" not in probe.toolkit_variables()


def test_no_toolkit_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toolkit: Path) -> None:
    (toolkit / "include" / "cuda.h").unlink()
    found = probe.probe()
    assert found.cuda_home is None
    assert probe.toolkit_variables() == {}


def test_a_runtime_that_crashes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_LOOK_INSIDE", "import os; os.kill(os.getpid(), 11)")
    found = probe._libraries()
    assert found.delegates is None
    assert "crashes" in str(found.runtime_problem)


def test_libraries_noise_is_not_their_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    script = """print("noise"); print('{"delegates": ["B", "A"], "weights_dir": "w"}')"""
    monkeypatch.setattr(probe, "_LOOK_INSIDE", script)
    assert probe._libraries() == probe.Libraries(("A", "B"), None, "w")


def test_a_runtime_that_cannot_be_imported_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = "import sys; sys.modules['executorch'] = None\n" + probe._LOOK_INSIDE.partition("try:\n    from yolo")[0]
    monkeypatch.setattr(probe, "_LOOK_INSIDE", hidden + "\nprint(json.dumps(found))")
    found = probe._libraries()
    assert found.delegates is None
    assert "executorch" in str(found.runtime_problem)


@pytest.mark.parametrize("broken", [True, False])
def test_torchvision_of_another_build_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """As PyPI's beside a CPU build of PyTorch."""
    package = tmp_path / "torchvision"
    package.mkdir()
    words = "operator torchvision::nms does not exist"
    (package / "__init__.py").write_text(f"raise RuntimeError({words!r})" if broken else "")
    (part,) = (part for part in probe._LOOK_INSIDE.split("try:\n") if part.startswith("    import torchvision\n"))
    script = (
        f"import json, sys; found = {{}}; sys.path.insert(0, {str(tmp_path)!r})\ntry:\n{part}\nprint(json.dumps(found))"
    )
    monkeypatch.setattr(probe, "_LOOK_INSIDE", script)
    assert probe._libraries().torchvision_problem == (words if broken else None)


def test_the_versions_of_the_c_and_cpp_libraries() -> None:
    glibc, glibcxx = probe.glibc_version(), probe.glibcxx_version()
    if glibc is None:
        pytest.skip("needs glibc")
    assert probe.release(glibc) >= (2, 17)  # type: ignore[operator]
    assert glibcxx is not None and glibcxx.startswith("3.4.")
    assert int(glibcxx.split(".")[2]) > 18  # not the first that is found, nor the last in alphabetical order
