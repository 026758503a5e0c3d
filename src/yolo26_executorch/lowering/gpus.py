"""GPUs by their compute capability, for exports on machines that have none: one common GPU of each.

Kernels run on every GPU of the capability; what is chosen for the one described here is how fast: tiles by its
multiprocessors, and prefetching by its L2 cache. Shared memory and threads are the capability's own (CUDA C++
Programming Guide, "Technical Specifications per Compute Capability"); the rest is from NVIDIA's data sheets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import OptionError
from ..system.probe import dotted
from .target import MIB, Target

GPUS = {
    gpu.capability: gpu
    for gpu in (
        Target("Tesla V100-SXM2-16GB", (7, 0), 80, 96 * 1024, 6 * MIB, 2048),
        Target("Tesla T4", (7, 5), 40, 64 * 1024, 4 * MIB, 1024),
        Target("NVIDIA A100-SXM4-80GB", (8, 0), 108, 163 * 1024, 40 * MIB, 2048),
        Target("NVIDIA GeForce RTX 3090", (8, 6), 82, 99 * 1024, 6 * MIB, 1536),
        Target("Orin", (8, 7), 16, 163 * 1024, 4 * MIB, 1536),
        Target("NVIDIA L4", (8, 9), 58, 99 * 1024, 48 * MIB, 1536),
        Target("NVIDIA H100 80GB HBM3", (9, 0), 132, 227 * 1024, 50 * MIB, 2048),
        Target("NVIDIA B200", (10, 0), 148, 227 * 1024, 126 * MIB, 2048),
        Target("NVIDIA B300", (10, 3), 148, 227 * 1024, 126 * MIB, 2048),
        Target("NVIDIA Thor", (11, 0), 20, 227 * 1024, 32 * MIB, 1536),
        Target("NVIDIA GeForce RTX 5090", (12, 0), 170, 99 * 1024, 96 * MIB, 1536),
        Target("NVIDIA GB10", (12, 1), 48, 99 * 1024, 24 * MIB, 1536),
    )
}

JETSONS = {(8, 7), (11, 0)}
"""Whose machine code no other GPU runs, nor they another's."""

ALL = tuple(dotted(capability) for capability in GPUS if capability >= (8, 0))
"""What `--arch all` means. Triton has no matrix units below 8.0: 7.0 and 7.5 run, slowly, where they are named."""


def compiled(gpus: Sequence[Target]) -> tuple[Target, ...]:
    """Return those of the GPUs that are compiled for; the others run another's machine code.

    That is a later minor version's of the same major, with as much shared memory, but for Jetsons: NVIDIA promises it
    among desktop GPUs alone. From 9.0 on, Triton's machine code is for one capability.
    """
    kept: list[Target] = []
    for gpu in gpus:
        shared = any(
            one.capability[0] == gpu.capability[0] < 9 and one.shared_bytes == gpu.shared_bytes for one in kept
        )
        if not shared or gpu.capability in JETSONS:
            kept.append(gpu)
    return tuple(kept)


def named(words: Iterable[str], precision: str) -> tuple[Target, ...]:
    """Return the GPUs that `--arch` names, each once, from the oldest on.

    Args:
        words: compute capabilities such as "8.6", or "all".
        precision: that is asked for.

    Raises:
        OptionError: there is no such capability, or the precision is not one for all of them.
    """
    known = {dotted(capability): gpu for capability, gpu in GPUS.items()}
    given = [word for each in words for word in (ALL if each == "all" else [each])]
    if wrong := [word for word in given if word not in known]:
        raise OptionError(f"--arch {wrong[0]}: expected one of {', '.join(known)}, or all; try --arch {ALL[1]}")
    if not given:
        raise OptionError(f"--arch: expected one or more of {', '.join(known)}, or all; try --arch {ALL[1]}")
    gpus = tuple(sorted({known[word] for word in given}, key=lambda gpu: gpu.capability))
    old = " ".join(dotted(gpu.capability) for gpu in gpus if not gpu.has_tensor_formats)
    new = " ".join(dotted(gpu.capability) for gpu in gpus if gpu.has_tensor_formats)
    if old and precision == "bf16":
        raise OptionError(f"--arch {old}: there is no bf16 before compute capability 8.0; try --precision fp16")
    if old and new and precision == "tf32":
        raise OptionError(
            f"--arch {old} {new}: tf32 begins with compute capability 8.0, and one artifact has one set of weights; "
            f"try --precision fp32, or two exports, --arch {old} and --arch {new}"
        )
    return gpus
