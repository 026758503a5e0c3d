"""What this machine can be used for, judged by rules that take only the facts of `environment`.

    usable_cuda()               may models be exported to the CUDA delegate here? if not: why, and what mends it
    cuda_obstacles()            the same, with all that is missing
    executorch_runtime_fits()   can the installed ExecuTorch execute programs beside the installed PyTorch?
    resolve_backend("auto")     the backend to export to
    choose_devices()            the GPUs to export on

Each no comes with its cause and with the command that mends it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import BackendError
from . import probe
from .probe import Environment, dotted, release, requirement

RUNTIME_TORCH: dict[tuple[int, ...], tuple[int, int]] = {(1, 5): (2, 13)}
"""For each release of ExecuTorch the PyTorch whose tensors its Python runtime was compiled against."""

LOWEST_CAPABILITY = (7, 0)
"""Triton's lower bound: Volta."""

FIRST_WITHOUT_FATBINS = (9, 0)
"""From here on, `lowering/cuda.py` embeds Triton's machine code alone, which takes no nvcc."""

INSTALL_TORCH = 'pip uninstall -y torch && pip install "torch>=2.13,<2.14"'
"""Without the uninstall, pip takes a CPU build of the same version to be good enough."""


@dataclass(frozen=True)
class Usable:
    """A yes, or a no with its cause and the command that mends it, each one line. True where `ok`."""

    ok: bool
    cause: str | None = None
    remedy: str | None = None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "usable" if self.ok else f"{self.cause}; to mend it: {self.remedy}"


def usable_cuda(facts: Environment | None = None) -> Usable:
    """Say whether models can be exported to the CUDA delegate here; the first thing missing is named.

    Args:
        facts: what to judge; None looks at this machine.
    """
    return next((obstacle for _, obstacle in cuda_obstacles(facts or probe.probe())), Usable(True))


def cuda_obstacles(e: Environment) -> Iterator[tuple[str, Usable]]:
    """Yield everything that keeps models from being exported to the CUDA delegate, first things first.

    Each goes by the part that it is about: "system", "driver", "torch", "GPU", "Triton", "g++", "toolkit", "nvcc".
    What follows from another obstacle alone, as that PyTorch sees no GPU without a driver, is left out.
    """
    if e.system != "Linux":
        why = f"CUDA export needs Linux, and this is {e.system}"
        yield "system", _no(why, "use a Linux machine that has an NVIDIA GPU")
        return
    if e.driver is None:
        mend = "install it (on Ubuntu `sudo ubuntu-drivers install`); in a container, start that with `--gpus all`"
        yield "driver", _no("no NVIDIA driver (libcuda.so.1) is found", mend)
    if e.torch is None or e.torch_problem:
        yield "torch", _no(f"PyTorch cannot be imported ({e.torch_problem or 'not installed'})", INSTALL_TORCH)
    elif e.torch_cuda is None:
        yield "torch", _no(f"torch {e.torch} is a build without CUDA", INSTALL_TORCH)
    elif e.driver and e.driver.cuda[0] < (release(e.torch_cuda) or e.driver.cuda)[0]:
        served = dotted(e.driver.cuda)
        why = f"the NVIDIA driver serves CUDA {served}, and torch {e.torch} is built for {e.torch_cuda}"
        yield "driver", _no(why, "update it (on Ubuntu `sudo ubuntu-drivers install`)")
    elif e.driver:
        yield from _gpu_obstacles(e)
    if e.triton is None:
        yield "Triton", _no("Triton, which writes the GPU's code, is not installed", 'pip install "triton>=3.6"')
    if e.cxx is None:
        yield "g++", _no("no C++ compiler (g++) is found", "sudo apt-get install g++")
    toolkit = f"cuda-toolkit-{e.torch_cuda.replace('.', '-')}" if e.torch_cuda else "cuda-toolkit"
    install = f"sudo apt-get install {toolkit} (from NVIDIA's repository)"
    if e.cuda_home is None:
        why = "no CUDA toolkit (include/cuda.h) is found; AOTInductor's wrapper is compiled with it"
        yield "toolkit", _no(why, install)
    if e.nvcc is None and e.gpus and e.gpus[0].capability < FIRST_WITHOUT_FATBINS:
        why = "the CUDA toolkit's compiler (nvcc), which packs the kernels for this GPU, is not found"
        yield "nvcc", _no(why, install)


