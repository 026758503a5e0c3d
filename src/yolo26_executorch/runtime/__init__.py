"""Run an artifact: images in, named outputs out, behind one protocol whatever runs them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.compatibility import check_platform
from ..artifacts.manifest import Manifest
from ..artifacts.reading import Artifact, opened
from ..errors import BackendError, CompatibilityError, OptionError
from ..models.options import RUNNERS
from ..system.probe import glibc_version, glibcxx_version
from .runner import Runner

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Runner", "Tensor", "open_runner"]


_process = os.getpid()
"""The process in which PyTorch's thread pool has its threads."""


def open_runner(
    folder: Artifact | Path | str, *, runner: str = "auto", device: torch.device | str | int | None = None
) -> Runner:
    """Open an artifact for running, after its hashes were checked and found to fit this machine.

    A CUDA artifact is native code: opening one means trusting who made it.

    Args:
        folder: the artifact, open already or its folder, which is then opened and its files' hashes checked.
        runner: "executorch" (the official runtime), "aoti" (the artifact's shared object inside PyTorch), or "auto":
            the official runtime wherever it has the delegate and fits this PyTorch, else the other for CUDA.
        device: the GPU that a CUDA artifact runs on, such as "cuda:1" or 1; None for PyTorch's current one. Official
            runtimes know GPU 0 alone. Artifacts for XNNPACK run on the "cpu".

    Raises:
        OptionError: there is no such runner, or `device` is none that the artifact could run on.
        BackendError: this machine has no such GPU.
        ArtifactError: the folder is no complete artifact.
        IntegrityError: a file is not what the manifest says; then nothing was loaded.
        CompatibilityError: it cannot run here; both sides are named.

    Examples:
        >>> import torch
        >>> with open_runner("yolo26_cuda_exports/yolo26n") as run:
        ...     outputs = run(torch.rand(run.input.shape))
        >>> outputs["detections"].shape
        torch.Size([1, 300, 6])
    """
    if runner not in RUNNERS:
        raise OptionError(f"runner={runner!r}: expected one of {', '.join(RUNNERS)}")
    _use_one_thread_after_a_fork()
    with opened(folder) as artifact:
        return _open(artifact, runner, device)


def _open(artifact: Artifact, runner: str, device: torch.device | str | int | None) -> Runner:
    from .executorch import ExecuTorchRunner, obstacle

    manifest = artifact.manifest
    reason = obstacle(manifest)
    gpu = _gpu(manifest, device)
    _check_machine(manifest, gpu, reason)
    if reason is None and gpu is not None and gpu.index != 0:
        reason = f"the official runtime runs CUDA artifacts on GPU 0 alone, and {gpu} is asked for"
    if runner == "executorch" or (runner == "auto" and reason is None):
        if reason is not None:
            raise CompatibilityError(reason)
        return ExecuTorchRunner(artifact)
    if gpu is None:
        raise CompatibilityError(
            reason or f"runner {runner!r} runs CUDA artifacts only; {artifact.folder} is for XNNPACK"
        )
    from .aoti import AotiRunner

    return AotiRunner(artifact, gpu)


def _gpu(manifest: Manifest, device: torch.device | str | int | None) -> torch.device | None:
    """Return the GPU that an artifact is to run on; None for the CPU, or where there is no GPU at all.

    Raises:
        OptionError: the artifact does not run on devices of that kind.
        BackendError: there is no such GPU.
        CompatibilityError: this is a fork of a process that has used its GPUs.
    """
    import torch

    kind = "cuda" if manifest.backend == "cuda" else "cpu"
    try:
        asked = (
            torch.device("cuda", device)
            if isinstance(device, int)
            else torch.device(kind if device is None else device)
        )
    except RuntimeError:
        asked = None
    if asked is None or asked.type != kind:
        legal = "a GPU, such as 'cuda:0' or 0" if kind == "cuda" else "'cpu'"
        raise OptionError(f"device={device!r}: {manifest.name} was exported for {manifest.backend}; expected {legal}")
    if kind == "cpu":
        return None
    if torch.cuda._is_in_bad_fork():
        raise CompatibilityError(
            f"process {os.getpid()} is a fork of one that has used CUDA, which cannot go on here; start children with "
            'multiprocessing.get_context("spawn"), or call the model from threads'
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return None
    index = torch.cuda.current_device() if asked.index is None else asked.index
    if index >= count:
        raise BackendError(f"device={device!r}: no such GPU; PyTorch sees {count}: {', '.join(map(str, range(count)))}")
    return torch.device("cuda", index)


def _check_machine(manifest: Manifest, gpu: torch.device | None, reason: str | None) -> None:
    """Refuse an artifact that cannot run here; `reason` is why the official runtime cannot run it, if it cannot."""
    import platform

    capability, name = None, "this GPU"
    if gpu is not None:
        import torch

        capability = torch.cuda.get_device_capability(gpu)
        name = str(gpu) if torch.cuda.device_count() > 1 else name
    try:
        check_platform(
            manifest, system=platform.system(), machine=platform.machine(), capability=capability, gpu=name,
            glibc=glibc_version(), glibcxx=glibcxx_version() if manifest.platform.glibcxx else None,
        )  # fmt: skip
    except CompatibilityError as error:
        if manifest.backend == "cuda" and capability is None and reason is not None:  # no runner is left: both causes
            raise CompatibilityError(f"{error}; besides, {reason}") from error
        raise


def _use_one_thread_after_a_fork() -> None:
    """Have PyTorch use one thread in a forked child: its pool has no threads there, and would wait for them forever."""
    global _process
    if os.getpid() != _process:
        import torch

        torch.set_num_threads(1)
        _process = os.getpid()
