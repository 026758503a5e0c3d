"""Compile for a GPU that is described, on a machine that need not have one, and whose PyTorch may be built for CPUs.

PyTorch, Inductor, Triton and the CUDA backend of ExecuTorch ask for a GPU's properties here and there, and put the
weights on it. Within `compiling_for` they are told of the described one: weights are fake tensors on it while Inductor
works, and what is written are their values, from the CPU. The only file that knows where they ask (torch 2.11 to 2.13,
Triton 3.6 and 3.7, executorch 1.5).
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..errors import LoweringError
from ..system.probe import toolkit_folder
from . import toolchain
from .inductor import NoLauncher, replaced
from .target import Target

DEVICE = torch.device("cuda:0")

_CUDA = "13.0"
"""That PyTorch is said to be built for where it is built for none: what decides how Inductor packs kernels."""


class Driver:
    """As much of Triton's driver as Inductor asks for; nothing can be launched with it."""

    def __init__(self, gpu: Target) -> None:
        self._gpu = gpu
        limits = {"max_shared_mem": gpu.shared_bytes, "warpSize": 32, "multiprocessor_count": gpu.multiprocessors}
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (1, 1, 32, 0, 1024),  # module, function, registers, spills, threads
            unload_module=lambda *_: None,
            get_device_properties=lambda _: limits,
        )
        self.launcher_cls = NoLauncher

    def get_current_target(self) -> Any:
        """Return what Triton compiles for."""
        from triton.backends.compiler import GPUTarget

        major, minor = self._gpu.capability
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> int:
        """Return the GPU's index."""
        return 0

    def get_device_interface(self) -> Any:
        """Return PyTorch's interface of the GPU."""
        return torch.cuda


@contextlib.contextmanager
def compiling_for(gpu: Target) -> Iterator[None]:
    """Tell everything that asks in this context, and in processes forked within, of a described GPU."""
    import torch._inductor.fx_passes.joint_graph
    import torch._inductor.fx_passes.post_grad
    import torch._inductor.graph
    import torch._inductor.runtime.triton_helpers
    import torch._inductor.select_algorithm
    import torch._subclasses.fake_tensor
    import torch.utils.cpp_extension
    import triton.runtime
    from executorch.backends.cuda.cuda_backend import CudaBackend
    from executorch.backends.cuda.cuda_weight_collector import CudaWeightCollector
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config

    inductor: Any = torch._inductor
    properties, cuda = _properties(gpu), torch.cuda
    weights = _Weights()
    replacements: list[tuple[Any, str, Any]] = [
        (triton.runtime.driver, "_active", Driver(gpu)),
        (torch.version, "cuda", torch.version.cuda or _CUDA),
        (torch.utils.cpp_extension, "CUDA_HOME", _toolkit()),
        (cuda, "is_available", lambda: True),
        (cuda, "device_count", lambda: 1),
        (cuda, "get_device_capability", lambda *_: gpu.capability),
        (cuda, "get_device_name", lambda *_: gpu.name),
        (cuda, "get_device_properties", lambda *_: properties),
        (cuda, "_get_device_properties", lambda *_: properties),
        (cuda, "_lazy_init", lambda: None),
        (cuda, "synchronize", lambda *_: None),
        (cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8)),
        (cuda, "set_rng_state", lambda *_: None),
        (cuda, "current_device", lambda: 0),
        (cuda, "_exchange_device", lambda _: 0),
        (cuda, "_maybe_exchange_device", lambda _: 0),
        (torch._C, "_cuda_getCurrentRawStream", lambda _: 0),
        *[(CudaInterface, name, staticmethod(lambda *_: 0)) for name in
          ("exchange_device", "maybe_exchange_device", "current_device", "get_raw_stream")],
        (inductor.runtime.triton_helpers, "set_driver_to_gpu", lambda: None),
        (torch._subclasses.fake_tensor, "init_gpu_context", lambda *_: None),
        # Patterns that no part of YOLO26 has, which Inductor traces with tensors on the GPU.
        (inductor.fx_passes.joint_graph, "lazy_init", lambda *_: None),
        (inductor.fx_passes.post_grad, "lazy_init", lambda *_: None),
        # Fake tensors have no memory to compare.
        (inductor.graph, "is_same_tensor", lambda one, other: one is other),
        (inductor.select_algorithm.AlgorithmSelectorCache, "generate_example_value",
         staticmethod(lambda size, stride, _, dtype, *more: torch.empty_strided(size, stride, dtype=dtype))),
        (CudaBackend, "move_program_to_device", classmethod(lambda _, program, *__: weights.take(program))),
        (CudaWeightCollector, "materialize", weights.written_by(CudaWeightCollector.materialize)),
    ]  # fmt: skip
    settings = {
        # It would read values on the GPU.
        "joint_graph_constant_folding": False,
        # Compiling processes must inherit all of this.
        "worker_start_method": "fork",
        "use_static_triton_launcher": False,
    }
    _forget_gpus()
    with contextlib.ExitStack() as stack:
        stack.callback(_forget_gpus)
        stack.enter_context(toolchain.by_pip())
        libraries = stack.enter_context(driver_to_link())
        replacements.append((torch.utils.cpp_extension, "library_paths", lambda *_, **__: [libraries]))
        for owner, name, value in replacements:
            stack.enter_context(replaced(owner, name, value))
        stack.enter_context(config.patch(settings))
        yield


