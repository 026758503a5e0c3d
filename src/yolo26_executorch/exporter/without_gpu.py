"""The test of an export whose GPUs are not here: all that can be seen without running it.

What the shared object asks of a runtime is beside what ExecuTorch's CUDA delegate offers; its machine code is there,
for every architecture, and no kernel exceeds its GPU's limits; and the very graph that was compiled gives PyTorch's
results, computed on the CPU by the kernels' references. What is left, running the kernels, `yolo26-et verify` does
where such a GPU is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.manifest import PROGRAM, WEIGHTS
from ..artifacts.native_code import read_native_code
from ..artifacts.program_file import CudaPayload, read_cuda_payload
from ..artifacts.reading import Artifact
from ..lowering.gpus import compiled
from ..lowering.program import Kernel, Lowered
from ..lowering.target import Target
from ..models import checkpoints
from ..models.tasks import TASKS
from ..system.probe import dotted
from .smoke_test import Figures, answer_of, compared, inputs_of

if TYPE_CHECKING:
    from torch import Tensor

RUNNER = "reference"
"""In the figures, in place of a runner's name: the kernels' references on the CPU."""
INPUTS = 2
"""Of the smoke test's, a photograph first; PyTorch takes its time for half precisions on CPUs."""
_MOST_THREADS = 1024


def run(
    folder: Path, lowered: Lowered, targets: Sequence[Target], *, checkpoint: Path | None, weights_dir: Path | None,
    trusted: bool, picture: Path | None,
) -> Figures:  # fmt: skip
    """Test a sealed artifact; figures are those of `smoke_test.run`, without a latency, and with "not_run".

    Args:
        folder: the artifact.
        lowered: what it was written from.
        targets: the GPUs that it is for.
        checkpoint: the file that it was made from; None looks for it as `checkpoints.find_checkpoint` does.
        weights_dir: where to look first.
        trusted: whether the checkpoint may run code while it is unpickled.
        picture: as for `smoke_test.run`.
    """
    import torch

    from ..parity.baseline import Reference

    with Artifact.open(folder) as artifact:
        manifest = artifact.manifest
        payload = read_cuda_payload(artifact.file(PROGRAM), artifact.file(WEIGHTS))
    failures = [*native_problems(payload, targets, lowered.kernels), *weight_problems(payload, lowered.graph)]
    task = TASKS[manifest.task]
    inputs = dict(list(inputs_of(task, manifest.input, picture).items())[:INPUTS])
    with torch.no_grad():
        given = {name: _named(lowered.graph(batch), manifest.outputs) for name, batch in inputs.items()}
    found = checkpoints.find_checkpoint(manifest, checkpoint, weights_dir=weights_dir, trusted=trusted)
    reports, differences, largest = compared(Reference(manifest, found, "cpu"), inputs, given)
    failures += differences
    image = next(iter(inputs))
    return {
        "passed": not failures,
        "runner": RUNNER,
        "device": "cpu",
        "inputs": reports,
        "failures": failures,
        "largest": largest,
        "picture": image,
        "answer": answer_of(manifest, given[image], picture),
        "kernels": {
            dotted(gpu.capability): sum(kernel.capability == gpu.capability for kernel in lowered.kernels)
            for gpu in compiled(targets)
        },
        "not_run": list(manifest.platform.architectures),
    }


def in_words(figures: Mapping[str, Any]) -> str:
    """Say what of a test was not run."""
    names = ", ".join(map(str, figures["not_run"]))
    return (
        f"no GPU of compute capability {names} is here, so its kernels were compiled and not run there; "
        "`yolo26-et verify` on such a machine completes the test"
    )


def native_problems(payload: CudaPayload, targets: Sequence[Target], kernels: Sequence[Kernel]) -> Iterator[str]:
    """Yield what is wrong with the native code, in words."""
    native = read_native_code(payload.library)
    if foreign := native.foreign():
        yield f"the shared object needs what ExecuTorch's CUDA delegate lacks: {', '.join(foreign)}"
    for gpu in compiled(targets):
        name = dotted(gpu.capability)
        own = [kernel for kernel in kernels if kernel.capability == gpu.capability]
        if not own or native.binaries[name] < len(own):
            yield f"the shared object has machine code of {native.binaries[name]} of {len(own)} kernels for {name}"
        for kernel in own:
            if kernel.shared_bytes > gpu.shared_bytes:
                yield (
                    f"kernel {kernel.name} takes {kernel.shared_bytes} bytes of shared memory, and {name} has "
                    f"{gpu.shared_bytes}"
                )
            if not 0 < kernel.threads <= _MOST_THREADS:
                yield f"kernel {kernel.name} has {kernel.threads} threads, and {name} takes 1 to {_MOST_THREADS}"


def weight_problems(payload: CudaPayload, graph: Any) -> Iterator[str]:
    """Yield what of the written weights is not as in the graph, in words."""
    import torch

    values = graph.state_dict()
    for weight in payload.weights:
        value = values.get(weight.name)
        if value is not None and not torch.equal(weight.tensor("cpu"), value):
            yield f"the weight {weight.name} was written with other values"
    stored = {weight.name for weight in payload.weights}
    if not stored & set(values):
        yield "none of the graph's weights was written"


def _named(outputs: Any, specs: Sequence[Any]) -> dict[str, Tensor]:
    given = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return {spec.name: value for spec, value in zip(specs, given, strict=True)}
