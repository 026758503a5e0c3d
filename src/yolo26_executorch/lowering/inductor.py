"""AOTInductor, set up for our graphs: choices that it would benchmark are made for it, and needless work is left out.

The only file that touches internals of Inductor (torch 2.11 to 2.13).
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..models.export_model import float32_precision
from .kernels import pdl
from .program import Kernel
from .target import Target
from .tuning.cost_model import template_tile


def compile_threads() -> int:
    """Return how many kernels are compiled side by side."""
    return int(os.environ.get("YOLO26_ET_COMPILE_THREADS", 0)) or min(32, os.cpu_count() or 1)


def cpp_compiler() -> str:
    """Return the C++ compiler; it takes C, too."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    return get_cpp_compiler()


def start_compilers() -> threading.Thread:
    """Start what compiles the kernels, which takes seconds and does not need the model; returns what to wait for.

    That is Inductor's pool of processes, and Triton's own driver, which the C compiler builds for its first use.
    """
    from torch._inductor import config

    def build_driver() -> None:
        with contextlib.suppress(Exception):  # whoever needs it first is told why
            from triton.runtime import driver

            driver.active.get_current_device()

    with config.patch(compile_threads=compile_threads()):
        from torch._inductor.async_compile import AsyncCompile  # makes its pool when it is imported

        AsyncCompile.use_process_pool()  # type: ignore[no-untyped-call]
    building = threading.Thread(target=build_driver, daemon=True)
    building.start()
    return building


