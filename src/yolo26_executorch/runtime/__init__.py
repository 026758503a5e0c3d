"""Run an artifact: pictures in, named outputs out, behind one protocol whatever runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.folder import check_platform, intact
from ..artifacts.manifest import Manifest
from ..errors import CompatibilityError, IntegrityError
from .runner import Runner

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Runner", "Tensor", "open_runner"]


def open_runner(folder: Path | str, *, runner: str = "auto") -> Runner:
    """Open an artifact for running, after its hashes were checked and found to fit this machine.

    A CUDA artifact is native code: opening one means trusting who made it.

    Args:
        folder: the artifact.
        runner: "executorch" (the official runtime), "aoti" (the artifact's shared object inside PyTorch), or "auto":
            the official runtime wherever it has the delegate and fits this PyTorch, else the other for CUDA.

    Raises:
        ArtifactError: the folder is no complete artifact.
        IntegrityError: a file is not what the manifest says (then nothing was loaded), or was exchanged meanwhile.
        CompatibilityError: it cannot run here; both sides are named.
    """
    folder = Path(folder)
    opened = None
    try:
        with intact(folder) as manifest:
            opened = _open(folder, manifest, runner)
    except IntegrityError:
        if opened is not None:
            opened.close()
        raise
    return opened


def _open(folder: Path, manifest: Manifest, runner: str) -> Runner:
    from .executorch import ExecuTorchRunner, obstacle

    reason = obstacle(manifest)
    _check_machine(manifest, reason)
    if runner == "executorch" or (runner == "auto" and reason is None):
        if reason is not None:
            raise CompatibilityError(reason)
        return ExecuTorchRunner(folder, manifest)
    if manifest.backend != "cuda":
        raise CompatibilityError(reason or f"runner {runner!r} runs CUDA artifacts only; {folder} is for XNNPACK")
    from .aoti import AotiRunner

    return AotiRunner(folder, manifest)


def _check_machine(manifest: Manifest, reason: str | None) -> None:
    """Refuse an artifact that cannot run here; `reason` is why the official runtime cannot run it, if it cannot."""
    import platform

    capability = None
    if manifest.backend == "cuda":
        import torch

        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    try:
        check_platform(manifest, system=platform.system(), machine=platform.machine(), capability=capability)
    except CompatibilityError as error:
        if capability is None and reason is not None:  # then no runner is left, and both want mending
            raise CompatibilityError(f"{error}; besides, {reason}") from error
        raise
