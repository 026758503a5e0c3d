"""The shared object of a CUDA artifact, driven through its own C interface inside PyTorch.

The object needs only the `aoti_torch_*` C functions; libtorch exports the same ones that ExecuTorch's delegate does.
The interface is that of `torch/csrc/inductor/aoti_runtime/interface.h`; its single-threaded entry, unlike the one that
PyTorch's bindings call, can be captured in a CUDA graph.

An object that was loaded stays loaded: it has symbols that the loader keeps unique in a process and so never unloads,
and its model, compiled with torch 2.11, does not unload its kernels. What is closed is therefore kept, without its
weights, for whoever opens the same object on the same GPU next; repeated opening and closing costs nothing, and what
stays behind are some megabytes for each different model.
"""

from __future__ import annotations

import ctypes
import hashlib
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifacts.manifest import WEIGHTS
from ..artifacts.program_file import CudaPayload, Weight
from ..errors import ArtifactError, CompatibilityError
from . import gpu

_LIBRARIES = ("libc10.so", "libc10_cuda.so", "libtorch_cpu.so", "libtorch_cuda.so")

_lock = threading.Lock()
_libraries: dict[str, ctypes.CDLL] = {}
"""What is loaded, by the object's SHA-256."""
_idle: defaultdict[tuple[str, torch.device], list[CompiledModel]] = defaultdict(list)
"""Models that were closed, by `_key` and GPU."""


class CompiledModel:
    """One model of a shared object on one GPU. Not for several threads at a time.

    Made by `open_model`, and given back by `close`.
    """

    def __init__(self, library: ctypes.CDLL, payload: CudaPayload, key: str, device: torch.device) -> None:
        self._library = library
        self._place = key, device
        self._order = payload.order
        self._container = ctypes.c_void_p()
        self._weights: list[Tensor] = []
        self._call(
            "AOTInductorModelContainerCreateWithDevice",
            ctypes.byref(self._container), ctypes.c_size_t(1), str(device).encode(), None,
        )  # fmt: skip
        self._names = self._constants(payload.weights)

    def run(self, batch: Tensor) -> list[Tensor]:
        """Launch the kernels for one contiguous batch on the GPU, on its current stream; returns the program's outputs.

        The model's GPU must be the current one.
        """
        inputs = _handles([batch])
        outputs = (ctypes.c_void_p * len(self._order))()
        stream = ctypes.c_void_p(torch.cuda.current_stream(batch.device).cuda_stream)
        self._call(
            "AOTInductorModelContainerRunSingleThreaded",
            self._container, inputs, ctypes.c_size_t(1), outputs, ctypes.c_size_t(len(outputs)), stream, None,
        )  # fmt: skip
        capsules = [_capsule(pointer) for pointer in outputs]
        results = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)
        return [results[index] for index in self._order]

    def close(self) -> None:
        """Free the weights' memory, once nothing on the GPU uses them, and keep the rest for the next `open_model`."""
        for weight in self._weights:
            weight.untyped_storage().resize_(0)
        with _lock:
            _idle[self._place].append(self)

    def bind(self, weights: Sequence[Weight]) -> None:
        """Give the model its weights' values.

        PyTorch's container keeps a reference of its own to every tensor that it was lent, and never lets go of it:
        the tensors of the first time are filled anew.
        """
        stored = {weight.name: weight for weight in weights}
        chosen = [stored[name] for name in self._names.values()]
        if self._weights:
            for weight, tensor in zip(chosen, self._weights, strict=True):
                weight.fill(tensor)
        else:
            self._weights = [weight.tensor(self._place[1]) for weight in chosen]
            handles = _handles(self._weights)
            pairs = [_Pair(name, handle) for name, handle in zip(self._names, handles, strict=True)]
            self._pairs = (_Pair * len(pairs))(*pairs)
        self._call(
            "AOTInductorModelContainerUpdateUserManagedConstantBufferPairs",
            self._container, self._pairs, ctypes.c_size_t(len(self._pairs)), ctypes.c_bool(False), ctypes.c_bool(True),
        )  # fmt: skip

    def _constants(self, weights: Sequence[Weight]) -> dict[bytes, str]:
        """Return for each of the model's constants, by its name there, the weight's name in the artifact."""
        stored = {weight.name for weight in weights}
        count = ctypes.c_size_t()
        self._call("AOTInductorModelContainerGetNumConstants", self._container, ctypes.byref(count))
        found = {}
        for index in range(count.value):
            name, original = ctypes.c_char_p(), ctypes.c_char_p()
            at = ctypes.c_size_t(index)
            self._call("AOTInductorModelContainerGetConstantName", self._container, at, ctypes.byref(name))
            self._call("AOTInductorModelContainerGetConstantOriginalFQN", self._container, at, ctypes.byref(original))
            inner = name.value or b""
            names = [(original.value or inner).decode(), inner.decode()]
            key = next((candidate for candidate in names if candidate in stored), None)
            if key is None:
                raise ArtifactError(f"the model's weight {names[0]!r} is not in {WEIGHTS}; export the model again")
            found[inner] = key
        return found

    def _call(self, function: str, *arguments: Any) -> None:
        """Call a function of the object's C interface; it returns 0 or has printed why not."""
        if getattr(self._library, function)(*arguments) != 0:
            raise CompatibilityError(f"the artifact's shared object failed in {function}; its message is on stderr")


class _Pair(ctypes.Structure):
    """`AOTInductorConstantMapEntry`."""

    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


def open_model(payload: CudaPayload, device: torch.device) -> CompiledModel:
    """Load a model with its weights on a GPU, or take one that was closed there.

    Raises:
        ArtifactError: a weight is missing.
        CompatibilityError: the object cannot be loaded here.
    """
    key = _key(payload)
    with gpu.using(device):
        with _lock:
            idle = _idle[key, device]
            model = idle.pop() if idle else None
            library = _libraries.get(key)
            if library is None:
                library = _libraries[key] = _load(payload.library)
        model = model or CompiledModel(library, payload, key, device)
        model.bind(payload.weights)
    return model


def _key(payload: CudaPayload) -> str:
    """Return what tells models apart in all but the weights' values."""
    digest = hashlib.sha256(payload.library)
    layout = [(w.name, w.dtype, len(w.data), w.offset, w.sizes, w.strides) for w in payload.weights]
    digest.update(repr((layout, payload.order)).encode())
    return digest.hexdigest()


def _load(library: bytes) -> ctypes.CDLL:
    """Load a shared object, with libtorch's functions in sight."""
    folder = Path(torch.__file__).parent / "lib"
    for name in _LIBRARIES:
        # PyTorch loads these without RTLD_GLOBAL; opened again with it, their symbols resolve the object's.
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    with tempfile.TemporaryDirectory(prefix="yolo26-et-") as private:
        path = Path(private) / "model.so"
        path.write_bytes(library)
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
