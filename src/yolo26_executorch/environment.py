"""What this machine can do: looked at once, cheaply and safely, then judged by rules that take only the facts.

    probe()                     the facts, an `Environment`
    usable_cuda()               may models be exported to the CUDA delegate here? if not: why, and what mends it
    cuda_obstacles()            the same, with all that is missing
    executorch_runtime_fits()   can the installed ExecuTorch execute programs beside the installed PyTorch?
    resolve_backend("auto")     the backend to export to
    versions()                  what a manifest records

Each no comes with its cause and with the command that mends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import BackendError

REQUIRES = {
    "torch": ((2, 11), (2, 14)),
    "executorch": ((1, 5), (1, 6)),
    "ultralytics": ((8, 4, 190), (8, 5)),
}
"""For each library the oldest version that works and the first that does not, as in pyproject.toml."""

RUNTIME_TORCH: dict[tuple[int, ...], tuple[int, int]] = {(1, 5): (2, 13)}
"""For each release of ExecuTorch the PyTorch whose tensors its Python runtime was compiled against."""

LOWEST_CAPABILITY = (7, 0)
"""Triton's lower bound: Volta."""

FIRST_WITHOUT_FATBINS = (9, 0)
"""From here on, `lowering/cuda.py` embeds Triton's machine code alone, which takes no nvcc."""

TOOLKIT_FOLDERS = ("/usr/local/cuda", "/opt/cuda", "/usr")

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


@dataclass(frozen=True)
class Tool:
    """A program on this machine."""

    path: str
    version: str | None
    """None where it does not say."""


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver."""

    version: str | None
    cuda: tuple[int, int]
    """The newest CUDA it serves."""


@dataclass(frozen=True)
class Gpu:
    """One GPU that PyTorch sees."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True)
class Libraries:
    """What only loading the libraries tells; done in a process of its own, for it takes seconds and may crash."""

    delegates: tuple[str, ...] | None
    """Backends registered in ExecuTorch's Python runtime; None where that cannot be loaded."""
    runtime_problem: str | None
    weights_dir: str | None
    """Ultralytics' weights folder."""
    hub_token: bool | None = None
    """Whether `huggingface_hub` finds a token; None where it cannot say. The token itself is never kept."""