def _gpu_obstacles(e: Environment) -> Iterator[tuple[str, Usable]]:
    if not e.gpus and e.visible_devices is not None:
        yield "GPU", _no(f"CUDA_VISIBLE_DEVICES={e.visible_devices!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    elif not e.gpus:
        mend = "`nvidia-smi` must list one; in a container, start that with `--gpus all`"
        yield "GPU", _no("PyTorch sees no GPU", mend)
    elif e.gpus[0].capability < LOWEST_CAPABILITY:
        first = e.gpus[0]
        newer = [str(i) for i, gpu in enumerate(e.gpus) if gpu.capability >= LOWEST_CAPABILITY]
        why = f"{first.name} has compute capability {dotted(first.capability)}, under {dotted(LOWEST_CAPABILITY)}"
        mend = (
            f"export CUDA_VISIBLE_DEVICES={newer[0]}" if newer else "use a GPU of the Volta generation (2017) or newer"
        )
        yield "GPU", _no(why, mend)


def executorch_runtime_fits(facts: Environment | None = None) -> Usable:
    """Say whether the installed ExecuTorch's Python runtime can execute programs beside the installed PyTorch.

    Its extension is compiled against one PyTorch's tensors. Beside another it imports, loads programs, and then fails
    in `execute` ("tensor does not have a device"): seen with 1.5.1 beside torch 2.11. This goes by versions alone.
    """
    torch = facts.torch if facts else probe.installed("torch")
    executorch = facts.executorch if facts else probe.installed("executorch")
    if executorch is None or torch is None:
        missing = "executorch" if executorch is None else "torch"
        return _no(f"{missing} is not installed", f'pip install "{requirement(missing)}"')
    fitting = RUNTIME_TORCH.get((release(executorch) or (0, 0))[:2])
    if fitting is None:
        return _no(f"executorch {executorch} is not supported", f'pip install "{requirement("executorch")}"')
    if (release(torch) or (0, 0))[:2] == fitting:
        return Usable(True)
    low, high = dotted(fitting), dotted((fitting[0], fitting[1] + 1))
    return _no(
        f"the Python runtime of executorch {executorch} executes programs only beside torch {low}, and this is {torch}",
        f'pip install "torch>={low},<{high}"',
    )


def resolve_backend(requested: str, facts: Environment | None = None) -> tuple[str, str | None]:
    """Return the backend to export to ("cuda" or "xnnpack") and a warning, or None where there is nothing to warn of.

    Args:
        requested: "auto" (CUDA where it is usable, else XNNPACK with a warning), "cuda" or "xnnpack".
        facts: what to judge; None looks at this machine.

    Raises:
        BackendError: CUDA was asked for by name and is not usable.
    """
    if requested == "xnnpack":
        return "xnnpack", None
    cuda = usable_cuda(facts)
    if cuda:
        return "cuda", None
    if requested == "cuda":
        raise BackendError(f"--backend cuda: {cuda}; or try --backend xnnpack")
    return "xnnpack", f"no usable CUDA: {cuda}; exporting CPU-only models through XNNPACK"


def choose_devices(words: Sequence[str], facts: Environment) -> tuple[str, ...]:
    """Return the GPUs that are asked for as CUDA_VISIBLE_DEVICES has to name them for a process that sees one alone.

    Args:
        words: indices among the GPUs that PyTorch sees here, or "all".
        facts: this machine's.

    Raises:
        BackendError: no such GPU, or one that is named twice.
    """
    count = len(facts.gpus)
    known = [str(index) for index in range(count)]
    chosen = known if list(words) == ["all"] else list(words)
    have = f"GPUs {', '.join(known)}" if count else "none"
    if wrong := [word for word in chosen if word not in known] or ([] if chosen else ["all"]):
        raise BackendError(f"--devices {','.join(wrong)}: no such GPU; PyTorch sees {have}, and `nvidia-smi` lists all")
    if len(set(chosen)) < len(chosen):
        raise BackendError(f"--devices {','.join(chosen)}: a GPU is named twice; name each once")
    # Where the variable is set already, PyTorch counts within it.
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(visible[int(index)] if len(visible) == count else index for index in chosen)


def _no(cause: str, remedy: str) -> Usable:
    return Usable(False, cause, remedy)
