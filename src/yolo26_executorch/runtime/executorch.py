"""Run an artifact in ExecuTorch's own runtime, through its Python bindings.

The only file that knows their names (executorch 1.5: `executorch/runtime/__init__.py`, which calls them in the same
way).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..artifacts.manifest import PROGRAM, WEIGHTS, Manifest
from ..artifacts.program_file import quiet
from ..artifacts.reading import Artifact
from ..errors import ArtifactError, first_line
from ..models.tasks import WITHOUT
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
    if not _bindings()._is_available(delegate):
        return (
            f"this ExecuTorch has no {delegate}: PyPI's wheels come without it; take a CUDA build of executorch from "
            "PyTorch's own wheel index, or build it with ./install_executorch.sh beside a CUDA toolkit"
        )
    return None


class ExecuTorchRunner(BaseRunner):
    """The official runtime: a program, its external data and its methods.

    Where an output is not asked for and the program has a method without it, that one runs.
    """

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
        native, said = _bindings(), io.StringIO()
        try:
            # ExecuTorch logs to Python's stderr, at length of what it cannot read of a processor that works.
            with contextlib.redirect_stderr(said):
                self._program = native._load_program(
                    str(artifact.path(PROGRAM)),
                    data_path=str(artifact.path(WEIGHTS)) if WEIGHTS in artifact else None,
                    # All tables of the program, which takes microseconds; not segments, nor what is a delegate's own.
                    program_verification=native.Verification.InternalConsistency,
                )
                self._names = {self._program.get_method_name(at) for at in range(self._program.num_methods())}
                self._methods = {"forward": self._program.load_method("forward")}
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
                # memory, which the next call overwrites; by default, all of them would be copied.
                method, given = self._method_for(chosen)
                results = method([batch.cpu() if self._on_host else batch], clone_outputs=False)
            except RuntimeError as error:
                raise ArtifactError(f"ExecuTorch could not run {self._folder}: {first_line(error)}") from error
            shapes = [tuple(getattr(result, "shape", ())) for result in results]
            if shapes != (expected := [self.outputs[index].shape for index in given]):
                raise ArtifactError(
                    f"{self._folder} is not what its manifest says: expected outputs of shapes {expected}, given "
                    f"{shapes}; export it again"
                )
            return {self.outputs[index].name: results[given.index(index)].clone() for index in chosen}

    def _method_for(self, chosen: Sequence[int]) -> tuple[Any, list[int]]:
        """Return a method that computes the chosen outputs, with the indices of all that it computes."""
        every = list(range(len(self.outputs)))
        for index in every:
            name = f"{WITHOUT}{self.outputs[index].name}"
            if index not in chosen and name in self._names:
                if name not in self._methods:
                    with quiet():
                        self._methods[name] = self._program.load_method(name)
                return self._methods[name], [other for other in every if other != index]
        return self._methods["forward"], every

    def _release(self) -> None:
        """Drop the methods before their program."""
        self._methods = {}
        self._program = None


@functools.cache
def _bindings() -> Any:
    """Return the bindings.

    `executorch.runtime` imports all of `executorch.exir` before them, for the class of a warning: half of the time to
    the first image. It is what is taken where the extension has another name than in 1.5.
    """
    import torch  # noqa: F401 (loads the libraries that the extension is linked to)

    with quiet():
        try:
            from executorch.extension.pybindings import _C
        except ImportError:
            return importlib.import_module("executorch.extension.pybindings.portable_lib")
        return _C
