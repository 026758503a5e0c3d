"""Read ExecuTorch's two files, `.pte` and `.ptd`, without running anything in them.

The only file that knows their inside (executorch 1.5: `executorch.exir._serialize`, `executorch.extension.flat_tensor`,
and `executorch/backends/cuda/cuda_weight_collector.py`, which documents the CUDA delegate's payload).
"""

from __future__ import annotations

import contextlib
import functools
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ArtifactError, CompatibilityError, first_line

if TYPE_CHECKING:
    import torch

_SINGLE, _SEVERAL = b"ETCUDAFQN3", b"ETCUDAFQN0"
"""How the CUDA delegate's payload starts: executorch 1.5's, and that of the release behind it, which has a library for
each kind of GPU."""
_MOST_VARIANTS = 256
_READING_BYTES = 4_000_000_000
"""Memory for looking into an artifact; the largest takes a few hundred MB."""


class Readable(Protocol):
    """A file to look into: a `Path`, or one of an opened artifact. As text it is where the file lies."""

    @property
    def suffix(self) -> str:
        """The ending of its name."""

    def read_bytes(self) -> bytes:
        """Return all of it."""


@dataclass(frozen=True)
class Method:
    """One method of a program."""

    name: str
    delegate_calls: dict[str, int]
    """Calls of each delegate, by the delegate's name."""
    outside: dict[str, int]
    """Calls of the operators outside every delegate, by name."""


@dataclass(frozen=True)
class Weight:
    """One weight of a CUDA delegate: a view of a stored block of bytes."""

    name: str
    data: bytes
    dtype: torch.dtype
    offset: int
    """Elements before the first."""
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    def fits(self) -> bool:
        """Whether all of it lies inside its block."""
        if min((0, self.offset, *self.sizes, *self.strides)) < 0:
            return False
        last = sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))
        return 0 in self.sizes or (self.offset + last + 1) * self.dtype.itemsize <= len(self.data)

    def tensor(self, device: torch.device | str) -> torch.Tensor:
        """Return it as a tensor on a device, with its own strides."""
        import torch

        storage = torch.UntypedStorage(len(self.data), device=device)  # type: ignore[no-untyped-call]
        tensor = torch.empty(0, dtype=self.dtype, device=device).set_(storage, self.offset, self.sizes, self.strides)
        self.fill(tensor)
        return tensor

    def fill(self, tensor: torch.Tensor) -> None:
        """Write the values into a tensor that `tensor` has made, or a weight like this one; it may lack its memory."""
        import torch

        storage = tensor.untyped_storage()
        storage.resize_(len(self.data))
        block = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        if self.data:
            block.copy_(torch.frombuffer(bytearray(self.data), dtype=torch.uint8))


@dataclass(frozen=True)
class Variant:
    """One of a program's shared objects, where it has several."""

    target: int
    """The compute capability that it was compiled for, as 86 for 8.6; 0 for any."""
    ptx: int
    """The same of its PTX; 0 for none."""
    fallback: bool
    """Whether it is for GPUs that no other is for, by PTX alone."""
    library: bytes

    def runs_on(self, capability: int) -> bool:
        """Whether a GPU of a capability, as 86 for 8.6, runs it."""
        return (not self.fallback and self.target in (0, capability)) or 0 < self.ptx <= capability


@dataclass(frozen=True)
class CudaPayload:
    """What the CUDA delegate of a program needs at run time."""

    library: bytes
    """The AOTInductor shared object: native code. Where there are several, the first."""
    weights: tuple[Weight, ...]
    order: tuple[int, ...]
    """For each output of the program, which output of the delegate it is: the partitioner orders its own anew."""
    variants: tuple[Variant, ...] = ()
    """Where the program has a shared object for each kind of GPU; else none."""

    def for_gpu(self, capability: tuple[int, int]) -> CudaPayload:
        """Return it with the shared object for a GPU.

        Raises:
            CompatibilityError: none of several runs on it.
        """
        number = 10 * capability[0] + capability[1]
        fit = [variant for variant in self.variants if variant.runs_on(number)]
        if not self.variants:
            return self
        if not fit:
            names = ", ".join(f"{one.target // 10}.{one.target % 10}" for one in self.variants)
            raise CompatibilityError(
                f"the program has shared objects for compute capability {names}; this GPU is {capability[0]}."
                f"{capability[1]}: export it again here"
            )
        own = next((variant for variant in fit if variant.target == number and not variant.fallback), fit[0])
        return replace(self, library=own.library)


