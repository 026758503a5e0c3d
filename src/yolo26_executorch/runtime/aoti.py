"""Run a CUDA artifact's shared object inside PyTorch, where ExecuTorch's CUDA delegate is not at hand.

The object needs only the `aoti_torch_*` C functions; libtorch exports the same ones that the delegate does. It is
driven through its own C interface (`torch/csrc/inductor/aoti_runtime/interface.h`), whose single-threaded entry, unlike
the one that PyTorch's bindings call, can be captured in a CUDA graph.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..artifacts.manifest import PROGRAM, WEIGHTS, Manifest
from ..artifacts.program_file import CudaPayload, read_cuda_payload
from ..errors import ArtifactError, CompatibilityError
from .runner import Closing, choose, prepare
from .staging import Staging

if TYPE_CHECKING:
    from .runner import Images

_LIBRARIES = ("libc10.so", "libc10_cuda.so", "libtorch_cpu.so", "libtorch_cuda.so")


@dataclass(frozen=True)
class _Captured:
    """One call as a CUDA graph, which computes `outputs` from what `batch` holds when it is replayed."""

    graph: torch.cuda.CUDAGraph
    batch: Tensor
    outputs: list[Tensor]


class AotiRunner(Closing):
    """The artifact's shared object, in this process and on the current GPU.

    Calls replay a CUDA graph, captured at the first; `run` launches kernel by kernel. The object is native code: it is
    loaded only after its artifact's hashes were checked.
    """

    name = "aoti"

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.input = manifest.input
        self.outputs = manifest.outputs
        self.device = torch.device("cuda", torch.cuda.current_device())
        payload = read_cuda_payload(folder / PROGRAM, folder / WEIGHTS)
        self._order = payload.order
        self._on_host = manifest.options.io == "host"
        self._library = _load(payload)
        self._container = ctypes.c_void_p()
        self._call(
            "AOTInductorModelContainerCreateWithDevice",
            ctypes.byref(self._container), ctypes.c_size_t(1), str(self.device).encode(), None,
        )  # fmt: skip
        self._weights = self._bind(payload)
        self._called: _Captured | None = None
        """What calls replay."""
        self._staging: Staging | None = None
        """Between callers' memory and `_called`."""
        self._lent: _Captured | None = None
        """What `capture` has handed out."""
        self._idle: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        """Reached when nothing uses `_called` any more, on whatever stream."""

    def __call__(
        self, images: Images, *, outputs: Sequence[str] | None = None, on_device: bool = False
    ) -> dict[str, Tensor]:
        """Run one batch; see `Runner`.

        Artifacts made with `--io device` leave their outputs on the GPU, and so do all where a graph is captured.
        """
        chosen = choose(self.outputs, outputs)
        batch = prepare(images, self.input)
        if torch.cuda.is_current_stream_capturing():
            every = self.run(batch.to(self.device))
            results = [every[index] for index in chosen]
        else:
            results = self._replayed(batch, chosen, on_device or not self._on_host)
        return {self.outputs[index].name: result for index, result in zip(chosen, results, strict=True)}

    def run(self, batch: Tensor) -> list[Tensor]:
        """Run one contiguous batch on the GPU, on the current stream, and return the outputs there."""
        if not self._container:
            raise RuntimeError("the runner was closed")
        inputs = _handles([batch])
        outputs = (ctypes.c_void_p * len(self.outputs))()
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        self._call(
            "AOTInductorModelContainerRunSingleThreaded",
            self._container, inputs, ctypes.c_size_t(1), outputs, ctypes.c_size_t(len(outputs)), stream, None,
        )  # fmt: skip
        capsules = [_capsule(pointer) for pointer in outputs]
        results = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)
        return [results[index] for index in self._order]

    def capture(self) -> tuple[Tensor, list[Tensor]]:
        """Capture one call in a CUDA graph.

        Returns:
            The input to write into and the outputs to read from; `replay` computes the second from the first, and
            plain calls touch neither.
        """
        self._lent = self._capture()
        return self._lent.batch, self._lent.outputs

    def replay(self) -> None:
        """Replay the captured call on the current stream."""
        if self._lent is None:
            raise RuntimeError("capture() first")
        self._lent.graph.replay()

    def _replayed(self, batch: Tensor, chosen: Sequence[int], on_device: bool) -> list[Tensor]:
        """Return the chosen outputs of a batch, on the GPU or the host, by replaying the graph of calls."""
        called = self._called = self._called or self._capture()
        staging = self._staging = self._staging or Staging(called.batch, called.outputs)
        self._idle.wait()
        staging.upload(batch)
        called.graph.replay()
        results = [called.outputs[index].clone() for index in chosen] if on_device else staging.download(chosen)
        self._idle.record()
        return results

    def _capture(self) -> _Captured:
        batch = torch.zeros(self.input.shape, dtype=getattr(torch, self.input.dtype), device=self.device)
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.run(batch)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may do what a capture forbids: a data loader that pins memory, for one.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self.run(batch)
        return _Captured(graph, batch, outputs)

    def close(self) -> None:
        """Delete the graphs, the model and its weights."""
        if self._container:
            torch.cuda.synchronize(self.device)
            self._called = self._lent = self._staging = None
            self._call("AOTInductorModelContainerDelete", self._container)
            self._container = ctypes.c_void_p()
        for weight in self._weights:
            # PyTorch's container keeps a reference of its own to what it was lent, and never lets go of it.
            weight.untyped_storage().resize_(0)
        self._weights = []

    def _bind(self, payload: CudaPayload) -> list[Tensor]:
        """Hand the model its weights; returns them, since the model only borrows them."""
        stored = {weight.name: weight for weight in payload.weights}
        count = ctypes.c_size_t()
        self._call("AOTInductorModelContainerGetNumConstants", self._container, ctypes.byref(count))
        names, tensors = [], []
        for index in range(count.value):
            name, original = ctypes.c_char_p(), ctypes.c_char_p()
            at = ctypes.c_size_t(index)
            self._call("AOTInductorModelContainerGetConstantName", self._container, at, ctypes.byref(name))
            self._call("AOTInductorModelContainerGetConstantOriginalFQN", self._container, at, ctypes.byref(original))
            key = (original.value or b"").decode() or (name.value or b"").decode()
            weight = stored.get(key) or stored.get((name.value or b"").decode())
            if weight is None:
                raise ArtifactError(f"the model's weight {key!r} is not in {WEIGHTS}; export the model again")
            names.append(name.value)
            tensors.append(weight.tensor(str(self.device)))

        class Pair(ctypes.Structure):
            _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))

        pairs = (Pair * count.value)(*[Pair(n, h) for n, h in zip(names, _handles(tensors), strict=True)])
        self._call(
            "AOTInductorModelContainerUpdateUserManagedConstantBufferPairs",
            self._container, pairs, count, ctypes.c_bool(False), ctypes.c_bool(True),
        )  # fmt: skip
        return tensors

    def _call(self, function: str, *arguments: Any) -> None:
        """Call a function of the object's C interface; it returns 0 or has printed why not."""
        if getattr(self._library, function)(*arguments) != 0:
            raise CompatibilityError(f"the artifact's shared object failed in {function}; its message is on stderr")


def _load(payload: CudaPayload) -> ctypes.CDLL:
    """Load the shared object, with libtorch's functions in sight."""
    folder = Path(torch.__file__).parent / "lib"
    for name in _LIBRARIES:
        # PyTorch loads these without RTLD_GLOBAL; opened again with it, their symbols resolve the object's.
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    with tempfile.TemporaryDirectory(prefix="yolo26-et-") as private:
        path = Path(private) / "model.so"
        path.write_bytes(payload.library)
        try:
            return ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            raise CompatibilityError(f"the artifact's shared object cannot be loaded here: {error}") from error


def _handles(tensors: Sequence[Tensor]) -> Any:
    """Return new AtenTensorHandles of tensors, as a C array; whoever they are handed to owns them."""
    capsules = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))
    return (ctypes.c_void_p * len(capsules))(*[_pointer(capsule) for capsule in capsules])


def _pointer(capsule: Any) -> int:
    ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
    ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(ctypes.pythonapi.PyCapsule_GetPointer(capsule, None))


def _capsule(pointer: int | None) -> Any:
    ctypes.pythonapi.PyCapsule_New.restype = ctypes.py_object
    ctypes.pythonapi.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return ctypes.pythonapi.PyCapsule_New(pointer, None, None)
