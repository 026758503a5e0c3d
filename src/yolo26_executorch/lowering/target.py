"""The GPU that is compiled for, as lowering sees it: a description, which need not be of the GPU at hand."""

from __future__ import annotations

from typing import Any, NamedTuple

MIB = 1024 * 1024


class Target(NamedTuple):
    """What lowering asks of a GPU; an H100 where nothing else is said."""

    name: str = "NVIDIA H100 80GB HBM3"
    """As its driver gives it; users' tables of tiles are kept by it."""
    capability: tuple[int, int] = (9, 0)
    """Compute capability."""
    multiprocessors: int = 132
    shared_bytes: int = 227 * 1024
    """Most shared memory of one CTA (opt-in)."""
    l2_bytes: int = 50 * MIB
    """Size of the L2 cache."""
    threads: int = 2048
    """Most resident threads of one multiprocessor."""
    is_here: bool = False
    """Whether it is PyTorch's current GPU, rather than one that is only described (`gpus`)."""

    @classmethod
    def at_hand(cls) -> Target:
        """Return PyTorch's current GPU."""
        import torch

        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())  # its types lack a field
        return cls(
            torch.cuda.get_device_name(),
            torch.cuda.get_device_capability(),
            properties.multi_processor_count,
            properties.shared_memory_per_block_optin,
            properties.L2_cache_size,
            properties.max_threads_per_multi_processor,
            is_here=True,
        )

    @property
    def has_tensor_formats(self) -> bool:
        """Whether its matrix units take tf32 and bf16; before sm_80 none do."""
        return self.capability >= (8, 0)

    def precision(self, wanted: str) -> str:
        """Return what the GPU computes in for a precision that was asked for: before sm_80 there is no tf32."""
        return "fp32" if wanted == "tf32" and not self.has_tensor_formats else wanted


H100 = Target()
