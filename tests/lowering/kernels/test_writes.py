"""Which tensors Inductor takes a kernel to write: what it finds beside the results, it copies, or fails at slices."""

from __future__ import annotations

from typing import Any

import pytest
import triton
from torch._higher_order_ops import triton_kernel_wrap

from support import random_model
from support.launches import launches_of
from yolo26_executorch.lowering.absent_gpu import Driver
from yolo26_executorch.lowering.passes.fusion import fuse
from yolo26_executorch.lowering.passes.rewrites import for_cuda
from yolo26_executorch.lowering.target import H100

RESULTS = {
    "sieve_kernel": {"scores", "candidates", "counts"},
    "rank_kernel": {"scores", "values", "indices"},
}
"""By kernel, where they are not `out…`. Top-k's addresses depend on the scores, which are taken to be written hence."""


@pytest.fixture(autouse=True)
def target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that Triton lowers for."""
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver(H100))


def written(kernel: Any, arguments: dict[str, Any]) -> set[str]:
    identify = getattr(triton_kernel_wrap, "identify_accessed_tensors", None)
    if identify is None:  # torch 2.11's
        return set(triton_kernel_wrap.identify_mutated_tensors(kernel, arguments, {}))  # type: ignore[attr-defined]
    return {dependency.name for dependency in identify(kernel, arguments, {}).read_writes.writes}


def test_a_kernel_writes_its_results_alone() -> None:
    model = for_cuda(random_model("yolo26n-obb", backend="cuda", precision="fp16"))
    launches = launches_of(fuse(model, model.example_input, "tf32"), model.example_input)
    kernels = {launch.kernel.__name__: launch for launch in launches}
    assert len(kernels) > 8
    for name, launch in kernels.items():
        outs = {
            argument for argument in launch.arguments if argument.startswith("out") and argument[3:] in {*"012", ""}
        }
        partial = {"partial"} if launch.arguments.get("SPLIT_K", 1) > 1 and name == "conv_kernel" else set()
        assert written(launch.kernel, launch.arguments) <= (RESULTS.get(name) or outs | partial), name
