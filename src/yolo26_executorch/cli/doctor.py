"""`yolo26-et doctor`: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..environment import (
    REQUIRES,
    Environment,
    Tool,
    executorch_runtime_fits,
    probe,
    requirement,
    supported,
    usable_cuda,
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
    """The command that mends it."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="show what this machine can do, and mend what it can't",
        description="Show what this machine can do and the command that mends each thing it can't. "
        "Exit status 1 if no model can be exported.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis; 1 if a problem prevents every export."""
    environment = probe(thorough=True)
    checks = [*diagnose(environment)]
    if args.json:
        print(json.dumps({"checks": [asdict(c) for c in checks], "environment": environment.to_json()}, indent=2))
    else:
        out = console()
        for check in checks:
            out.print(f"{check.level:>7}", style=_STYLES[check.level], end="  ")
            out.print(f"{check.name}: {check.finding}", soft_wrap=True)
            if check.remedy:
                out.print(f"{'':>7}  → {check.remedy}", soft_wrap=True)
    return int(any(check.level == PROBLEM for check in checks))


def diagnose(e: Environment) -> Iterator[Check]:
    """Judge a machine's facts (probed thoroughly), line by line."""
    memory = f"{e.memory_bytes / _GB:.1f} GB" if e.memory_bytes else "unknown"
    yield Check(OK, "machine", f"{e.os}, {e.machine}, {e.cpu or 'unknown CPU'}, {e.cores} cores, Python {e.python}")
    if e.memory_bytes and e.memory_bytes < _MEMORY:
        yield Check(WARNING, "memory", f"{memory}; the sizes l and x may not fit", "yolo26-et export --jobs 1")
    else:
        yield Check(OK, "memory", memory)
    yield _disk(e)
    yield from _libraries(e)
    yield _runtime(e)
    yield _cuda(e)
    yield Check(OK, "compilers", f"C++ {_words(e.cxx)}, nvcc {_words(e.nvcc)}, ptxas {_words(e.ptxas)}")
    yield from _delegates(e)
    yield _weights(e)


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


def _cuda(e: Environment) -> Check:
    cuda = usable_cuda(e)
    if not cuda:
        return Check(WARNING, "CUDA", f"not usable, so exports go to XNNPACK: {cuda.cause}", cuda.remedy)
    gpus = ", ".join(
        f"{gpu.name} (compute capability {gpu.capability[0]}.{gpu.capability[1]}, {gpu.memory_bytes / _GB:.0f} GB)"
        for gpu in e.gpus
    )
    driver = e.driver.version if e.driver and e.driver.version else "unknown"
    return Check(
        OK, "CUDA", f"{gpus}; driver {driver}, torch's CUDA {e.torch_cuda}, Triton {e.triton}, toolkit {e.cuda_home}"
    )


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
    return Check(OK, "weights", f"{len([*folder.glob('yolo26*.pt')])} YOLO26 checkpoints in {folder}")


def _words(tool: Tool | None) -> str:
    return f"{tool.path} ({tool.version or 'version unknown'})" if tool else "not found"
