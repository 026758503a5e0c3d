"""Lower a variant to CUDA as on an H100, on a machine that has no GPU, and whose PyTorch may be a build without CUDA.

    python without_gpu.py FOLDER VARIANT PRECISION L2_MIB    writes model.pte, aoti_cuda_blob.ptd and wrapper.cpp

Everything is compiled and linked; nothing is run. What asks PyTorch for its GPU is told of one, weights are fake
tensors on it while Inductor works, and the written ones are zeros. For torch 2.11 and 2.13, whose internals this
patches all over; so it takes a process of its own.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from yolo26_executorch.lowering.target import MIB, Target
from yolo26_executorch.system import probe

DEVICE = torch.device("cuda:0")


class Driver:
    """As much of Triton's driver as Inductor asks for; nothing can be launched with it."""

    class utils:
        load_binary = staticmethod(lambda *_: (1, 1, 32, 0, 1024))
        unload_module = staticmethod(lambda *_: None)
        get_device_properties = staticmethod(lambda _: {"max_shared_mem": Target().shared_bytes, "warpSize": 32})

    class launcher_cls:
        def __init__(self, source: Any, metadata: Any) -> None:
            pass

        def __call__(self, *_: Any) -> None:
            pass

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda


def on_gpu(value: Any, mode: Any, held: bool = False) -> Any:
    """A fake tensor on the GPU for a tensor; a `held` one tells its values, which Inductor writes into its code."""
    if not isinstance(value, Tensor):
        return value
    with mode:
        fake: Any = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
    if held:
        fake.item, fake.tolist = value.detach().item, value.detach().tolist
    return fake


def move(cls: Any, program: Any, device: str, specs: Any) -> Any:
    """What `CudaBackend.move_program_to_device` does, to fake tensors."""
    from torch._guards import detect_fake_mode

    mode = detect_fake_mode([node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"])
    for name, value in program.state_dict.items():
        fake = on_gpu(value, mode, held=True)
        is_parameter = isinstance(value, torch.nn.Parameter)
        program._state_dict[name] = torch.nn.Parameter(fake, requires_grad=False) if is_parameter else fake
    for name, value in program.constants.items():
        program._constants[name] = on_gpu(value, mode, held=True)
    for node in program.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": DEVICE}
        node.meta["val"] = pytree.tree_map(lambda value: on_gpu(value, mode), node.meta.get("val"))
    return program


def zeros_like(write: Any) -> Any:
    """What writes a tensor's bytes, given zeros instead of a fake tensor."""
    return lambda tensor, path: write(torch.zeros(tensor.untyped_storage().nbytes(), dtype=torch.uint8), path)


@contextlib.contextmanager
def gpu_told_of(gpu: Target) -> Iterator[None]:
    import torch._inductor.fx_passes.joint_graph
    import torch._inductor.fx_passes.post_grad
    import torch._inductor.select_algorithm
    import torch._subclasses.fake_tensor
    import triton.runtime
    from executorch.backends.cuda import cuda_weight_collector
    from executorch.backends.cuda.cuda_backend import CudaBackend
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config

    properties = SimpleNamespace(
        name="H100", major=9, minor=0, multi_processor_count=gpu.multiprocessors, warp_size=32, gcnArchName="",
        shared_memory_per_block_optin=gpu.shared_bytes, L2_cache_size=gpu.l2_bytes,
        shared_memory_per_block=48 * 1024, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048,
        max_threads_per_block=1024, total_memory=80 * 10**9,
    )  # fmt: skip
    told: dict[str, Any] = {
        "torch.version.cuda": "13.0",
        "torch.utils.cpp_extension.CUDA_HOME": str(probe._cuda_home()),
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.get_device_name": lambda *_: properties.name,
        "torch.cuda.get_device_properties": lambda *_: properties,
        "torch.cuda._get_device_properties": lambda *_: properties,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.synchronize": lambda *_: None,
        "torch.cuda.get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "torch.cuda.set_rng_state": lambda *_: None,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda._exchange_device": lambda _: 0,
        "torch.cuda._maybe_exchange_device": lambda _: 0,
        "torch._C._cuda_getCurrentRawStream": lambda _: 0,
        "torch._inductor.runtime.triton_helpers.set_driver_to_gpu": lambda: None,
        "torch._subclasses.fake_tensor.init_gpu_context": lambda *_: None,
        # Patterns that no part of YOLO26 has, which Inductor traces with tensors on the GPU.
        "torch._inductor.fx_passes.joint_graph.lazy_init": lambda *_: None,
        "torch._inductor.fx_passes.post_grad.lazy_init": lambda *_: None,
        # Fake tensors have no memory to compare.
        "torch._inductor.graph.is_same_tensor": lambda one, other: one is other,
    }
    members: list[tuple[Any, str, Any]] = [
        *[(CudaInterface, name, staticmethod(lambda *_: 0)) for name in
          ("exchange_device", "maybe_exchange_device", "current_device", "get_raw_stream")],
        (torch._inductor.select_algorithm.AlgorithmSelectorCache, "generate_example_value",
         staticmethod(lambda size, stride, _, dtype, *more: torch.empty_strided(size, stride, dtype=dtype))),
        (CudaBackend, "move_program_to_device", classmethod(move)),
        (cuda_weight_collector, "_write_tensor_storage", zeros_like(cuda_weight_collector._write_tensor_storage)),
    ]  # fmt: skip
    triton.runtime.driver.set_active(Driver())
    with contextlib.ExitStack() as stack:
        for name, value in told.items():
            stack.enter_context(mock.patch(name, value, create=True))
        for owner, name, value in members:
            stack.enter_context(mock.patch.object(owner, name, value))
        # Compiling processes inherit all of this; folding would read values on the GPU.
        stack.enter_context(
            config.patch(
                joint_graph_constant_folding=False, worker_start_method="fork", use_static_triton_launcher=False
            )
        )
        yield


def main(folder: str, name: str, precision: str, cache_mib: str) -> None:
    from yolo26_executorch.lowering import cuda
    from yolo26_executorch.models.checkpoints import find_sources, load
    from yolo26_executorch.models.export_model import ExportModel
    from yolo26_executorch.models.options import ExportOptions

    gpu = Target(l2_bytes=int(cache_mib) * MIB)
    with gpu_told_of(gpu):
        [source] = find_sources([name])
        options = ExportOptions(backend="cuda", precision=precision, imgsz=(320, 320))
        model = ExportModel(load(source, weights_dir=None, random=True, seed=0), options)
        lowered = cuda.lower(model, options, lambda stage: print(stage, flush=True), gpu)
        lowered.write(Path(folder), "model.pte")
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    [wrapper] = Path(cache_dir()).rglob("*.wrapper.cpp")
    shutil.copy(wrapper, Path(folder) / "wrapper.cpp")


if __name__ == "__main__":
    main(*sys.argv[1:])
