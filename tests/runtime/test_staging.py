"""What of the staging can be seen without a GPU; the rest is in `tests/gpu`."""

from __future__ import annotations

import pytest
import torch

from yolo26_executorch.runtime import staging


def test_where_nothing_can_be_pinned_the_usual_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.empty_like

    def refusing(tensor: torch.Tensor, *, pin_memory: bool = False, **more: object) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return original(tensor, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "empty_like", refusing)
    strided = torch.zeros((2, 3, 4, 5), dtype=torch.uint8).permute(0, 2, 3, 1)
    found = staging._pinned_like(strided)
    assert (found.shape, found.dtype, found.stride(), found.device.type) == (
        strided.shape, torch.uint8, strided.stride(), "cpu",
    )  # fmt: skip