def read_methods(program: Readable) -> tuple[Method, ...]:
    """Return the methods of a `.pte` and what they call; raises ArtifactError where the file is damaged."""
    methods = []
    with _damage(program):
        from executorch.exir.schema import DelegateCall, KernelCall

        for plan in _read_program(program).program.execution_plan:
            steps = [step.instr_args for chain in plan.chains for step in chain.instructions]
            calls = Counter(plan.delegates[s.delegate_index].id for s in steps if isinstance(s, DelegateCall))
            operators = [plan.operators[s.op_index] for s in steps if isinstance(s, KernelCall)]
            outside = Counter(f"{op.name}.{op.overload}".rstrip(".") for op in operators)
            methods.append(Method(plan.name, dict(calls), dict(outside)))
    return tuple(methods)


def read_named_data(path: Readable) -> dict[str, bytes]:
    """Return the named data of a `.pte` or `.ptd`, by key; raises ArtifactError where the file is damaged."""
    with _damage(path):
        if path.suffix == ".pte":
            return _named_data(_read_program(path))
        return _read_data_file(path.read_bytes())


def read_cuda_payload(program: Readable, data: Readable) -> CudaPayload:
    """Return the shared object and the weights of a program with one CUDA delegate.

    Raises:
        ArtifactError: the program has no CUDA delegate, or a file is damaged.
    """
    with _damage(program):
        file = _read_program(program)
        named = _named_data(file)
        plans = [plan for plan in file.program.execution_plan if [d.id for d in plan.delegates] == ["CudaBackend"]]
    if len(plans) != 1:
        raise ArtifactError(f"{program} has {len(plans)} methods with one CUDA delegate; expected one")
    stored = read_named_data(data)
    with _damage(program):
        payload = file.program.backend_delegate_data[plans[0].delegates[0].processed.index].data
        if not payload.startswith((_SINGLE, _SEVERAL)):
            raise ArtifactError(
                f"{program} was made by another release of ExecuTorch: its CUDA delegate's payload starts with "
                f"{bytes(payload[:10])!r}, and this reads {_SINGLE.decode()} and {_SEVERAL.decode()}; use the release "
                "of yolo26-executorch that goes with it, or export the model again"
            )
        rows, weights = _decode_payload(bytes(payload), stored)
        variants = tuple(Variant(target, ptx, fallback, named[key]) for target, ptx, fallback, key in rows)
        several = variants if payload.startswith(_SEVERAL) else ()
        return CudaPayload(variants[0].library, weights, _output_order(plans[0]), several)


class LittleMemory:
    """Within it, this process can take `_READING_BYTES` more and no further, where the system can do that.

    Some kilobytes made on purpose can describe a program whose parts, each shared by many others, fill any memory.

    Args:
        folder: what is looked into.

    Raises:
        ArtifactError: on leaving, where memory ran out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lift: Callable[[], object] = lambda: None
        self._reserve = b""

    def __enter__(self) -> None:
        try:
            import resource
        except ImportError:  # not on Windows
            return
        import psutil

        import_readers()  # libraries map gigabytes, and are no part of the file

        before = resource.getrlimit(resource.RLIMIT_AS)
        self._lift = functools.partial(resource.setrlimit, resource.RLIMIT_AS, before)
        self._reserve = bytes(4_000_000)
        limit = psutil.Process().memory_info().vms + _READING_BYTES
        if before[0] == resource.RLIM_INFINITY or limit < before[0]:
            resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # No generator of contextlib's: what the reader holds is alive until this returns, and there may be nothing left
        # to resume one with.
        self._reserve = b""
        self._lift()
        if kind is not None and issubclass(kind, MemoryError):
            size = f"{_READING_BYTES / 1e9:g} GB"
            raise ArtifactError(
                f"{self._folder} is damaged: MemoryError: its files describe more than {size}; export it again"
            ) from None


def _read_data_file(data: bytes) -> dict[str, bytes]:
    """Return the named data of a `.ptd`, by key.

    ExecuTorch's own reader has `flatc` do it, which checks no offset, and prints what it dislikes. The layout is that
    of `executorch/extension/flat_tensor/serialize/flat_tensor.fbs`.
    """
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorHeader
    from flatbuffers import encode, packer
    from flatbuffers.number_types import Uint32Flags, Uint64Flags
    from flatbuffers.table import Table

    header = FlatTensorHeader.from_bytes(data[8:64])
    if data[4:8] != b"FT01" or not header.is_valid():
        raise ValueError("it does not start as such a file does")
    described = data[: header.flatbuffer_offset + header.flatbuffer_size]

    def number(table: Any, field: int, flags: Any) -> int:
        return int(table.GetSlot(_slot(field), 0, flags))

    def tables(table: Any, field: int) -> Iterator[Any]:
        at = table.Offset(_slot(field))
        start, count = (table.Vector(at), table.VectorLen(at)) if at else (0, 0)
        if count > len(described) // 4:
            raise ValueError(f"it has a list of {count} entries, and room for fewer")
        for place in range(start, start + 4 * count, 4):
            yield Table(described, table.Indirect(place))

    root = Table(described, encode.Get(packer.uoffset, described, 0))
    if (version := number(root, 0, Uint32Flags)) > 0:
        raise ValueError(f"its version is {version}; this reads 0")
    blocks = []
    for segment in tables(root, 1):
        start = header.segment_base_offset + number(segment, 0, Uint64Flags)
        size = number(segment, 1, Uint64Flags)
        if start + size > len(data) or (size and start < len(described)):
            raise ValueError(f"it has {len(data)} bytes, and a block of {size} at {start}")
        blocks.append((start, size))
    if sum(size for _, size in blocks) > len(data):
        raise ValueError("its blocks overlap")
    contents = [data[start : start + size] for start, size in blocks]
    named = {}
    for entry in tables(root, 2):
        if not (at := entry.Offset(_slot(0))):
            raise ValueError("it has a block without a name")
        named[str(entry.String(entry.Pos + at), "utf-8")] = contents[number(entry, 1, Uint32Flags)]
    return named


def _slot(field: int) -> int:
    """Return where a flatbuffer's table has the place of a field."""
    return 4 + 2 * field


