"""Run an artifact in ExecuTorch's own Python runtime."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..artifacts.manifest import PROGRAM, WEIGHTS, Manifest
from ..artifacts.program_file import quiet
from ..artifacts.reading import Artifact
from ..errors import ArtifactError, first_line
from ..system.requirements import executorch_runtime_fits
from .runner import BaseRunner, choose, prepare

if TYPE_CHECKING:
    import torch

    from .runner import Images


def obstacle(manifest: Manifest) -> str | None:
    """Return why the official runtime cannot run an artifact here, in one line, or None where it can."""
    fits = executorch_runtime_fits()
    if not fits:
        return f"{fits.cause}; {fits.remedy}"
    delegate = manifest.delegate.name
    if not _runtime().backend_registry.is_available(delegate):
        return (
            f"this ExecuTorch has no {delegate}: PyPI's wheels come without it; take a CUDA build of executorch from "
            "PyTorch's own wheel index, or build it with ./install_executorch.sh beside a CUDA toolkit"
        )
    return None


class ExecuTorchRunner(BaseRunner):
    """The official runtime: a program, its external data and one method."""

    name = "executorch"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        import torch

        manifest = artifact.manifest
        self.input = manifest.input
        self.outputs = manifest.outputs
        self._on_host = manifest.options.io == "host"
        self.device = torch.device("cpu" if self._on_host else "cuda")
        self._folder = artifact.folder
        with quiet():
            from executorch.runtime import Verification
        said = io.StringIO()
        try:
            # ExecuTorch logs to Python's stderr, at length of what it cannot read of a processor that works.
            with contextlib.redirect_stderr(said):
                self._program = _runtime().load_program(
                    artifact.path(PROGRAM),
                    data_path=artifact.path(WEIGHTS) if WEIGHTS in artifact else None,
                    # All tables of the program, which takes microseconds; not segments, nor what is a delegate's own.
                    verification=Verification.InternalConsistency,
                )
                self._method = self._program.load_method("forward")
        # RuntimeError mostly; of a damaged program also KeyError, MemoryError and UnicodeDecodeError.
        except Exception as error:
            raise ArtifactError(f"ExecuTorch could not load {self._folder}: {first_line(error)}") from error
        finally:
            for line in said.getvalue().splitlines():
                logging.getLogger(__name__).debug(line)

    def __call__(
        self, images: Images, *, outputs: Sequence[str] | None = None, on_device: bool = False
    ) -> dict[str, torch.Tensor]:
        """Run one batch; see `Runner`. Its device is the host for all but artifacts made with `--io device`."""
        chosen = choose(self.outputs, outputs)
        self._owner.check()
        batch = prepare(images, self.input)
        with self._exclusive():
            try:
                # Host memory is read as such, wherever a tensor says that its memory is. Outputs are the method's own
                # memory, which the next call overwrites; `Method.execute` would copy all of them.
                results = self._method._method([batch.cpu() if self._on_host else batch], clone_outputs=False)
            except RuntimeError as error:
                raise ArtifactError(f"ExecuTorch could not run {self._folder}: {first_line(error)}") from error
            given = [tuple(getattr(result, "shape", ())) for result in results]
            if given != (expected := [spec.shape for spec in self.outputs]):
                raise ArtifactError(
                    f"{self._folder} is not what its manifest says: expected outputs of shapes {expected}, given "
                    f"{given}; export it again"
                )
            return {self.outputs[index].name: results[index].clone() for index in chosen}

    def _release(self) -> None:
        """Drop the method before its program."""
        self._method = self._program = None


def _runtime() -> Any:
    with quiet():
        from executorch.runtime import Runtime

        return Runtime.get()
