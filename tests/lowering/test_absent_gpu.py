"""What libraries are told of a GPU that is only described; `test_cuda_compiled` compiles for one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yolo26_executorch.errors import LoweringError
from yolo26_executorch.lowering.absent_gpu import _Weights, compiling_for
from yolo26_executorch.lowering.gpus import GPUS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_libraries_see_the_described_gpu_and_afterwards_none() -> None:
    import triton.runtime
    from torch._inductor import config
    from torch._inductor.runtime.hints import DeviceProperties

    def seen() -> tuple[Any, ...]:
        return torch.version.cuda, torch.cuda.is_available(), torch.cuda.device_count(), config.worker_start_method

    before, driver = seen(), triton.runtime.driver._active
    with compiling_for(GPUS[8, 9]):
        assert torch.cuda.get_device_capability() == (8, 9)
        assert triton.runtime.driver.active.get_current_target().arch == 89
        shared = triton.runtime.driver.active.utils.get_device_properties(0)["max_shared_mem"]
        assert shared == torch.cuda.get_device_properties(0).shared_memory_per_block_optin == 99 * 1024
        told = DeviceProperties.create(torch.device("cuda", 0))  # type: ignore[no-untyped-call]
        assert (told.cc, told.multi_processor_count) == (89, 58)
        assert torch.cuda.is_available()
    assert seen() == before
    assert triton.runtime.driver._active is driver


@pytest.mark.slow
def test_weights_are_written_as_they_are_in_the_strides_that_were_compiled() -> None:
    weights = _Weights()
    value = torch.arange(24.0).reshape(2, 3, 2, 2)
    weights._values["conv.weight"] = value
    compiled = torch.empty(2, 3, 2, 2).to(memory_format=torch.channels_last)
    properties = SimpleNamespace(shape=compiled.shape, stride=compiled.stride(), offset=0)

    def materialize(collector: Any, given: dict[str, Any], directory: str, device_type: Any) -> Any:
        (written, _) = given["conv.weight"]
        assert torch.equal(written, value)
        assert written.stride() == compiled.stride()
        return device_type(written)

    assert weights.written_by(materialize)(None, {"conv.weight": (None, properties)}, "", None) == 1
    properties.shape = (2, 3, 4)
    with pytest.raises(LoweringError, match=r"the compiled model reads 'conv.weight' of shape \(2, 3, 4\)"):
        weights.written_by(materialize)(None, {"conv.weight": (None, properties)}, "", None)
    with pytest.raises(LoweringError, match="the program has no weight"):
        weights.written_by(materialize)(None, {"lost": (None, properties)}, "", None)
