"""The shared object for several GPUs, with small objects inside, and libraries that pass for NVIDIA's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from yolo26_executorch.errors import LoweringError
from yolo26_executorch.lowering import dispatcher
from yolo26_executorch.lowering.dispatcher import Member

NVIDIA = """
#include <stdlib.h>
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int* d, int o) { *d = o; return o > 7; }
int cuDeviceGetAttribute(int* v, int a, int d) {
    int c = atoi(getenv("CAPABILITY")) + 10 * d;
    *v = a == 97 ? atoi(getenv("SHARED")) : a == 75 ? c / 10 : c % 10; return 0; }
int cudaGetDevice(int* d) { *d = 0; return 0; }
"""
"""GPU n is n major versions newer than what the environment says."""
MEMBER = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef struct {{ int number; char device[16]; }} Model;
int AOTInductorModelContainerCreateWithDevice(Model** m, size_t n, const char* d, const char* c) {{
    static Model one; one.number = {number}; strcpy(one.device, d); *m = &one; return 0; }}
int AOTInductorModelContainerGetNumInputs(Model* m, size_t* n) {{ *n = m->number; return 0; }}
int AOTInductorModelContainerRun(Model* m, void** i, size_t n, void** o, size_t k, void* s, void* p) {{
    o[0] = i[n - 1]; return s == (void*)3 && p == (void*)4 && k == 5 ? 0 : 9; }}
int AOTInductorModelContainerUpdateUserManagedConstantBufferPairs(
    Model* m, const void* p, size_t n, _Bool a, _Bool b) {{
    return n == 7 && !a && b ? 0 : 9; }}
int AOTInductorModelContainerDelete(Model* m) {{ puts("deleted"); fflush(stdout); return 0; }}
"""
MEMBERS = (
    (75, False, False, 60_000), (80, False, True, 160_000), (86, False, True, 90_000), (87, True, True, 160_000),
    (90, True, False, 200_000),
)  # fmt: skip
PROGRAM = """
import ctypes, sys
nvidia = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(sys.argv[2])
handle, number = ctypes.c_void_p(), ctypes.c_size_t()
create = library.AOTInductorModelContainerCreateWithDevice
if create(ctypes.byref(handle), ctypes.c_size_t(1), sys.argv[3].encode(), None):
    sys.exit(3)
assert not library.AOTInductorModelContainerGetNumInputs(handle, ctypes.byref(number))
print(number.value, flush=True)
inputs, outputs = (ctypes.c_void_p * 2)(1, 2), (ctypes.c_void_p * 1)()
assert not library.AOTInductorModelContainerRun(handle, inputs, ctypes.c_size_t(2), outputs, ctypes.c_size_t(5),
    ctypes.c_void_p(3), ctypes.c_void_p(4))
assert outputs[0] == 2
assert not library.AOTInductorModelContainerUpdateUserManagedConstantBufferPairs(handle, None, ctypes.c_size_t(7),
    ctypes.c_bool(False), ctypes.c_bool(True))
assert library.AOTInductorModelContainerSwapConstantBuffer(handle) == 1  # the member has no such function
assert not library.AOTInductorModelContainerDelete(handle)
"""


def shared(path: Path, source: str, *words: str) -> Path:
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), *words]
    subprocess.run(command, input=source.encode(), check=True)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("dispatcher")
    shared(folder / "libcuda.so", NVIDIA, "-Wl,-soname,libnvidia-of-the-test.so")
    members = []
    for number, exact, ptx, shared_bytes in MEMBERS:
        library = shared(folder / f"{number}.so", MEMBER.format(number=number)).read_bytes()
        members.append(Member((number // 10, number % 10), library, exact, ptx, shared_bytes))
    dispatcher.build(members, folder / "model.so", compiler=["gcc"], libraries=str(folder))
    return folder


def opened(
    folder: Path, capability: int, device: str = "cuda", shared_bytes: int = 101_376
) -> subprocess.CompletedProcess[str]:
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    (folder / "libnvidia-of-the-test.so").unlink(missing_ok=True)
    shutil.copy(folder / "libcuda.so", folder / "libnvidia-of-the-test.so")
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, folder / "libcuda.so", folder / "model.so", device],
        capture_output=True, text=True, timeout=60,
        env={
            "CAPABILITY": str(capability), "SHARED": str(shared_bytes), "TMPDIR": str(temporary),
            "LD_LIBRARY_PATH": str(folder),
        },
    )  # fmt: skip
    assert not list(temporary.iterdir())
    return done


@pytest.mark.parametrize(
    ("capability", "shared_bytes", "chosen"),
    [
        (86, 101_376, 86), (90, 232_448, 90), (80, 166_912, 80), (87, 166_912, 87),  # its own
        (88, 101_376, 86), (89, 101_376, 86),  # machine code of an older minor version, not a Jetson's
        (91, 101_376, 86), (100, 101_376, 86), (120, 101_376, 86),  # PTX that fits
        (100, 232_448, 87),
    ],
)  # fmt: skip
def test_a_gpu_gets_what_runs_on_it(built: Path, capability: int, shared_bytes: int, chosen: int) -> None:
    done = opened(built, capability, shared_bytes=shared_bytes)
    assert (done.stdout.split(), done.returncode) == ([str(chosen), "deleted"], 0), done.stderr


def test_the_device_that_is_named_counts(built: Path) -> None:
    assert opened(built, 80, "cuda:1").stdout.split()[0] == "90"


def test_a_gpu_that_nothing_runs_on_is_refused_in_words(built: Path) -> None:
    done = opened(built, 70)
    assert done.returncode == 3
    assert "the GPU is of compute capability 7.0; this model was compiled for 7.5 8.0 8.6 8.7 9.0" in done.stderr


def test_every_function_of_the_interface_is_there(built: Path) -> None:
    names, _ = dispatcher._forwards(dispatcher.interface())
    assert {"AOTInductorModelContainerRunSingleThreaded", "AOTInductorModelUpdateConstantsFromBlob"} <= set(names)
    assert len(names) > 25
    listed = subprocess.check_output(["nm", "--dynamic", "--defined-only", str(built / "model.so")], text=True)
    creators = {"AOTInductorModelContainerCreate", "AOTInductorModelContainerCreateWithDevice"}
    assert {line.split()[-1] for line in listed.splitlines()} == {*names, *creators}


def test_a_compiler_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "cc").write_text("#!/bin/sh\necho 'cc: out of luck' >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    with pytest.raises(LoweringError, match="out of luck"):
        dispatcher.build([], tmp_path / "model.so", compiler=[str(tmp_path / "cc")], libraries=str(tmp_path))
