"""What of Inductor's changes can be seen without compiling a model; `test_cuda_compiled` compiles one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import PATIENCE_S
from yolo26_executorch.lowering import inductor


def test_a_replaced_attribute_comes_back_even_after_an_error() -> None:
    class Base:
        word = "base"

    class Owner(Base):
        pass

    with pytest.raises(KeyError), inductor.replaced(Owner, "word", "new"):
        assert Owner.word == "new"
        raise KeyError
    assert Owner.word == "base"
    assert "word" not in vars(Owner)
    with inductor.replaced(Base, "word", "new"):
        assert Owner.word == "new"
    assert Base.word == "base"


def test_what_calls_the_kernels_is_compiled_for_any_cpu() -> None:
    from torch._inductor import cpp_builder

    def architecture() -> list[str]:
        flags, _ = cpp_builder._get_optimization_cflags("g++", True)
        return [flag for flag in flags if flag.startswith(("march", "mcpu"))]

    before = architecture()
    with inductor._portable_host_code():
        assert architecture() == []
    assert architecture() == before != []


def test_a_kernel_is_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._higher_order_ops import triton_kernel_wrap as wrap

    name = next(n for n in ("identify_accessed_tensors", "identify_mutated_tensors") if hasattr(wrap, n))
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(wrap, name, lambda kernel, kwargs, *more: asked.append(kwargs) or ["out"])

    class Kernel:
        def __init__(self, *names: str) -> None:
            self.arg_names, self.constexprs = names, [names.index("BLOCK")]

    function = Kernel("x", "n", "BLOCK")
    launches = SimpleNamespace(fn=function)
    with inductor._cached_mutation_analysis():
        identify = getattr(wrap, name)
        for kernel, kwargs in (
            (function, {"x": object(), "n": 9, "BLOCK": 64}),
            (launches, {"x": object(), "n": 7, "BLOCK": 64}),
            (function, {"x": object(), "n": 1, "BLOCK": 64}),
            (function, {"x": None, "n": 9, "BLOCK": 64}),
            (function, {"x": object(), "n": 9, "BLOCK": 32}),
            (Kernel("BLOCK"), {"BLOCK": 64}),
            (function, {"x": None, "n": 5, "BLOCK": 64}),
        ):
            assert identify(kernel, kwargs, {}) == ["out"]
        # Waiting is not analysed; whether a kernel waits is a constant like others.
        function.arg_names, function.constexprs = ("BLOCK", "PDL"), [0, 1]
        identify(function, {"BLOCK": 64, "PDL": True}, {})
    assert asked.pop() == {"BLOCK": 64, "PDL": False}
    # Not again for other sizes, but for size 1, for nothing, and for another constant or kernel.
    assert [kwargs.get("n") for kwargs in asked] == [9, 1, 9, 9, None]


def test_what_is_linked_of_a_kernel_is_an_exports_own(tmp_path: Path) -> None:
    """Models share kernels, and exports side by side a folder: each removes the object files that it has linked."""
    from torch._inductor import codecache

    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(b"machine code")
    with inductor._embedded_by_assembler():
        first, second = (Path(codecache.convert_cubin_to_obj(str(cubin), "conv_kernel_0", "", "")) for _ in range(2))
    first.unlink()
    assert b"__conv_kernel_0_start" in second.read_bytes() and b"machine code" in second.read_bytes()


def test_inductors_reductions_are_chosen_without_timing_them() -> None:
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    def chosen(*rows: int) -> int:
        forms = [SimpleNamespace(config=SimpleNamespace(kwargs={"XBLOCK": count})) for count in rows]
        with inductor._without_benchmarking():
            times = {form.config.kwargs["XBLOCK"]: CachingAutotuner.bench(None, form, "argument") for form in forms}
        return min(times, key=lambda count: times[count])

    before = CachingAutotuner.bench
    assert [chosen(1, 8, 32, 128), chosen(1, 32), chosen(1), chosen(32, 128)] == [8, 32, 1, 32]
    assert CachingAutotuner.bench is before


def test_kernels_that_wait_are_launched_early_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.codegen.cpp_wrapper_gpu import DeferredTritonCallWrapper
    from torch._inductor.codegen.cuda.device_op_overrides import CUDADeviceOpOverrides
    from torch._inductor.utils import IndentedBuffer

    def launch(self: Any, prefix: Any, wrapper: Any, variable: str, params: Any) -> None:
        prefix.writeline("void* kernel_args_[] = {&var_0};")
        prefix.writeline(f"launchKernel({variable}, grid_0, grid_1, grid_2, 4, 0, kernel_args_, stream_);")

    monkeypatch.setattr(DeferredTritonCallWrapper, "generate_launch_kernel", launch)
    written = IndentedBuffer()  # type: ignore[no-untyped-call]
    with inductor._early_launches():
        for name, constants in {"waits": {"PDL": True}, "does_not": {"PDL": False}, "inductors": {}}.items():
            params = {"triton_meta": {"constants": constants}}
            DeferredTritonCallWrapper.generate_launch_kernel(None, written, None, name, params)
        helpers = CUDADeviceOpOverrides().kernel_driver()
    lines = [line.split(",")[0] for line in written.getvalue().splitlines() if "void" not in line]
    assert lines == ["launchEarly(waits", "launchKernel(does_not", "launchKernel(inductors"]
    assert written.getvalue().count("void* kernel_args_[]") == 3
    # The helper is there, and takes what Inductor gives its own.
    assert "static inline void launchKernel(" in helpers
    assert "static inline void launchEarly(" in helpers
    assert "launchEarly" not in CUDADeviceOpOverrides().kernel_driver()


DRIVER = """
#include <cstdint>
#include <cstdio>
#include <cstring>
typedef int CUfunction, CUresult;
typedef struct CUstream_st* CUstream;
enum { CUDA_SUCCESS = 0, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906 };
enum CUstreamCaptureStatus { CU_STREAM_CAPTURE_STATUS_NONE, CU_STREAM_CAPTURE_STATUS_ACTIVE };
enum { CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6 };
struct CUlaunchAttribute { int id; struct { int programmaticStreamSerializationAllowed; } value; };
struct CUlaunchConfig {
    unsigned gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
    CUstream hStream;
    CUlaunchAttribute* attrs;
    unsigned numAttrs;
};
#define CUDA_DRIVER_CHECK(EXPR) EXPR
static const char* state;
static CUresult cuDriverGetVersion(int* version) {
    *version = strcmp(state, "old") ? 12030 : 12020;
    return CUDA_SUCCESS;
}
static CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
    if (!strcmp(state, "refused")) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    *status = strcmp(state, "free") ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
static CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction func, void** args, void**) {
    printf("early %d %u %u %u %u %u %u %u %s %u %d %d", func, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX,
           c->blockDimY, c->blockDimZ, c->sharedMemBytes, (char*)args[0], c->numAttrs, c->attrs[0].id,
           c->attrs[0].value.programmaticStreamSerializationAllowed);
    return CUDA_SUCCESS;
}
static void launchKernel(CUfunction func, uint32_t x, uint32_t y, uint32_t z, uint32_t warps, uint32_t shared,
                         void* args[], CUstream) {
    printf("ordinary %d %u %u %u %u %u %s", func, x, y, z, warps, shared, (char*)args[0]);
}
"""
"""As much of NVIDIA's driver as a launch takes, and what it was called with."""
CALL = """
int main(int, char** arguments) {
    state = arguments[1];
    char word[] = "argument";
    void* args[] = {word};
    launchEarly(7, 2, 3, 4, 8, 1024, args, nullptr);
}
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that launches a kernel as an artifact would, whose stream is in the state that it is given."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("launcher")
    source = folder / "launcher.cpp"
    source.write_text(DRIVER + inductor._LAUNCH_EARLY + CALL)
    subprocess.run([compiler, "-o", folder / "launcher", source], check=True, timeout=PATIENCE_S)
    return folder / "launcher"


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("captured", "early 7 2 3 4 256 1 1 1024 argument 1 6 1"),
        ("free", "ordinary 7 2 3 4 8 1024 argument"),
        ("refused", "ordinary 7 2 3 4 8 1024 argument"),
        ("old", "ordinary 7 2 3 4 8 1024 argument"),
    ],
)
def test_kernels_are_launched_early_in_a_graph_alone(launcher: Path, state: str, told: str) -> None:
    assert subprocess.check_output([launcher, state], text=True, timeout=PATIENCE_S) == told
