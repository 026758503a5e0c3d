"""What there is on this machine: looked at once, cheaply and safely. `requirements` says what it can be used for.

probe()                the facts, an `Environment`
toolkit_variables()    what a process needs to find the CUDA toolkit
versions()             what a manifest records
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import first_line
from . import limits
from .processes import WITHOUT_HERE

REQUIRES = {
    "torch": ((2, 11), (2, 14)),
    "executorch": ((1, 5), (1, 6)),
    "ultralytics": ((8, 4, 190), (8, 5)),
}
"""For each library the oldest version that works and the first that does not, as in pyproject.toml."""

TOOLKIT_FOLDERS = ("/usr/local/cuda", "/opt/cuda", "/usr")


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
    """Compute capability: major, minor."""
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name}, compute capability {dotted(self.capability)}, {self.memory_bytes / 1e9:.0f} GB"


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
    torchvision_problem: str | None = None
    """Why torchvision cannot be imported although it is installed."""


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
    """Cores that this process may use; a container's limits count."""
    memory_bytes: int | None
    """Memory that this process may use; a container's limits count."""
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
    torchvision: str | None = None
    zig: str | None = None
    """The C++ compiler of the extra `[cross]`."""
    cuda_headers: tuple[str, ...] = ()
    """CUDA's headers in the extra's packages."""

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
    cuda_home = toolkit_folder()
    nvcc = _nvcc(cuda_home)
    return Environment(
        system=platform.system(),
        os=_os_name(),
        machine=platform.machine(),
        cpu=_cpu_name(),
        cores=limits.cores(),
        memory_bytes=limits.memory_bytes(),
        disk_free_bytes=_disk_free_bytes(folder or Path()),
        python=platform.python_version(),
        package=package_version(),
        torch=torch_version,
        torch_problem=torch_problem,
        torch_cuda=torch_cuda,
        executorch=installed("executorch"),
        ultralytics=installed("ultralytics"),
        triton=installed("triton"),
        driver=_driver(),
        gpus=gpus,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cxx=_tool(os.environ.get("CXX") or "g++"),
        nvcc=_tool(nvcc) if nvcc else None,
        ptxas=_tool("ptxas"),
        cuda_home=str(cuda_home) if cuda_home else None,
        libraries=_libraries() if thorough else None,
        torchvision=installed("torchvision"),
        zig=zig(),
        cuda_headers=cuda_headers(),
    )


def toolkit_variables() -> dict[str, str]:
    """Return the environment variables that a process needs for PyTorch to find the CUDA toolkit of this machine.

    PyTorch takes the folder above nvcc's for the toolkit, which a wrapper in /usr/local/bin leads astray, and looks for
    nvcc on PATH alone; it does so when it is imported.
    """
    variables = {}
    home = toolkit_folder()
    if home and os.environ.get("CUDA_HOME") != str(home):
        variables["CUDA_HOME"] = str(home)
    if (nvcc := _nvcc(home)) and not shutil.which("nvcc"):
        variables["PATH"] = os.pathsep.join([str(Path(nvcc).parent), os.environ.get("PATH", "")])
    return variables


def versions() -> dict[str, str]:
    """Return what a manifest records of the software and the GPU; "none" stands for what is absent."""
    torch, torch_cuda, gpus, _ = _torch_facts()
    found = {
        "yolo26-executorch": package_version(),
        "python": platform.python_version(),
        "torch": torch,
        "executorch": installed("executorch"),
        "ultralytics": installed("ultralytics"),
        "triton": installed("triton"),
        "cuda": torch_cuda,
        "gpu": gpus[0].name if gpus else None,
    }
    return {name: version or "none" for name, version in found.items()}


def glibc_version() -> str | None:
    """Return the version of the C library that this process runs with, such as "2.36"; None for others than glibc."""
    name, version = platform.libc_ver()
    return version if name == "glibc" and re.fullmatch(r"\d+\.\d+", version) else None


def glibcxx_version() -> str | None:
    """Return the newest version of libstdc++'s symbols here, such as "3.4.30"; None where there is no libstdc++."""
    try:
        ctypes.CDLL("libstdc++.so.6")
        mapped = Path("/proc/self/maps").read_text()
        library = next(line.split(maxsplit=5)[5] for line in mapped.splitlines() if "libstdc++.so" in line)
        found = re.findall(rb"\0GLIBCXX_(\d+(?:\.\d+)+)(?=\0)", Path(library).read_bytes())
    except (OSError, StopIteration, IndexError):
        return None
    return max((one.decode() for one in found), key=lambda one: tuple(map(int, one.split("."))), default=None)


def package_version() -> str:
    """Return this package's version; "unknown" where it runs from a checkout that is not installed."""
    return installed("yolo26-executorch") or "unknown"


def requirement(library: str) -> str:
    """Return what pip is to be given for a library of `REQUIRES`."""
    low, high = REQUIRES[library]
    return f"{library}>={dotted(low)},<{dotted(high)}"


