"""What a shared object needs and holds, beside what binutils says."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from yolo26_executorch.artifacts.native_code import DELEGATE_SYMBOLS, NativeCode, read_native_code
from yolo26_executorch.errors import ArtifactError

SOURCE = """
#include <string>
#include <cstdio>
extern "C" int aoti_torch_get_dim(void*, long*); extern "C" int aoti_torch_cuda_topk(void*);
namespace c10 { void check(int); }
extern "C" int run(const std::string& text) { c10::check(1); std::puts(text.c_str());
    return aoti_torch_get_dim(0, 0) + aoti_torch_cuda_topk(0); }
"""
ELF = b"\x7fELF\x02\x01"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not all(map(shutil.which, ("g++", "nm", "objdump"))):
        pytest.skip("needs g++ and binutils")
    path = tmp_path_factory.mktemp("native") / "model.so"
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path)]
    subprocess.run(command, input=SOURCE.encode(), check=True)
    return path


def test_it_finds_what_binutils_find(library: Path) -> None:
    native = read_native_code(library.read_bytes())
    listed = subprocess.check_output(["nm", "--dynamic", "--undefined-only", str(library)], text=True)
    assert native.undefined == {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    shown = subprocess.check_output(["objdump", "-p", str(library)], text=True)
    assert list(native.libraries) == re.findall(r"NEEDED\s+(\S+)", shown)
    assert native.versions == set(re.findall(r"0x[0-9a-f]+ 0x00 \d+ (\S+)", shown))
    assert native.newest("GLIBC_")
    assert not native.binaries + native.ptx


def test_what_the_delegate_lacks_is_told(library: Path) -> None:
    assert read_native_code(library.read_bytes()).foreign() == ["_ZN3c105checkEi", "aoti_torch_cuda_topk"]
    assert "aoti_torch_get_dim" in DELEGATE_SYMBOLS
    linked = NativeCode("x86_64", ("libc.so.6", "libtorch_cpu.so"), frozenset(), frozenset(), *read_gpu_code(b""))
    assert linked.foreign() == ["libtorch_cpu.so"]


def test_versions_are_numbers() -> None:
    versions = frozenset({"GLIBC_2.4", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBCXX_3.4.9", "GLIBCXX_3.4.30", "GLIBCXX_3.4"})
    native = NativeCode("x86_64", (), frozenset(), versions, *read_gpu_code(b""))
    assert (native.newest("GLIBC_"), native.newest("GLIBCXX_"), native.newest("CXXABI_")) == ("2.34", "3.4.30", None)


def read_gpu_code(data: bytes) -> tuple[dict[str, int], dict[str, int]]:
    from yolo26_executorch.artifacts import native_code

    return native_code._gpu_code(data)  # type: ignore[return-value]


def cubin(flags: int, version: int) -> bytes:
    header = ELF + b"\x01\x33" + bytes([version]) + bytes(9)
    return header + struct.pack("<H", 190) + bytes(28) + struct.pack("<I", flags) + bytes(12)


def fatbin(*entries: tuple[int, int, bytes]) -> bytes:
    body = b"".join(
        struct.pack("<HHIQIIII", kind, 0x101, 64, len(data), 0, 0, 0, number) + bytes(32) + data
        for kind, number, data in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_machine_code_for_gpus_is_counted() -> None:
    alone = cubin(0x5A0D5A, 7) + b"padding" + cubin(0x06007802, 8)
    assert read_gpu_code(b"text" + alone) == ({"9.0": 1, "12.0": 1}, {})
    packed = fatbin((2, 86, cubin(0x560556, 7)), (2, 89, cubin(0x590559, 7)), (1, 86, b".version 8.4"))
    assert read_gpu_code(packed + alone) == ({"8.6": 1, "8.9": 1, "9.0": 1, "12.0": 1}, {"8.6": 1})


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh", ELF + bytes(10), ELF + b"\xff" * 200], ids=["nothing", "text", "cut", "nonsense"]
)
def test_what_is_none_is_told(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        read_native_code(data)