@dataclass(frozen=True)
class Environment:
    """Facts about this machine; None stands for absent or unknown."""

    system: str
    """`platform.system()`: Linux, Darwin, Windows."""
    os: str
    machine: str
    """`platform.machine()`: x86_64, aarch64, arm64."""
    cpu: str | None
    cores: int
    """Cores that this process may use."""
    memory_bytes: int | None
    disk_free_bytes: int | None
    python: str
    package: str
    torch: str | None
    torch_problem: str | None
    """Why PyTorch cannot be imported although it is installed."""
    torch_cuda: str | None
    """The CUDA that PyTorch was built for; None for CPU builds."""
    executorch: str | None
    ultralytics: str | None
    triton: str | None
    driver: Driver | None
    gpus: tuple[Gpu, ...]
    visible_devices: str | None
    """CUDA_VISIBLE_DEVICES."""
    cxx: Tool | None
    nvcc: Tool | None
    ptxas: Tool | None
    cuda_home: str | None
    """The CUDA toolkit's folder, one that holds include/cuda.h."""
    libraries: Libraries | None = None
    """None unless `probe` was asked to be thorough."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return asdict(self)


def probe(folder: Path | None = None, *, thorough: bool = False) -> Environment:
    """Look at this machine.

    Imports PyTorch (seconds) but neither ExecuTorch nor Ultralytics, and allocates nothing on a GPU.

    Args:
        folder: where artifacts will go, for the free disk space; it need not exist. None is the working folder.
        thorough: load ExecuTorch's runtime and Ultralytics in another process too, which takes some seconds more.
    """
    torch_version, torch_cuda, gpus, torch_problem = _torch_facts()
    cuda_home = _cuda_home()
    return Environment(
        system=platform.system(),
        os=_os_name(),
        machine=platform.machine(),
        cpu=_cpu_name(),
        cores=cores(),
        memory_bytes=_memory_bytes(),
        disk_free_bytes=_disk_free_bytes(folder or Path()),
        python=platform.python_version(),
        package=package_version(),
        torch=torch_version,
        torch_problem=torch_problem,
        torch_cuda=torch_cuda,
        executorch=_installed("executorch"),
        ultralytics=_installed("ultralytics"),
        triton=_installed("triton"),
        driver=_driver(),
        gpus=gpus,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cxx=_tool(os.environ.get("CXX") or "g++"),
        nvcc=_tool(os.environ.get("CUDACXX") or "nvcc")
        or (_tool(str(cuda_home / "bin" / "nvcc")) if cuda_home else None),
        ptxas=_tool("ptxas"),
        cuda_home=str(cuda_home) if cuda_home else None,
        libraries=_libraries() if thorough else None,
    )


def usable_cuda(environment: Environment | None = None) -> Usable:
    """Say whether models can be exported to the CUDA delegate here; the first thing missing is named.

    Args:
        environment: the facts to judge; None looks at this machine.
    """
    return next((obstacle for _, obstacle in cuda_obstacles(environment or probe())), Usable(True))


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
        served = _dotted(e.driver.cuda)
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
        why = f"{first.name} has compute capability {_dotted(first.capability)}, under {_dotted(LOWEST_CAPABILITY)}"
        mend = (
            f"export CUDA_VISIBLE_DEVICES={newer[0]}" if newer else "use a GPU of the Volta generation (2017) or newer"
        )
        yield "GPU", _no(why, mend)


def toolkit_variables(environment: Environment) -> dict[str, str]:
    """Return the environment variables that a process needs for PyTorch to find the CUDA toolkit found here.

    PyTorch takes the folder above nvcc's for the toolkit, which a wrapper in /usr/local/bin leads astray, and looks for
    nvcc on PATH alone.
    """
    variables = {}
    if environment.cuda_home and os.environ.get("CUDA_HOME") != environment.cuda_home:
        variables["CUDA_HOME"] = environment.cuda_home
    if environment.nvcc and not shutil.which("nvcc"):
        variables["PATH"] = os.pathsep.join([str(Path(environment.nvcc.path).parent), os.environ.get("PATH", "")])
    return variables


def executorch_runtime_fits(environment: Environment | None = None) -> Usable:
    """Say whether the installed ExecuTorch's Python runtime can execute programs beside the installed PyTorch.

    Its extension is compiled against one PyTorch's tensors. Beside another it imports, loads programs, and then fails
    in `execute` ("tensor does not have a device"): seen with 1.5.1 beside torch 2.11. This goes by versions alone.
    """
    torch = environment.torch if environment else _installed("torch")
    executorch = environment.executorch if environment else _installed("executorch")
    if executorch is None or torch is None:
        missing = "executorch" if executorch is None else "torch"
        return _no(f"{missing} is not installed", f'pip install "{requirement(missing)}"')
    fitting = RUNTIME_TORCH.get((release(executorch) or (0, 0))[:2])
    if fitting is None:
        return _no(f"executorch {executorch} is not supported", f'pip install "{requirement("executorch")}"')
    if (release(torch) or (0, 0))[:2] == fitting:
        return Usable(True)
    low, high = _dotted(fitting), _dotted((fitting[0], fitting[1] + 1))
    return _no(
        f"the Python runtime of executorch {executorch} executes programs only beside torch {low}, and this is {torch}",
        f'pip install "torch>={low},<{high}"',
    )


def resolve_backend(requested: str, environment: Environment | None = None) -> tuple[str, str | None]:
    """Return the backend to export to ("cuda" or "xnnpack") and a warning, or None where there is nothing to warn of.

    Args:
        requested: "auto" (CUDA where it is usable, else XNNPACK with a warning), "cuda" or "xnnpack".
        environment: the facts to judge; None looks at this machine.

    Raises:
        BackendError: CUDA was asked for by name and is not usable.
    """
    if requested == "xnnpack":
        return "xnnpack", None
    cuda = usable_cuda(environment)
    if cuda:
        return "cuda", None
    if requested == "cuda":
        raise BackendError(f"--backend cuda: {cuda}; or try --backend xnnpack")
    return "xnnpack", f"no usable CUDA: {cuda}; exporting CPU-only models through XNNPACK"


def choose_devices(words: Sequence[str], environment: Environment) -> tuple[str, ...]:
    """Return the GPUs that are asked for as CUDA_VISIBLE_DEVICES has to name them for a process that sees one alone.

    Args:
        words: indices among the GPUs that PyTorch sees here, or "all".
        environment: this machine.

    Raises:
        BackendError: no such GPU, or one that is named twice.
    """
    count = len(environment.gpus)
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


def versions() -> dict[str, str]:
    """Return what a manifest records of the software and the GPU; "none" stands for what is absent."""
    torch, torch_cuda, gpus, _ = _torch_facts()
    found = {
        "yolo26-executorch": package_version(),
        "python": platform.python_version(),
        "torch": torch,
        "executorch": _installed("executorch"),
        "ultralytics": _installed("ultralytics"),
        "triton": _installed("triton"),
        "cuda": torch_cuda,
        "gpu": gpus[0].name if gpus else None,
    }
    return {name: version or "none" for name, version in found.items()}


def package_version() -> str:
    """Return this package's version; "unknown" where it runs from a checkout that is not installed."""
    return _installed("yolo26-executorch") or "unknown"