def supported(library: str, version: str) -> bool:
    """Whether a library's version is within `REQUIRES`."""
    low, high = REQUIRES[library]
    return low <= (release(version) or ()) < high


def release(version: str) -> tuple[int, ...] | None:
    """Return the numbers a version starts with: (2, 13, 0) for "2.13.0+cpu"; None if it starts with none."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else None


def cache_folder() -> Path:
    """Return the user's folder for what this package keeps between runs; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "yolo26-executorch"


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as it is written."""
    return ".".join(map(str, version))


def installed(distribution: str) -> str | None:
    """Return a package's version, None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_facts() -> tuple[str | None, str | None, tuple[Gpu, ...], str | None]:
    """Return PyTorch's version, its CUDA, the GPUs it sees, and why it cannot be imported."""
    try:
        import torch
    except Exception as error:  # a broken installation raises whatever it likes
        return installed("torch"), None, (), first_line(error)
    gpus: list[Gpu] = []
    if torch.version.cuda:
        # A driver that is too old makes PyTorch warn and see nothing, which `usable_cuda` explains.
        with warnings.catch_warnings(), contextlib.suppress(RuntimeError, AssertionError):
            warnings.simplefilter("ignore")
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                found = torch.cuda.get_device_properties(index)
                gpus.append(Gpu(found.name, (found.major, found.minor), found.total_memory))
    return str(torch.__version__), torch.version.cuda, tuple(gpus), None


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


def toolkit_folder() -> Path | None:
    """Return the first CUDA toolkit that has its headers, in PyTorch's order of search and then where else they are."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if nvcc := shutil.which("nvcc"):
        homes.append(Path(nvcc).parent.parent)
    homes += map(Path, TOOLKIT_FOLDERS)
    return next((home for home in homes if (home / "include" / "cuda.h").is_file()), None)


def cxx() -> str | None:
    """Return the machine's C++ compiler; None where there is none."""
    return shutil.which(os.environ.get("CXX") or "g++")


def zig() -> str | None:
    """Return the C++ compiler that came by pip in Zig's package; None where it did not."""
    path = _inside("ziglang", "zig")
    return str(path) if path else None


def cuda_headers() -> tuple[str, ...]:
    """Return the folders of CUDA's headers that came by pip, Triton's and CCCL's; none where one is missing."""
    cuda = _inside("triton", "backends/nvidia/include/cuda.h")
    places = ("cu13/include/nv/target", "cuda_cccl/include/nv/target")
    cccl = next(filter(None, (_inside("nvidia", place) for place in places)), None)
    return (str(cuda.parent), str(cccl.parents[1])) if cuda and cccl else ()


def _inside(package: str, name: str) -> Path | None:
    """Return a file of a package, which is not imported; None where there is none."""
    found = importlib.util.find_spec(package)
    places = [Path(folder) / name for folder in (found.submodule_search_locations or [])] if found else []
    return next((place for place in places if place.is_file()), None)


def _nvcc(cuda_home: Path | None) -> str | None:
    named = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    return named or (shutil.which(str(cuda_home / "bin" / "nvcc")) if cuda_home else None)


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


def _disk_free_bytes(folder: Path) -> int | None:
    folder = folder.absolute()
    with contextlib.suppress(OSError):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    return None


_LOOK_INSIDE = """
import json
found = {}
try:
    from executorch.runtime import Runtime
    found["delegates"] = list(Runtime.get().backend_registry.registered_backend_names)
except Exception as error:
    found["problem"] = f"{type(error).__name__}: {error}"
try:
    from ultralytics.utils import SETTINGS
    found["weights_dir"] = SETTINGS["weights_dir"]
except Exception:
    pass
try:
    import torchvision
except Exception as error:
    found["torchvision_problem"] = str(error).strip() or type(error).__name__
try:
    from huggingface_hub import get_token
    found["hub_token"] = get_token() is not None
except Exception:
    pass
print(json.dumps(found))
"""


def _libraries() -> Libraries:
    output = _output([sys.executable, "-c", f"{WITHOUT_HERE}\n{_LOOK_INSIDE}"], timeout_s=120)
    try:
        found = json.loads((output or "").splitlines()[-1])
    except (ValueError, IndexError):
        return Libraries(None, "its Python runtime crashes when it is loaded", None)
    delegates = found.get("delegates")
    problem, of_torchvision = found.get("problem"), found.get("torchvision_problem")
    return Libraries(
        tuple(sorted(delegates)) if delegates is not None else None,
        problem.splitlines()[0] if problem else None,
        found.get("weights_dir"),
        found.get("hub_token"),
        of_torchvision.splitlines()[0] if of_torchvision else None,
    )


def _output(command: list[str], timeout_s: float = 20) -> str | None:
    """Return what a command prints, None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
