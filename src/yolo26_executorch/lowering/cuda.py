"""Lowering to ExecuTorch's CUDA delegate: AOTInductor with Triton kernels only, no libtorch at run time.

The only file that touches internals of ExecuTorch's CUDA backend (executorch 1.5); `inductor` does AOTInductor's.
"""

from __future__ import annotations

import contextlib
import copy
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ExportError, GpuMemoryError, LoweringError
from ..models.export_model import ExportModel, products
from ..models.options import ExportOptions
from ..system.probe import dotted, toolkit_folder
from . import dispatcher
from .absent_gpu import compiling_for, driver_to_link
from .dispatcher import Member
from .gpus import JETSONS, compiled
from .inductor import (
    compile_threads,
    compiled_kernels,
    compiling,
    cpp_compiler,
    forget_kernels,
    replaced,
    start_compilers,
)
from .kernels.pdl import use_pdl
from .kernels.tile import Tile
from .passes.fusion import fuse
from .passes.rewrites import for_cuda
from .passes.tiles import problems_of, set_tiles
from .program import Lowered, check_delegated
from .target import Target
from .tuning.autotune import tune_missing
from .tuning.cost_model import Problem, choose
from .tuning.tile_table import TileTable

DELEGATE = "CudaBackend"

_COMPILER_SAYS = re.compile(r"^.*\berror: .*$", re.MULTILINE)
_COMPILER_DIED = ("internal compiler error", "signal terminated program")
"""What g++ says, if anything, when it crashed or was killed: another try may succeed."""


def lower(
    model: ExportModel, options: ExportOptions, stage: Callable[[str], None], gpus: Sequence[Target] = ()
) -> Lowered:
    """Lower a model to one CUDA delegate holding every operator.

    Args:
        model: the eager model on the CPU; rewritten in place.
        options: precision, and whether inputs and outputs stay in GPU memory.
        stage: called with "export", "tune" (with `autotune` alone), "lower", "compile" and "write" when each begins.
        gpus: what is compiled for; none is the GPU at hand.

    Raises:
        LoweringError: an operator stayed outside the delegate or needs a kernel that the runtime lacks, or a compiler
            failed.
        GpuMemoryError: the GPU's memory ran out.
    """
    targets = compiled(gpus) or (Target.at_hand(),)
    collected = _Collected(targets)
    forget_kernels()
    lowered = []
    for gpu in targets:
        # Rewriting is in place, and the last may have the original.
        own = model if gpu is targets[-1] else copy.deepcopy(model)
        with (
            contextlib.nullcontext() if gpu.is_here else compiling_for(gpu),
            collected.from_backend() if len(targets) > 1 else contextlib.nullcontext(),
        ):
            lowered.append(_lower(own, options, stage, gpu))
    kernels = tuple(kernel for one in lowered for kernel in one.kernels)
    return replace(lowered[-1], kernels=kernels)


