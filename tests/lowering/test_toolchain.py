"""Compilers that came by pip, in place of the machine's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import SLOW
from yolo26_executorch.artifacts.native_code import read_native_code
from yolo26_executorch.lowering import toolchain
from yolo26_executorch.system import probe

SOURCE = """
#include <stdexcept>
#include <string>
extern "C" int length(int number) {
    try { throw std::runtime_error(std::to_string(number)); } catch (std::exception& error) {
        return std::string(error.what()).size(); }
}
"""


def inductor_takes() -> tuple[str, list[str]]:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils import cpp_extension

    return get_cpp_compiler(), list(cpp_extension.include_paths("cuda"))


def test_the_machines_own_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    before: Any = config.cpp.cxx
    monkeypatch.setattr(toolchain, "cxx", lambda: "/usr/bin/g++")
    monkeypatch.setattr(toolchain, "toolkit_folder", lambda: Path("/usr/local/cuda"))
    with toolchain.by_pip():
        assert config.cpp.cxx == before


def test_what_is_not_here_is_taken_from_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zig").write_text("#!/bin/sh\necho zig $*\n")
    (tmp_path / "zig").chmod(0o755)
    monkeypatch.setattr(toolchain, "cxx", lambda: None)
    monkeypatch.setattr(toolchain, "zig", lambda: str(tmp_path / "zig"))
    monkeypatch.setattr(toolchain, "toolkit_folder", lambda: None)
    monkeypatch.setattr(toolchain, "cuda_headers", lambda: ("/headers", "/more"))
    with toolchain.by_pip():
        compiler, headers = inductor_takes()
        assert headers[-2:] == ["/headers", "/more"]
        said = subprocess.check_output([compiler, "-x", "c"], text=True).split()
    assert said[:4] == ["zig", "c++", "-target", f"x86_64-linux-gnu.{toolchain.GLIBC}"]
    assert said[-2:] == ["-x", "c"]
    assert Path(compiler).name == "clang++"
    assert not Path(compiler).exists()


@pytest.mark.skipif(probe.zig() is None, reason="needs the extra [cross]")
@pytest.mark.parametrize("machine", [pytest.param(machine, marks=SLOW) for machine in ("x86_64", "aarch64")])
def test_what_zig_links_runs_with_an_old_glibc_alone(tmp_path: Path, machine: str) -> None:
    compiler = toolchain.write_compiler(tmp_path, probe.zig() or "", machine)
    command = [compiler, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(tmp_path / "model.so")]
    subprocess.run(command, input=SOURCE.encode(), check=True)
    native = read_native_code((tmp_path / "model.so").read_bytes())
    assert native.machine == machine
    newest = native.newest("GLIBC_")
    assert newest is not None and tuple(map(int, newest.split("."))) <= (2, 28)
    assert native.newest("GLIBCXX_") is None
    assert not any("stdc++" in library for library in native.libraries)
