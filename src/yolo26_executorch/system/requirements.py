"""What this machine can be used for, by rules that take only the facts of `probe`.

    usable_cuda()               can models be exported to the CUDA delegate here? if not: why, and the fix
    cuda_obstacles()            the same, with all that is missing
    executorch_runtime_fits()   can the installed ExecuTorch execute programs beside the installed PyTorch?
    resolve_backend("auto")     the backend to export to
    choose_devices()            the GPUs to export on

Each no comes with its cause and with the command that fixes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import BackendError
from . import probe
from .probe import Environment, Gpu, dotted, release, requirement

RUNTIME_TORCH: dict[tuple[int, ...], tuple[int, int]] = {(1, 5): (2, 13)}
"""For each release of ExecuTorch the PyTorch whose tensors its Python runtime was compiled against."""

LOWEST_CAPABILITY = (7, 0)
"""Triton's lower bound: Volta."""

FIRST_WITHOUT_FATBINS = (9, 0)
"""From here on, `lowering/cuda.py` embeds Triton's machine code alone, which takes no nvcc."""

INSTALL_TORCH = 'pip uninstall -y torch && pip install "torch>=2.13,<2.14"'
"""Without the uninstall, pip takes a CPU build of the same version to be good enough."""

INSTALL_CROSS = 'pip install "yolo26-executorch[cross]"'
"""Compilers for GPUs that are not here."""


@dataclass(frozen=True)
class Usable:
    """A yes, or a no with its cause and the command that fixes it, each one line. True where `ok`."""

    ok: bool
    cause: str | None = None
    remedy: str | None = None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "usable" if self.ok else f"{self.cause}; fix: {self.remedy}"


@dataclass(frozen=True)
class Device:
    """A GPU to export on."""

    index: int
    """Among those that PyTorch sees."""
    visible: str
    """What CUDA_VISIBLE_DEVICES has to be for a process that sees this one alone."""
    gpu: Gpu

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.gpu})"


def usable_cuda(facts: Environment | None = None, devices: Sequence[Device] = ()) -> Usable:
    """Say whether models can be exported to the CUDA delegate here; the first thing missing is named.

    Args:
        facts: what to judge; None looks at this machine.
        devices: the GPUs to export on; none stands for `default_device`.
    """
    return next((obstacle for _, obstacle in cuda_obstacles(facts or probe.probe(), devices)), Usable(True))


def cuda_obstacles(e: Environment, devices: Sequence[Device] = ()) -> Iterator[tuple[str, Usable]]:
    """Yield everything that keeps models from being exported to the CUDA delegate, first things first.

    Each goes by the part that it is about: "system", "driver", "torch", "GPU", "Triton", "g++", "toolkit", "nvcc".
    What follows from another obstacle alone, as that PyTorch sees no GPU without a driver, is left out.

    Args:
        e: this machine's facts.
        devices: the GPUs to export on, all of which are judged; none stands for `default_device`.
    """
    used = devices or [device for device in [default_device(e)] if device]
    if e.system != "Linux":
        why = f"CUDA export needs Linux, and this is {e.system}"
        yield "system", _no(why, "use a Linux machine that has an NVIDIA GPU")
        return
    if e.driver is None:
        fix = "install it (on Ubuntu `sudo ubuntu-drivers install`); in a container, start that with `--gpus all`"
        yield "driver", _no("no NVIDIA driver (libcuda.so.1) is found", fix)
    if e.torch is None or e.torch_problem:
        yield "torch", _no(f"PyTorch cannot be imported ({e.torch_problem or 'not installed'})", INSTALL_TORCH)
    elif e.torch_cuda is None:
        yield "torch", _no(f"torch {e.torch} is a build without CUDA", INSTALL_TORCH)
    elif e.driver and e.driver.cuda[0] < (release(e.torch_cuda) or e.driver.cuda)[0]:
        served = dotted(e.driver.cuda)
        why = f"the NVIDIA driver serves CUDA {served}, and torch {e.torch} is built for {e.torch_cuda}"
        yield "driver", _no(why, "update it (on Ubuntu `sudo ubuntu-drivers install`)")
    elif e.driver:
        yield from _gpu_obstacles(e, used)
    yield from _compiler_obstacles(e, {str(device): device.gpu.capability for device in used})


def _compiler_obstacles(
    e: Environment, gpus: Mapping[str, tuple[int, int]], *, by_pip: bool = False
) -> Iterator[tuple[str, Usable]]:
    """Yield what is missing to compile for GPUs, by what they are called, of these compute capabilities.

    With `by_pip` what came so is as good as a compiler and a toolkit of the machine's own.
    """
    if e.triton is None:
        yield "Triton", _no("Triton, which writes the GPU's code, is not installed", 'pip install "triton>=3.6"')
    if e.cxx is None and not (by_pip and e.zig):
        yield "g++", _no("no C++ compiler (g++) is found", INSTALL_CROSS if by_pip else "sudo apt-get install g++")
    toolkit = f"cuda-toolkit-{e.torch_cuda.replace('.', '-')}" if e.torch_cuda else "cuda-toolkit"
    install = f"sudo apt-get install {toolkit} (from NVIDIA's repository)"
    if e.cuda_home is None and by_pip and e.cuda_headers:
        return  # machine code alone, without PTX, takes no nvcc
    if e.cuda_home is None:
        why = "no CUDA toolkit (include/cuda.h) is found; AOTInductor's wrapper is compiled with it"
        yield "toolkit", _no(why, install)
    packed = [name for name, capability in gpus.items() if capability < FIRST_WITHOUT_FATBINS]
    if e.nvcc is None and packed:
        why = f"the CUDA toolkit's compiler (nvcc), which packs the kernels for {packed[0]}, is not found"
        yield "nvcc", _no(why, install)


