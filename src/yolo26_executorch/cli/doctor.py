"""`yolo26-et doctor`: what this machine can do, and how to fix what it cannot."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..system import probe
from ..system.probe import REQUIRES, Environment, Tool, release, requirement, supported
from ..system.requirements import (
    Device,
    all_devices,
    choose_devices,
    cuda_obstacles,
    default_device,
    executorch_runtime_fits,
    is_new_enough,
    of_one_kind,
)
from . import Subparsers, console

OK, WARNING, PROBLEM = "ok", "warning", "problem"

_GB = 1e9
_DISK_FOR_ALL = 5 * _GB
"""All 25 variants in float32 and their checkpoints take about 3 GB, and compilers leave caches."""
_DISK_FOR_ONE = 0.5 * _GB
_MEMORY = 8 * _GB

_STYLES = {OK: "green", WARNING: "yellow", PROBLEM: "red"}


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    level: str
    """"ok", "warning" (something is missing that some exports or tests want) or "problem" (nothing can be exported)."""
    name: str
    finding: str
    remedy: str | None = None
    """The command that fixes it, or gets what an "ok" says is absent and not needed."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="show what this machine can do, and the fix for what it can't",
        description="Show what this machine can do, and the command that fixes each thing it can't. "
        "Exit status 1 if no model can be exported.",
    )
    parser.add_argument("--devices", metavar="0,1,…|all", help="GPUs to judge (default: the first that can be used)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis; 1 if a problem prevents every export."""
    machine = probe.probe(thorough=True)
    checks = [*diagnose(machine, choose_devices(args.devices.split(","), machine) if args.devices else ())]
    if args.json:
        print(json.dumps({"checks": [asdict(c) for c in checks], "environment": machine.to_json()}, indent=2))
    else:
        out = console()
        for check in checks:
            out.print(f"{check.level:>7}", style=_STYLES[check.level], end="  ")
            out.print(f"{check.name}: {check.finding}", soft_wrap=True)
            if check.remedy:
                out.print(f"{'':>7}  → {check.remedy}", soft_wrap=True)
    return int(any(check.level == PROBLEM for check in checks))


def diagnose(e: Environment, devices: Sequence[Device] = ()) -> Iterator[Check]:
    """Judge a machine's facts (probed thoroughly), line by line.

    Args:
        e: the facts.
        devices: the GPUs to export on; none stands for the first that can be used.
    """
    facts = [
        _machine(e),
        _memory(e),
        _disk(e),
        *_libraries(e),
        _torchvision(e),
        _runtime(e),
        *_delegates(e),
        *_cuda(e, devices),
        _weights(e),
        _hub(e),
    ]
    yield from facts
    yield _exports(e, devices, [check.name for check in facts if check.level == PROBLEM])


def _machine(e: Environment) -> Check:
    return Check(OK, "machine", f"{e.os}, {e.machine}, {e.cpu or 'unknown CPU'}, {e.cores} cores, Python {e.python}")


def _memory(e: Environment) -> Check:
    memory = f"{e.memory_bytes / _GB:.1f} GB" if e.memory_bytes else "unknown"
    if e.memory_bytes and e.memory_bytes < _MEMORY:
        return Check(WARNING, "memory", f"{memory}; the sizes l and x may not fit", "yolo26-et export --jobs 1")
    return Check(OK, "memory", memory)


def _disk(e: Environment) -> Check:
    if e.disk_free_bytes is None:
        return Check(OK, "disk", "free space unknown")
    finding = f"{e.disk_free_bytes / _GB:.1f} GB free here"
    remedy = "yolo26-et export --base-path DIR, with DIR on a larger disk"
    if e.disk_free_bytes < _DISK_FOR_ONE:
        return Check(PROBLEM, "disk", finding, remedy)
    if e.disk_free_bytes < _DISK_FOR_ALL:
        return Check(WARNING, "disk", f"{finding}; all 25 variants may not fit", remedy)
    return Check(OK, "disk", finding)


def _libraries(e: Environment) -> Iterator[Check]:
    for name, version in (("torch", e.torch), ("executorch", e.executorch), ("ultralytics", e.ultralytics)):
        remedy = f'pip install "{requirement(name)}"'
        if version is None:
            yield Check(PROBLEM, name, "not installed", remedy)
        elif name == "torch" and e.torch_problem:
            yield Check(
                PROBLEM, name, f"{version} cannot be imported ({e.torch_problem})", f"{remedy} --force-reinstall"
            )
        elif not supported(name, version):
            low, high = (".".join(map(str, bound)) for bound in REQUIRES[name])
            yield Check(PROBLEM, name, f"{version}, and this needs {low} or newer, older than {high}", remedy)
        else:
            yield Check(OK, name, version)


def _torchvision(e: Environment) -> Check:
    """Judge torchvision, without which Ultralytics cannot be imported, and which must be of PyTorch's own build."""
    torch = release(e.torch or "") or ()
    # Since torch 2.0 and torchvision 0.15 both have gone up together.
    fitting = f"torchvision==0.{torch[1] + 15}.*" if len(torch) > 1 and torch[0] == 2 else "torchvision"
    index = "" if e.torch is None or "+" not in e.torch else " --index-url URL, with the URL that torch came from"
    remedy = f'pip install --force-reinstall --no-deps "{fitting}"{index}'
    if e.torchvision is None:
        return Check(PROBLEM, "torchvision", "not installed, and Ultralytics cannot be imported without it", remedy)
    if e.libraries and e.libraries.torchvision_problem:
        finding = (
            f"{e.torchvision} cannot be imported beside torch {e.torch} ({e.libraries.torchvision_problem}): it is of "
            "another build; this package goes around it, and Ultralytics' own programs fail"
        )
        return Check(WARNING, "torchvision", finding, remedy)
    return Check(OK, "torchvision", e.torchvision)


def _runtime(e: Environment) -> Check:
    fits = executorch_runtime_fits(e)
    if not fits:
        finding = f"{fits.cause}; exports work, their tests run only where PyTorch has CUDA"
        return Check(WARNING, "ExecuTorch runtime", finding, fits.remedy)
    if e.libraries and e.libraries.delegates is None:
        finding = f"cannot be loaded ({e.libraries.runtime_problem})"
        return Check(
            WARNING, "ExecuTorch runtime", finding, f'pip install --force-reinstall "{requirement("executorch")}"'
        )
    return Check(OK, "ExecuTorch runtime", f"fits torch {e.torch}")


def _cuda(e: Environment, devices: Sequence[Device]) -> Iterator[Check]:
    """Judge each part that exports to CUDA need, whichever others are missing."""
    obstacles = dict(cuda_obstacles(e, devices))
    if "system" in obstacles:
        yield Check(WARNING, "CUDA", str(obstacles["system"].cause), obstacles["system"].remedy)
        return
    there = all_devices(e)
    used = devices or [device for device in [default_device(e)] if device]
    served = (
        f"{e.driver.version or 'version unknown'}, serves CUDA {'.'.join(map(str, e.driver.cuda))}" if e.driver else ""
    )
    parts = {
        "driver": ("NVIDIA driver", served),
        "GPU": ("GPU", ", ".join(map(str, used)) or "none seen"),
        "torch": ("torch's CUDA", e.torch_cuda or ""),
        "Triton": ("Triton", e.triton or ""),
        "toolkit": ("CUDA toolkit", e.cuda_home or ""),
        "nvcc": ("nvcc", _words(e.nvcc, "GPUs of compute capability 9.0 and newer do without")),
        "ptxas": ("ptxas", _words(e.ptxas, "Triton brings its own")),
        "g++": ("g++", _words(e.cxx, "")),
    }
    for part, (name, finding) in parts.items():
        if part in obstacles:
            yield Check(WARNING, name, str(obstacles[part].cause), obstacles[part].remedy)
        else:
            yield Check(OK, name, finding)
    if old := [str(device) for device in there if device not in used and not is_new_enough(device.gpu)]:
        yield Check(OK, "GPUs too old", f"{', '.join(old)}; exports pass over them")
    if not (alike := of_one_kind(devices or [device for device in there if is_new_enough(device.gpu)])):
        yield Check(WARNING, "GPU kinds", str(alike.cause), f"yolo26-et export {alike.remedy}")


def _exports(e: Environment, devices: Sequence[Device], problems: list[str]) -> Check:
    """Return what all of the above comes to."""
    if problems:
        return Check(PROBLEM, "exports", f"none, until the fixes for {', '.join(problems)} are made")
    missing = [part for part, _ in cuda_obstacles(e, devices)]
    if missing:
        return Check(
            OK, "exports", f"to XNNPACK, for the CPU; to CUDA once there is what is missing: {', '.join(missing)}"
        )
    return Check(OK, "exports", "to CUDA and to XNNPACK")


def _delegates(e: Environment) -> Iterator[Check]:
    registered = e.libraries.delegates if e.libraries else None
    if registered is None:
        return  # said by `_runtime`
    yield Check(OK, "delegates", ", ".join(registered) or "none")
    if "XnnpackBackend" not in registered:
        remedy = f'pip install --force-reinstall "{requirement("executorch")}"'
        yield Check(WARNING, "XNNPACK delegate", "not in this ExecuTorch, so XNNPACK models cannot be tested", remedy)
    if e.gpus and "CudaBackend" not in registered:
        yield Check(
            WARNING,
            "CUDA delegate",
            "not in this ExecuTorch (PyPI's builds lack it), so CUDA models run inside PyTorch instead",
            "./install_executorch.sh in a checkout of ExecuTorch, on a machine with the CUDA toolkit",
        )


def _weights(e: Environment) -> Check:
    if e.libraries is None or e.libraries.weights_dir is None:
        return Check(WARNING, "weights", "Ultralytics' weights folder is unknown", "yolo26-et export --weights-dir DIR")
    folder = Path(e.libraries.weights_dir)
    found = f"{len([*folder.glob('yolo26*.pt')])} YOLO26 checkpoints in {folder}"
    if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
        finding = f"{found}, where none can be downloaded to: it cannot be written to"
        return Check(WARNING, "weights", finding, "yolo26-et export --weights-dir DIR")
    return Check(OK, "weights", found)


def _hub(e: Environment) -> Check:
    found = e.libraries.hub_token if e.libraries else None
    if found:
        return Check(OK, "Hub token", "there, for `yolo26-et push`")
    state = "not known" if found is None else "none"
    return Check(OK, "Hub token", f"{state}; only `yolo26-et push` needs one", "hf auth login")


def _words(tool: Tool | None, otherwise: str) -> str:
    return f"{tool.path} ({tool.version or 'version unknown'})" if tool else f"not found; {otherwise}"
