"""Open a CUDA artifact's shared object against libraries that pass for NVIDIA's: everything up to the first kernel.

    python false_cuda.py LIBRARY FALSE_CUDA    prints inputs, outputs, constants and the first constant's name

The GPU's compute capability, as 86, is in the variable CAPABILITY; it has 99 KB of shared memory.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

SOURCE = """
#include <stdlib.h>
int cuDeviceGet(int* d, int o) { *d = o; return 0; }
int cuDeviceGetAttribute(int* v, int a, int d) {
    int c = atoi(getenv("CAPABILITY")); *v = a == 97 ? 101376 : a == 75 ? c / 10 : c % 10; return 0; }
int cudaGetDevice(int* d) { *d = 0; return 0; }
int cudaMalloc(void** p, size_t n) { *p = malloc(n); return 0; }
int cudaFree(void* p) { free(p); return 0; }
int cuDriverGetVersion(int* v) { *v = 13000; return 0; }
int cuModuleLoadData(void** m, const void* d) { *m = (void*)1; return 0; }
int cuModuleGetFunction(void** f) { *f = (void*)1; return 0; }
int cudaEventCreate(void** e) { *e = 0; return 0; }
const char* cudaGetErrorString(int e) { return "none"; }
int cuGetErrorString(int e, const char** s) { *s = "none"; return 0; }
"""
IDLE = (
    "cuInit", "cudaSetDevice", "cudaGetLastError", "cudaMemcpy", "cudaEventDestroy", "cudaEventRecord",
    "cudaEventQuery", "cudaEventSynchronize", "cuModuleUnload", "cuFuncSetAttribute", "cuLaunchKernel",
    "cuLaunchKernelEx", "cuStreamIsCapturing",
)  # fmt: skip
PREFIX = "AOTInductorModelContainer"


def build(folder: Path) -> Path:
    """Build the false libraries, as one, and return it."""
    path = folder / "libcuda.so.1"
    idle = "".join(f"int {name}() {{ return 0; }}\n" for name in IDLE)
    command = ["gcc", "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), f"-Wl,-soname,{path.name}"]
    subprocess.run(command, input=(SOURCE + idle).encode(), check=True)
    return path


def opened(library: Path, false_cuda: Path, capability: int) -> subprocess.CompletedProcess[str]:
    """Open a shared object in another process."""
    return subprocess.run(
        [sys.executable, __file__, library, false_cuda], capture_output=True, text=True, timeout=600,
        env={**os.environ, "CAPABILITY": str(capability), "LD_LIBRARY_PATH": str(false_cuda.parent)},
    )  # fmt: skip


def main(library: str, false_cuda: str) -> int:
    import torch

    ctypes.CDLL(false_cuda, ctypes.RTLD_GLOBAL)
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name), ctypes.RTLD_GLOBAL)
    model = ctypes.CDLL(library, os.RTLD_LAZY)
    handle, number, name_of = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_char_p()
    if getattr(model, f"{PREFIX}CreateWithDevice")(ctypes.byref(handle), ctypes.c_size_t(1), b"cuda", None):
        return 3
    found = []
    for function in ("GetNumInputs", "GetNumOutputs", "GetNumConstants"):
        assert not getattr(model, PREFIX + function)(handle, ctypes.byref(number))
        found.append(str(number.value))
    original = getattr(model, f"{PREFIX}GetConstantOriginalFQN")
    assert not original(handle, ctypes.c_size_t(0), ctypes.byref(name_of))
    print(*found, (name_of.value or b"").decode(), flush=True)
    os._exit(0)  # what is closed would go to the false libraries, in no order


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