def _named_data(file: Any) -> dict[str, bytes]:
    """Return the named data of a program that was read."""
    store = file.named_data
    return {key: bytes(store.buffers[e.buffer_index]) for key, e in store.pte_data.items()} if store else {}


def _output_order(plan: Any) -> tuple[int, ...]:
    """Follow the delegate's outputs through the copies to the host behind it."""
    from executorch.exir.schema import DelegateCall, KernelCall

    origin: dict[int, int] = {}
    for step in (step.instr_args for chain in plan.chains for step in chain.instructions):
        if isinstance(step, DelegateCall):
            origin = {value: index for index, value in enumerate(step.args[len(plan.inputs) :])}
        elif isinstance(step, KernelCall) and step.args[0] in origin:
            origin[step.args[-1]] = origin[step.args[0]]
    return tuple(origin[value] for value in plan.outputs)


def _decode_payload(
    payload: bytes, stored: dict[str, bytes]
) -> tuple[list[tuple[int, int, bool, str]], tuple[Weight, ...]]:
    """Decode the delegate's payload: target, PTX, fallback and key of each library, then a row for each weight."""
    position = len(_SINGLE)

    def take(layout: str) -> tuple[Any, ...]:
        nonlocal position
        values = struct.unpack_from(layout, payload, position)
        position += struct.calcsize(layout)
        return values

    def text() -> str:
        (length,) = take("<I")
        (value,) = take(f"<{length}s")
        return str(value, "utf-8")

    dtypes = _dtypes()
    libraries: list[tuple[int, int, bool, str]]
    if payload.startswith(_SINGLE):
        libraries = [(0, 0, False, text())]
    else:
        (count,) = take("<I")
        if not 0 < count <= _MOST_VARIANTS:
            raise ValueError(f"it has {count} shared objects; expected 1 to {_MOST_VARIANTS}")
        libraries = []
        for _ in range(count):
            target, ptx, flags = take("<III")
            libraries.append((target, ptx, bool(flags & 1), text()))
    (count,) = take("<I")
    weights = []
    for _ in range(count):
        name, storage = text(), text()
        _, dtype, _, offset, rank = take("<QiiqI")
        sizes, strides = take(f"<{rank}q"), take(f"<{rank}q")
        weight = Weight(name, stored[storage], dtypes[dtype], offset, sizes, strides)
        if not weight.fits():
            raise ValueError(f"the weight {name!r} lies outside its block of {len(weight.data)} bytes")
        weights.append(weight)
    return libraries, tuple(weights)


def _dtypes() -> dict[int, torch.dtype]:
    import torch
    from executorch.exir.tensor import scalar_type_enum

    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16)
    return {int(scalar_type_enum(kind)): kind for kind in (*kinds, torch.int8, torch.uint8, torch.bool)}


def import_readers() -> None:
    """Import what reads programs, which takes seconds, before time or memory is measured."""
    with quiet():
        import executorch.exir._serialize  # noqa: F401


def _read_program(path: Readable) -> Any:
    with quiet():
        from executorch.exir._serialize import _deserialize_pte_binary

        return _deserialize_pte_binary(path.read_bytes())


@contextlib.contextmanager
def _damage(path: Readable) -> Iterator[None]:
    """Turn whatever ExecuTorch's readers raise on a damaged file into one line."""
    try:
        with quiet():
            yield
    except ArtifactError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ArtifactError(f"{path} is damaged: {reason}; copy or export it again") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings that ExecuTorch's modules raise when imported away from people who only look at a file."""
    import logging
    import warnings

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