class _Collected:
    """The shared objects of one program for several GPUs, the last of which is replaced by one of all."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._members: list[Member] = []
        self._weights: dict[str, Any] = {}

    @contextlib.contextmanager
    def from_backend(self) -> Iterator[None]:
        """Take the shared object of the next program that is lowered here."""
        from executorch.backends.cuda.cuda_backend import CudaBackend

        # The place where a backend may sign its shared object: it is linked, and not yet read.
        with replaced(CudaBackend, "codesign_so", staticmethod(lambda path, _: self._take(Path(path)))):
            yield

    def _take(self, path: Path) -> None:
        from executorch.backends.cuda.cuda_weight_collector import CudaWeightCollector

        gpu = self._targets[len(self._members)]
        artifact: Any = CudaWeightCollector.current_capture().artifact
        weights = {
            entry.fqn: (entry.dtype, entry.storage_offset, entry.sizes, entry.strides,
                        artifact.storages[entry.storage_key].sha256())
            for entry in artifact.entries
        }  # fmt: skip
        first = self._weights or weights
        if wrong := sorted(name for name in {*first, *weights} if first.get(name) != weights.get(name)):
            names = [dotted(one.capability) for one in (self._targets[0], gpu)]
            raise LoweringError(
                f"the weight {wrong[0]!r} differs between {' and '.join(names)}, and one artifact has one set of them; "
                "export once for each"
            )
        self._weights = first
        shared_bytes = max(kernel.shared_bytes for kernel in compiled_kernels(gpu.capability))
        exact = gpu.capability >= (9, 0) or gpu.capability in JETSONS
        ptx = _portable_ptx(gpu.capability)
        self._members.append(Member(gpu.capability, path.read_bytes(), exact, ptx, shared_bytes))
        if len(self._members) == len(self._targets):
            path.unlink()  # it may have other names
            with driver_to_link() as folder:
                dispatcher.build(self._members, path, compiler=[cpp_compiler()], libraries=folder)


def _lower(model: ExportModel, options: ExportOptions, stage: Callable[[str], None], gpu: Target) -> Lowered:
    starting = start_compilers()
    from executorch.backends.cuda.cuda_backend import CudaBackend
    from executorch.backends.cuda.cuda_partitioner import CudaPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from executorch.exir.backend.compile_spec_schema import CompileSpec

    stage("export")
    for_cuda(model, gpu)
    example = model.example_input
    input_precision = products(gpu.precision(options.precision))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        large = _weights_exceed_l2(model, gpu)
        network = fuse(model, example, input_precision, _tiles(gpu), prefetch=large)
        if options.autotune != "off":
            stage("tune")
            _tune(network, gpu, full=options.autotune == "full")
        exported = torch.export.export(network, (example,))
        stage("lower")
        specs = [
            CudaBackend.generate_method_name_compile_spec("forward"),
            # Tiles come from `tuning`, and those of Inductor's templates from `inductor`: nothing is benchmarked.
            CompileSpec("max_autotune", b"OFF"),
            # Fused kernels keep float32 between operators: nearer to fp32 eager than rounding where eager would.
            CompileSpec("emulate_precision_casts", b"OFF"),
        ]
        try:
            with (
                compiling(gpu, input_precision, lambda: stage("compile"), starting),
                _fatbins(gpu.capability),
                use_pdl(large),
            ):
                edge = to_edge_transform_and_lower(
                    exported,
                    partitioner=[CudaPartitioner(specs)],
                    compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
                )
        except Exception as error:
            raise _explain(error) from error
        delegated = check_delegated(edge.exported_program())
        stage("write")
        program = edge.to_executorch(_backend_config(options))
        kernels = compiled_kernels(gpu.capability)
        forget_kernels()
        return Lowered(program, DELEGATE, delegated, network, kernels)


def _weights_exceed_l2(model: torch.nn.Module, gpu: Target) -> bool:
    """Whether the weights do not stay in the GPU's L2 cache from run to run, and something can be done about it.

    That was seen to work on sm_90, and nobody has tried it on what came later.
    """
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return gpu.capability[0] == 9 and size > gpu.l2_bytes // 2


def _tiles(gpu: Target) -> Callable[[Problem], Tile]:
    own = TileTable.of_user(gpu.name).tiles()
    return lambda problem: choose(problem, gpu, own)


def _tune(network: torch.fx.GraphModule, gpu: Target, *, full: bool) -> None:
    """Measure the tiles of a network's convolutions on the GPU at hand, where that was not done before; set them."""
    table = TileTable.of_user(gpu.name)
    try:
        for done, of, found in tune_missing(table, problems_of(network), full=full, jobs=compile_threads()):
            print(f"tune {done} of {of}: {found}", flush=True)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise LoweringError(
            f"--autotune keeps what it measures in {table.path.parent}: {why}; fix: set XDG_CACHE_HOME to a "
            "folder that can be written"
        ) from error
    except RuntimeError as error:
        raise _explain(error) from error
    set_tiles(network, _tiles(gpu))


def architectures(capabilities: Sequence[tuple[int, int]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the compute capabilities with machine code, and those with portable PTX, in what is compiled here.

    From 9.0 on Triton compiles for architecture-specific targets (sm_90a …), whose code and PTX no other GPU takes, so
    no PTX is put in.
    """
    names = {capability: f"{dotted(capability)}{'a' if capability >= (9, 0) else ''}" for capability in capabilities}
    return tuple(names.values()), tuple(name for capability, name in names.items() if _portable_ptx(capability))


def _portable_ptx(capability: tuple[int, int]) -> bool:
    from torch.utils.cpp_extension import CUDA_HOME

    return capability[0] < 9 and (CUDA_HOME or toolkit_folder()) is not None


@contextlib.contextmanager
def _fatbins(capability: tuple[int, int]) -> Iterator[None]:
    """Embed PTX beside the machine code only where another GPU could use it."""
    from executorch.backends.cuda.cuda_backend import CudaBackend

    if _portable_ptx(capability):
        yield
        return
    with replaced(CudaBackend, "_setup_cuda_environment_for_fatbin", staticmethod(lambda: False)):
        yield


def _backend_config(options: ExportOptions) -> Any:
    from executorch.exir import ExecutorchBackendConfig

    if options.io == "host":
        return ExecutorchBackendConfig()
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.exir.passes.propagate_device_pass import PropagateDeviceConfig

    return ExecutorchBackendConfig(
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False),
        propagate_device_config=PropagateDeviceConfig(
            skip_h2d_for_method_inputs=True, skip_d2h_for_method_outputs=True
        ),
    )


def _explain(error: BaseException) -> ExportError:
    """Return what failed and what to try, in one line; the whole message goes to the log."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    text = " ".join(str(error).split())
    if "missing fallback kernels" in text:
        missing = text[text.index("missing fallback") :][:300]
        return LoweringError(f"operators without a kernel in the CUDA delegate: {missing}")
    if "out of memory" in text.lower():
        return GpuMemoryError(
            f"the GPU ran out of memory while compiling ({text[:200]}); fix: close other programs or use --jobs 1"
        )
    if "C++ compile error" in text:
        found = _COMPILER_SAYS.search(str(error).partition("Output:")[2])
        said = found[0] if found else "it ended without a word"
        failed = LoweringError(f"the C++ compiler failed: {' '.join(said.split())[:300]}")
        failed.transient = found is None or any(words in said for words in _COMPILER_DIED)
        return failed
    return LoweringError(f"{type(error).__name__}: {text[:400]}")