def requirement(library: str) -> str:
    """Return what pip is to be given for a library of `REQUIRES`."""
    low, high = REQUIRES[library]
    return f"{library}>={_dotted(low)},<{_dotted(high)}"


def supported(library: str, version: str) -> bool:
    """Whether a library's version is within `REQUIRES`."""
    low, high = REQUIRES[library]
    return low <= (release(version) or ()) < high


def release(version: str) -> tuple[int, ...] | None:
    """Return the numbers a version starts with: (2, 13, 0) for "2.13.0+cpu"; None if it starts with none."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else None


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _no(cause: str, remedy: str) -> Usable:
    return Usable(False, cause, remedy)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_facts() -> tuple[str | None, str | None, tuple[Gpu, ...], str | None]:
    """Return PyTorch's version, its CUDA, the GPUs it sees, and why it cannot be imported."""
    try:
        import torch
    except Exception as error:  # a broken installation raises whatever it likes
        return _installed("torch"), None, (), (str(error).splitlines() or [type(error).__name__])[0]
    gpus: list[Gpu] = []
    if torch.version.cuda:
        # A driver that is too old makes PyTorch warn and see nothing; `usable_cuda` says it better.
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError, AssertionError):
            warnings.simplefilter("ignore")
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                found = torch.cuda.get_device_properties(index)
                gpus.append(Gpu(found.name, (found.major, found.minor), found.total_memory))
    return torch.__version__, torch.version.cuda, tuple(gpus), None


def _driver() -> Driver | None:
    """Ask NVIDIA's driver which CUDA it serves."""
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    if failed:  # the toolkit's stub library
        return None
    return Driver(_driver_version(), (number.value // 1000, number.value % 1000 // 10))


def _driver_version() -> str | None:
    asked = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    with contextlib.suppress(OSError):
        asked = asked or Path("/proc/driver/nvidia/version").read_text()
    match = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", asked or "")
    return match[0] if match else None


def _tool(name: str) -> Tool | None:
    path = shutil.which(name)
    if path is None:
        return None
    match = re.search(r"\bV?(\d+\.\d+(\.\d+)?)\b", _version_line(_output([path, "--version"]) or ""))
    return Tool(path, match[1] if match else None)


def _version_line(text: str) -> str:
    """Return the line with the version: nvcc and ptxas put it behind "release", compilers into the first line."""
    lines = text.splitlines() or [""]
    # What packagers put into parentheses has versions of its own.
    return next((line for line in lines if "release" in line), re.sub(r"\(.*?\)", "", lines[0]))


def _cuda_home() -> Path | None:
    """Return the first CUDA toolkit that has its headers, in PyTorch's order of search and then where else they are."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if nvcc := shutil.which("nvcc"):
        homes.append(Path(nvcc).parent.parent)
    homes += map(Path, TOOLKIT_FOLDERS)
    return next((home for home in homes if (home / "include" / "cuda.h").is_file()), None)


def _os_name() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.release()}"


def _cpu_name() -> str | None:
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return match[1]
    return platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _disk_free_bytes(folder: Path) -> int | None:
    folder = folder.absolute()
    with contextlib.suppress(OSError):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    return None


_LOOK_INSIDE = f"""
import json
found = {{}}
try:
    from executorch.runtime import Runtime
    found["delegates"] = list(Runtime.get().backend_registry.registered_backend_names)
except Exception as error:
    found["problem"] = f"{{type(error).__name__}}: {{error}}"
try:
    from {__package__}.weights import default_weights_dir
    found["weights_dir"] = str(default_weights_dir())
except Exception:
    pass
try:
    from huggingface_hub import get_token
    found["hub_token"] = get_token() is not None
except Exception:
    pass
print(json.dumps(found))
"""


def _libraries() -> Libraries:
    output = _output([sys.executable, "-P", "-c", _LOOK_INSIDE], timeout_s=120)
    try:
        found = json.loads((output or "").splitlines()[-1])
    except (ValueError, IndexError):
        return Libraries(None, "its Python runtime crashes when it is loaded", None)
    delegates = found.get("delegates")
    problem = found.get("problem")
    return Libraries(
        tuple(sorted(delegates)) if delegates is not None else None,
        problem.splitlines()[0] if problem else None,
        found.get("weights_dir"),
        found.get("hub_token"),
    )


def _output(command: list[str], timeout_s: float = 20) -> str | None:
    """Return what a command prints, None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
