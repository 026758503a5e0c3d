"""The compilers of the extra `[cross]`, where the machine has none of its own: all of them come by pip.

Zig's package holds a C++ compiler (Clang), a linker and the headers and symbols of every glibc: what it links runs with
`GLIBC` and newer, and has C++'s library inside. Triton's holds CUDA's headers, but for those of CCCL, and an assembler
for GPUs.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..system.probe import cache_folder, cuda_headers, cxx, toolkit_folder, zig
from .inductor import replaced

GLIBC = "2.28"
"""Of Debian 10, RHEL 8 and Ubuntu 20.04."""


@contextlib.contextmanager
def by_pip() -> Iterator[None]:
    """Have Inductor use what came by pip for what is not on this machine: the C++ compiler, CUDA's headers."""
    from torch._inductor import config, cpp_builder
    from torch.utils import cpp_extension

    with contextlib.ExitStack() as stack:
        if cxx() is None and (compiler := zig()):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="yolo26-et-zig-"))
            stack.enter_context(config.patch({"cpp.cxx": (write_compiler(Path(folder), compiler),)}))
            # Nothing runs on the CPU's cores, and Zig has no OpenMP.
            stack.enter_context(replaced(cpp_builder, "_get_openmp_args", lambda _: ([], [], [], [], [], [])))
        if toolkit_folder() is None and (headers := cuda_headers()):
            original: Any = cpp_extension.include_paths

            def include_paths(device_type: str = "cpu", *more: Any, **named: Any) -> list[str]:
                return [*original("cpu", *more, **named), *(headers if device_type == "cuda" else ())]

            stack.enter_context(replaced(cpp_extension, "include_paths", include_paths))
        yield


def write_compiler(folder: Path, zig: str, machine: str = "x86_64") -> str:
    """Write a program that compiles C and C++ as Clang does, by a name that Inductor takes for Clang's."""
    path = folder / "clang++"
    path.write_text(
        f"#!/bin/sh\nexport ZIG_GLOBAL_CACHE_DIR='{cache_folder() / 'zig'}'\n"
        f"exec '{zig}' c++ -target {machine}-linux-gnu.{GLIBC} -s -Wno-unused-command-line-argument \"$@\"\n"
    )
    path.chmod(0o755)
    return str(path)