def usable_for(capabilities: Sequence[tuple[int, int]], facts: Environment | None = None) -> Usable:
    """Say whether models can be exported here for GPUs of these compute capabilities, which need not be here."""
    e = facts or probe.probe()
    if e.system != "Linux":
        return _no(f"CUDA export needs Linux, and this is {e.system}", "use a Linux machine")
    if e.torch is None or e.torch_problem:
        return _no(f"PyTorch cannot be imported ({e.torch_problem or 'not installed'})", INSTALL_TORCH)
    gpus = {f"compute capability {dotted(capability)}": capability for capability in capabilities}
    return next((obstacle for _, obstacle in _compiler_obstacles(e, gpus, by_pip=True)), Usable(True))


def _gpu_obstacles(e: Environment, used: Sequence[Device]) -> Iterator[tuple[str, Usable]]:
    if not e.gpus and e.visible_devices is not None:
        yield "GPU", _no(f"CUDA_VISIBLE_DEVICES={e.visible_devices!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    elif not e.gpus:
        fix = "`nvidia-smi` must list one; in a container, start that with `--gpus all`"
        yield "GPU", _no("PyTorch sees no GPU", fix)
    elif old := [device for device in used if not is_new_enough(device.gpu)]:
        newer = [device.index for device in all_devices(e) if is_new_enough(device.gpu)]
        why = f"{old[0]} is older than compute capability {dotted(LOWEST_CAPABILITY)}"
        fix = f"--devices {newer[0]}" if newer else "use a GPU of the Volta generation (2017) or newer"
        yield "GPU", _no(why, fix)


def is_new_enough(gpu: Gpu) -> bool:
    """Whether Triton writes code for a GPU."""
    return gpu.capability >= LOWEST_CAPABILITY


def all_devices(facts: Environment) -> list[Device]:
    """Return every GPU that PyTorch sees."""
    # Where the variable is set already, PyTorch counts within it.
    visible = [name.strip() for name in (facts.visible_devices or "").split(",") if name.strip()]
    names = visible if len(visible) == len(facts.gpus) else [str(index) for index in range(len(facts.gpus))]
    return [Device(index, name, gpu) for index, (name, gpu) in enumerate(zip(names, facts.gpus, strict=True))]


def default_device(facts: Environment) -> Device | None:
    """Return the GPU to export on where none is named: the first that can be used, else the first; None without any."""
    devices = all_devices(facts)
    return next((device for device in devices if is_new_enough(device.gpu)), next(iter(devices), None))


def of_one_kind(devices: Sequence[Device]) -> Usable:
    """Say whether artifacts that are exported on these GPUs run on all of them."""
    grouped: dict[tuple[int, int], list[Device]] = {}
    for device in devices:
        grouped.setdefault(device.gpu.capability, []).append(device)
    if len(grouped) < 2:
        return Usable(True)
    return _no(
        f"{', '.join(map(str, devices))} are of different kinds, and an artifact runs on the kind that it was exported "
        "on",
        " or ".join(f"--devices {','.join(str(device.index) for device in kind)}" for kind in grouped.values()),
    )


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


def resolve_backend(
    requested: str, facts: Environment | None = None, devices: Sequence[Device] = ()
) -> tuple[str, str | None]:
    """Return the backend to export to ("cuda" or "xnnpack") and a warning, or None where there is nothing to warn of.

    Args:
        requested: "auto" (CUDA where it is usable, else XNNPACK with a warning), "cuda" or "xnnpack".
        facts: what to judge; None looks at this machine.
        devices: the GPUs that are named; none stands for `default_device`.

    Raises:
        BackendError: CUDA was asked for by name and is not usable.
    """
    if requested == "xnnpack":
        return "xnnpack", None
    cuda = usable_cuda(facts, devices)
    if cuda:
        return "cuda", None
    if requested == "cuda":
        raise BackendError(f"--backend cuda: {cuda}; or try --backend xnnpack")
    return "xnnpack", f"no usable CUDA: {cuda}; exporting CPU-only models through XNNPACK"


def choose_devices(words: Sequence[str], facts: Environment) -> tuple[Device, ...]:
    """Return the GPUs that are asked for.

    Args:
        words: indices among the GPUs that PyTorch sees here, or "all" for those of them that can be used.
        facts: this machine's.

    Raises:
        BackendError: no such GPU, or one that is named twice.
    """
    there = {str(device.index): device for device in all_devices(facts)}
    usable = [name for name, device in there.items() if is_new_enough(device.gpu)]
    chosen = (usable or [*there]) if list(words) == ["all"] else list(words)
    have = f"GPUs {', '.join(there)}" if there else "none"
    if wrong := [word for word in chosen if word not in there] or ([] if chosen else ["all"]):
        raise BackendError(f"--devices {','.join(wrong)}: no such GPU; PyTorch sees {have}, and `nvidia-smi` lists all")
    if len(set(chosen)) < len(chosen):
        raise BackendError(f"--devices {','.join(chosen)}: a GPU is named twice; name each once")
    return tuple(there[name] for name in chosen)


def _no(cause: str, remedy: str) -> Usable:
    return Usable(False, cause, remedy)
