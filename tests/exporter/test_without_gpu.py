"""The test of an export whose GPU is not here; `test_cuda_compiled` makes one and passes it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from yolo26_executorch.artifacts.native_code import NativeCode
from yolo26_executorch.artifacts.program_file import CudaPayload, Weight
from yolo26_executorch.exporter import without_gpu
from yolo26_executorch.lowering.gpus import GPUS
from yolo26_executorch.lowering.program import Kernel

AMPERE, HOPPER = GPUS[8, 6], GPUS[9, 0]
KERNELS = (Kernel("conv", (8, 6), 90_000, 128), Kernel("pool", (8, 6), 0, 64), Kernel("conv", (9, 0), 200_000, 256))


def problems(monkeypatch: pytest.MonkeyPatch, kernels: tuple[Kernel, ...] = KERNELS, **changes: Any) -> list[str]:
    fields: dict[str, Any] = {
        "machine": "x86_64", "libraries": ("libcuda.so.1",), "undefined": frozenset({"aoti_torch_get_dim"}),
        "versions": frozenset(), "binaries": Counter({"8.6": 2, "9.0": 1}), "ptx": Counter(),
    }  # fmt: skip
    native = NativeCode(**{**fields, **changes})
    monkeypatch.setattr(without_gpu, "read_native_code", lambda library: native)
    return list(without_gpu.native_problems(CudaPayload(b"", (), ()), [AMPERE, HOPPER], kernels))


def test_native_code_that_is_right_has_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"undefined": frozenset({"aoti_torch_cuda_topk"})},
            "the shared object needs what ExecuTorch's CUDA delegate lacks: aoti_torch_cuda_topk",
        ),
        ({"binaries": Counter({"8.6": 1, "9.0": 1})}, "the shared object has machine code of 1 of 2 kernels for 8.6"),
        ({"binaries": Counter({"8.6": 2})}, "the shared object has machine code of 0 of 1 kernels for 9.0"),
        (
            {"kernels": (*KERNELS[1:], Kernel("conv", (8, 6), 200_000, 128))},
            "kernel conv takes 200000 bytes of shared memory, and 8.6 has 101376",
        ),
        (
            {"kernels": (*KERNELS[1:], Kernel("conv", (8, 6), 0, 2048))},
            "kernel conv has 2048 threads, and 8.6 takes 1 to 1024",
        ),
    ],
)
def test_what_is_wrong_with_native_code_is_told(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    assert problems(monkeypatch, **changes) == [said]


def test_weights_that_were_written_with_other_values_are_told() -> None:
    torch.manual_seed(0)
    graph = nn.Linear(2, 3)

    def weight(name: str, value: torch.Tensor) -> Weight:
        value = value.detach()
        return Weight(name, value.numpy().tobytes(), value.dtype, 0, tuple(value.shape), value.stride())

    weights = [weight("weight", graph.weight), weight("bias", graph.bias), weight("_tensor_constant0", torch.ones(2))]
    assert list(without_gpu.weight_problems(CudaPayload(b"", tuple(weights), ()), graph)) == []
    zeros = CudaPayload(b"", (weight("weight", torch.zeros(3, 2)), *weights[1:]), ())
    assert list(without_gpu.weight_problems(zeros, graph)) == ["the weight weight was written with other values"]
    none = CudaPayload(b"", tuple(weights[2:]), ())
    assert list(without_gpu.weight_problems(none, graph)) == ["none of the graph's weights was written"]