@contextlib.contextmanager
def compiling(
    gpu: Target, input_precision: str, on_compile: Callable[[], None], starting: threading.Thread
) -> Iterator[None]:
    """Set Inductor up for the time of one lowering.

    Args:
        gpu: what is compiled for.
        input_precision: of float32 matrix products, "tf32" or "ieee".
        on_compile: called when Inductor begins.
        starting: what `start_compilers` has returned.
    """
    import torch._inductor
    from torch._inductor import config

    settings = {
        "max_autotune_gemm": True,
        "benchmark_epilogue_fusion": False,
        "force_layout_optimization": True,
        "shape_padding": False,
        "triton.autotune_pointwise": False,
        "compile_threads": compile_threads(),
        # No kernel runs on the CPU. Inductor would build and start a program for each of its vector units to ask.
        "cpp.vec_isa_ok": False,
        # Precompiling these headers takes longer than the second that they save.
        "aot_inductor.precompile_headers": False,
        # The wrapper, thousands of lines that run once a call, compiles in two thirds of the time of -O1.
        "aot_inductor.compile_wrapper_opt_level": "Og",
    }
    original = torch._inductor.aot_compile

    def compile_when_ready(*args: Any, **kwargs: Any) -> Any:
        on_compile()
        starting.join()
        return original(*args, **kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(config.patch(settings))
        stack.enter_context(float32_precision(input_precision))
        stack.enter_context(_fixed_template_tiles(gpu, ieee=input_precision == "ieee"))
        stack.enter_context(_kernels_shared_between_sizes())
        stack.enter_context(_cached_mutation_analysis())
        stack.enter_context(_early_launches())
        stack.enter_context(_embedded_by_assembler())
        stack.enter_context(_portable_host_code())
        stack.enter_context(_without_repro())
        stack.enter_context(_without_launchers())
        stack.enter_context(_without_benchmarking())
        stack.enter_context(replaced(torch._inductor, "aot_compile", compile_when_ready))
        yield


def compiled_kernels(capability: tuple[int, int]) -> tuple[Kernel, ...]:
    """Return the kernels that this process has compiled since `forget_kernels`, all of them for one GPU."""
    from torch._inductor.codecache import CudaKernelParamCache

    return tuple(
        Kernel(name, capability, int(told.get("shared_mem") or 0), 32 * int(told.get("num_warps") or 0))
        for name, told in CudaKernelParamCache.cache.items()
    )


def forget_kernels() -> None:
    """Have `compiled_kernels` begin anew."""
    from torch._inductor.codecache import CudaKernelParamCache

    CudaKernelParamCache.cache.clear()


@contextlib.contextmanager
def _fixed_template_tiles(gpu: Target, *, ieee: bool) -> Iterator[None]:
    """Give Inductor's templates, for products that no kernel of ours computes, the tile that `cost_model` chooses."""
    from torch._inductor.template_heuristics import triton as heuristics

    def one_tile(self: Any, m: int, n: int, k: int, configs: Any, *args: Any, **kwargs: Any) -> Any:
        convolution = kwargs.get("op_name") == "conv"
        # Some callers leave the element's size out; then the inputs are float32 as often as not.
        tile = template_tile(
            int(m), int(n), int(k),
            element_bytes=kwargs.get("dtype_size") or 4, ieee=ieee, convolution=convolution,
            multiprocessors=gpu.multiprocessors,
        )  # fmt: skip
        kind = heuristics.BaseConfig if convolution else heuristics.GemmConfig
        return self._finalize_mm_configs([kind(tile.m, tile.n, tile.k, tile.stages, tile.warps)])

    with replaced(heuristics.CUDAConfigHeuristic, "preprocess_mm_configs", one_tile):
        yield


class _KernelsBySpecialization(dict[Any, Any]):
    """Inductor's table of user-defined kernels, in which launches that differ in sizes alone share one.

    Inductor keys them by the values of their arguments where a launch says `num_warps`, and so compiles a kernel for
    every layer. What the machine code depends on (types, alignment, constants, `num_warps` and `num_stages` among
    them, since our kernels take these as constants, too) is in its own description of the kernel, which is in the key.
    """

    def __contains__(self, key: object) -> bool:
        return super().__contains__(self._without_values(key))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._without_values(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(self._without_values(key), value)

    @staticmethod
    def _without_values(key: Any) -> Any:
        described = next(index for index, part in enumerate(key) if isinstance(part, str) and part.startswith("{"))
        return (key[0], *key[described:])


@contextlib.contextmanager
def _kernels_shared_between_sizes() -> Iterator[None]:
    from torch._inductor.codegen.wrapper import PythonWrapperCodegen

    original = PythonWrapperCodegen.define_user_defined_triton_kernel

    def define(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self.user_defined_kernel_cache, _KernelsBySpecialization):
            self.user_defined_kernel_cache = _KernelsBySpecialization(self.user_defined_kernel_cache)
        return original(self, *args, **kwargs)

    with replaced(PythonWrapperCodegen, "define_user_defined_triton_kernel", define):
        yield


@contextlib.contextmanager
def _cached_mutation_analysis() -> Iterator[None]:
    """Analyse once for each kernel, not at every launch, which tensors it writes: that lowers it to Triton's IR.

    That depends on the kernel's constants, and on the arguments that Triton makes constants of: None and 1. PDL's
    wait is left out: the analysis gives up where it meets an instruction that it does not know.
    """
    from torch._higher_order_ops import triton_kernel_wrap

    module: Any = triton_kernel_wrap
    names = ("identify_accessed_tensors", "identify_mutated_tensors")  # torch 2.13's and 2.11's
    name = next((name for name in names if hasattr(module, name)), None)
    if name is None:  # slower, and nothing else
        yield
        return
    original = getattr(module, name)
    found: dict[Any, Any] = {}

    def identify(kernel: Any, kwargs: dict[str, Any], *more: Any) -> Any:
        function = kernel if hasattr(kernel, "constexprs") else kernel.fn  # of what only adds launch settings
        constants = {function.arg_names[index] for index in function.constexprs}
        told = [
            (name, repr(value) if name in constants else value is None or (type(value) is int and value == 1))
            for name, value in sorted(kwargs.items())
        ]
        key = (function, *told, repr(more))
        if key not in found:
            without_pdl = {pdl.NAME: False} if pdl.NAME in kwargs else {}
            found[key] = original(kernel, kwargs | without_pdl, *more)
        return found[key]

    with replaced(module, name, identify):
        yield


_LAUNCH_EARLY = """
static inline void launchEarly(
    CUfunction func, uint32_t x, uint32_t y, uint32_t z, uint32_t warps, uint32_t shared, void* args[], CUstream stream
) {
    static const bool served = [] {
        int version = 0;
        return cuDriverGetVersion(&version) == CUDA_SUCCESS && version >= 12030;
    }();
    CUstreamCaptureStatus capture = CU_STREAM_CAPTURE_STATUS_NONE;
    const bool asked = served && cuStreamIsCapturing(stream, &capture) == CUDA_SUCCESS;
    if (!asked || capture != CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        launchKernel(func, x, y, z, warps, shared, args, stream);
        return;
    }
    CUlaunchAttribute early{};
    early.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    early.value.programmaticStreamSerializationAllowed = 1;
    CUlaunchConfig config{};
    config.gridDimX = x;
    config.gridDimY = y;
    config.gridDimZ = z;
    config.blockDimX = 32 * warps;
    config.blockDimY = 1;
    config.blockDimZ = 1;
    config.sharedMemBytes = shared;
    config.hStream = stream;
    config.attrs = &early;
    config.numAttrs = 1;
    CUDA_DRIVER_CHECK(cuLaunchKernelEx(&config, func, args, nullptr));
}
"""
"""The launch of a kernel with PDL: it may start before the one before it has ended. In a CUDA graph it does, with a
driver for CUDA 12.3 or newer, whose graphs can hold that. Launched one by one, it would take the CPU longer than most
kernels run, so that Inductor's own `launchKernel` does it."""


@contextlib.contextmanager
def _early_launches() -> Iterator[None]:
    """Launch with PDL the kernels that are compiled for it, and no others."""
    from torch._inductor.codegen.cpp_wrapper_gpu import DeferredTritonCallWrapper
    from torch._inductor.codegen.cuda.device_op_overrides import CUDADeviceOpOverrides
    from torch._inductor.utils import IndentedBuffer

    original_driver = CUDADeviceOpOverrides.kernel_driver
    original_launch: Any = DeferredTritonCallWrapper.generate_launch_kernel

    def driver(self: Any) -> str:
        return original_driver(self) + _LAUNCH_EARLY

    def launch(self: Any, prefix: Any, wrapper: Any, variable: str, params: dict[str, Any]) -> None:
        if not params["triton_meta"]["constants"].get(pdl.NAME):
            original_launch(self, prefix, wrapper, variable, params)
            return
        lines = IndentedBuffer()  # type: ignore[no-untyped-call]
        original_launch(self, lines, wrapper, variable, params)
        prefix.splice(lines.getvalue().replace("launchKernel(", "launchEarly("))

    with (
        replaced(CUDADeviceOpOverrides, "kernel_driver", driver),
        replaced(DeferredTritonCallWrapper, "generate_launch_kernel", launch),
    ):
        yield


@contextlib.contextmanager
def _embedded_by_assembler() -> Iterator[None]:
    """Embed each kernel's binary by one run of the assembler, under the kernel's own name.

    torch 2.11 starts three programs a kernel, one after the other; and since it names the object file after the
    binary's content, two of our kernels that compile to the same code would be linked as one file twice, under one of
    their names. torch 2.13 embeds all kernels at once and does not come here.
    """
    from torch._inductor import codecache
    from torch._inductor.cpp_builder import get_cpp_compiler

    def embed(cubin_file: str, kernel_name: str, *_: Any) -> str:
        # A name of its own: models share kernels, other exports use this folder, too, and each removes what it linked.
        base = f"{cubin_file.removesuffix('.cubin')}_{kernel_name}_{uuid.uuid4().hex}"
        symbols = {"start": "", "end": f'.incbin "{cubin_file}"'}
        lines = ["    .section .rodata", "    .balign 16"]
        for name, before in symbols.items():
            lines += [f"    {before}", f"    .globl __{kernel_name}_{name}", f"__{kernel_name}_{name}:"]
        lines.append('    .section .note.GNU-stack,"",@progbits')
        Path(f"{base}.S").write_text("\n".join(lines) + "\n")
        command = [get_cpp_compiler(), "-c", f"{base}.S", "-o", f"{base}.o"]
        subprocess.run(command, capture_output=True, text=True, check=True)
        return f"{base}.o"

    with replaced(codecache, "convert_cubin_to_obj", embed):
        yield


@contextlib.contextmanager
def _portable_host_code() -> Iterator[None]:
    """Compile the wrapper for every CPU of the platform, not for the one at hand (`-march=native`)."""
    from torch._inductor import config, cpp_builder

    if hasattr(config.cpp, "march"):  # from torch 2.13 on
        with config.patch({"cpp.march": ""}):
            yield
        return
    original = cpp_builder._get_optimization_cflags

    def portable(*args: Any, **kwargs: Any) -> Any:
        flags, libraries = original(*args, **kwargs)
        return [flag for flag in flags if flag != "march=native"], libraries

    with replaced(cpp_builder, "_get_optimization_cflags", portable):
        yield


@contextlib.contextmanager
def _without_repro() -> Iterator[None]:
    """Skip the repro script, which Inductor writes for traces: it takes seconds."""
    from torch._dynamo.repro import after_aot

    with replaced(after_aot, "save_graph_repro", lambda *_, **__: None):
        yield


class NoLauncher:
    """Stands in for Triton's launcher of a kernel: nothing is launched."""

    def __init__(self, source: Any, metadata: Any) -> None:
        """Build nothing."""

    def __call__(self, *_: Any) -> None:
        """Launch nothing."""


@contextlib.contextmanager
def _without_launchers() -> Iterator[None]:
    """Compile kernels without launching them: the wrapper that does is written in C++.

    Inductor starts each of them once. For that, Triton before 3.7 has the C compiler build a launcher for every kind of
    signature, one after the other: six seconds of a core for yolo26n.
    """
    from triton.runtime import driver

    with replaced(driver.active, "launcher_cls", NoLauncher):
        yield


_ROWS = 8
"""XBLOCK of Inductor's reductions, as Inductor has it where it does not try several."""


@contextlib.contextmanager
def _without_benchmarking() -> Iterator[None]:
    """Choose among the configs of Inductor's own reductions by their rows: nothing is launched that could be timed."""
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    def distance(self: Any, launcher: Any, *_: Any, **__: Any) -> float:
        rows: int = launcher.config.kwargs.get("XBLOCK", _ROWS)
        return abs(math.log2(rows / _ROWS))

    with replaced(CachingAutotuner, "bench", distance):
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute in this context."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