def _forget_gpus() -> None:
    """Drop what Inductor remembers of the GPU that it has compiled for, and end the processes that inherited it."""
    from torch._dynamo import device_interface
    from torch._inductor import async_compile, utils
    from torch._inductor.codegen.cuda import cuda_env
    from torch._inductor.runtime.hints import DeviceProperties

    async_compile.shutdown_compile_workers()
    device_interface.caching_worker_device_properties.clear()
    names = ("get_cuda_arch", "get_cuda_version", "is_datacenter_blackwell_arch")
    asked = [getattr(cuda_env, name, None) for name in names]
    remembered = [DeviceProperties.create, utils.is_big_gpu, utils.get_max_num_sms, *asked]
    for function in remembered:
        if clear := getattr(function, "cache_clear", None):
            clear()


_DRIVER = ("libcuda.so", "libcuda.so.1")
"""What is linked with, and the name that the loader then looks for."""
_DRIVER_FUNCTIONS = (
    "cuDeviceGet", "cuDeviceGetAttribute", "cuDriverGetVersion", "cuFuncSetAttribute", "cuGetErrorString", "cuInit",
    "cuLaunchKernel", "cuLaunchKernelEx", "cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload",
    "cuStreamIsCapturing",
)  # fmt: skip
"""That what calls the kernels takes from NVIDIA's driver."""


@contextlib.contextmanager
def driver_to_link() -> Iterator[str]:
    """Return a folder with a library to link with in place of NVIDIA's driver, which need not be here."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    source = "".join(f'extern "C" int {name}() {{ return 999; }}\n' for name in _DRIVER_FUNCTIONS)
    with tempfile.TemporaryDirectory(prefix="yolo26-et-driver-") as folder:
        library, name = _DRIVER
        command = [get_cpp_compiler(), "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c++", "-"]
        subprocess.run([*command, "-o", f"{folder}/{library}"], input=source.encode(), check=True, capture_output=True)
        yield folder


def _properties(gpu: Target) -> Any:
    major, minor = gpu.capability
    return SimpleNamespace(
        name=gpu.name, major=major, minor=minor, multi_processor_count=gpu.multiprocessors, warp_size=32,
        gcnArchName="", shared_memory_per_block=48 * 1024, shared_memory_per_block_optin=gpu.shared_bytes,
        L2_cache_size=gpu.l2_bytes, regs_per_multiprocessor=65536, max_threads_per_multi_processor=gpu.threads,
        max_threads_per_block=1024, total_memory=16 * 10**9,
    )  # fmt: skip


def _toolkit() -> str | None:
    folder = toolkit_folder()
    return str(folder) if folder else None


class _Weights:
    """The values of a program's weights, which is itself given fake tensors on the GPU in their place."""

    def __init__(self) -> None:
        self._values: dict[str, Tensor] = {}

    def take(self, program: Any) -> Any:
        """Do to a program, with fake tensors, what `CudaBackend.move_program_to_device` does."""
        from torch._guards import detect_fake_mode
        from torch.utils import _pytree as pytree

        mode = detect_fake_mode([node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"])
        for held, moved in ((program.state_dict, program._state_dict), (program.constants, program._constants)):
            for name, value in dict(held).items():
                if not isinstance(value, Tensor):
                    continue
                self._values[name] = value.detach()
                fake = _fake(value, mode)
                # Constants keep the object, and lose their name; small ones are written into the code.
                fake.value, fake.item, fake.tolist = value.detach(), value.detach().item, value.detach().tolist
                is_parameter = isinstance(value, torch.nn.Parameter)
                moved[name] = torch.nn.Parameter(fake, requires_grad=False) if is_parameter else fake
        for node in program.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": DEVICE}
            node.meta["val"] = pytree.tree_map(lambda value: _fake(value, mode), node.meta.get("val"))
        return program

    def written_by(self, materialize: Callable[..., Any]) -> Callable[..., Any]:
        """Return `CudaWeightCollector.materialize`, which writes the weights, given the values."""
        from executorch.backends.cuda.cuda_weight_collector import AOTI_DEVICE_TYPE_CUDA

        def write(collector: Any, weights: Any, directory: str, _: Any) -> Any:
            real = {name: (self._value(name, *described), described[1]) for name, described in weights.items()}
            return materialize(collector, real, directory, lambda _: AOTI_DEVICE_TYPE_CUDA)

        return write

    def _value(self, name: str, fake: Any, properties: Any) -> Tensor:
        """Return a weight's values, in a storage of their own with the strides that the model was compiled for."""
        value, shape = getattr(fake, "value", self._values.get(name)), tuple(properties.shape)
        if value is None or tuple(value.shape) != shape:
            found = "no weight" if value is None else f"one of shape {tuple(value.shape)}"
            raise LoweringError(f"the compiled model reads {name!r} of shape {shape}, and the program has {found}")
        return torch.empty_strided(shape, tuple(properties.stride), dtype=value.dtype).copy_(value)


def _fake(value: Any, mode: Any) -> Any:
    """Return a fake tensor on the GPU for a tensor; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    with mode:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
