"""What a shared object needs and holds, read from its ELF tables without loading it, with the objects inside it.

Layouts are those of the System V ABI (elf.h); machine code for GPUs is ELF, too, of the machine `EM_CUDA`.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ArtifactError

MACHINES = {62: "x86_64", 183: "aarch64"}
"""ELF machine → `platform.machine()`."""
_ELF = b"\x7fELF\x02\x01"
_EM_CUDA = struct.pack("<H", 190)
_SECOND_ABI = 8
"""EI_ABIVERSION from which on machine code for GPUs has its capability one byte higher in e_flags."""
_FATBIN, _FATBIN_PTX = b"\x50\xed\x55\xba\x01\x00\x10\x00", 1
_DYNSYM, _VERNEED, _DYNAMIC = 11, 0x6FFFFFFE, 6
_DT_NEEDED, _ET_DYN = 1, 3

_DELEGATE_NAMES = """
_reinterpret_tensor assign_tensors_out check clone clone_preserve_strides copy_ create_cuda_guard
create_cuda_stream_guard create_tensor_from_blob create_tensor_from_blob_v2 cuda_guard_set_index delete_cuda_guard
delete_cuda_stream_guard delete_tensor_object device_type_cpu device_type_cuda dtype_bfloat16 dtype_bool dtype_float16
dtype_float32 dtype_int16 dtype_int32 dtype_int64 dtype_int8 dtype_uint8 empty_strided get_current_cuda_stream
get_data_ptr get_device_index get_device_type get_dim get_dtype get_numel get_sizes get_storage_offset get_storage_size
get_strides grad_mode_is_enabled grad_mode_set_enabled item_bool layout_strided new_tensor_handle warn
"""
DELEGATE_SYMBOLS = frozenset(f"aoti_torch_{name}" for name in _DELEGATE_NAMES.split())
"""The functions that ExecuTorch's CUDA delegate offers to a shared object, but for PyTorch's operators
(`backends/cuda/runtime/shims` and `backends/aoti/common_shims_slim.h` in its sources, 1.5)."""

_PYTORCH = re.compile(r"_ZNK?(2at|3c10|5torch|St.*(?:2at|3c10)|.*N(?:2at|3c10)\d)")
_LIBTORCH = re.compile(r"lib(torch|c10|cudnn|cublas)")


@dataclass(frozen=True)
class NativeCode:
    """A shared object's needs and its machine code for GPUs."""

    machine: str
    """As `platform.machine()` has it; "unknown" for others."""
    libraries: tuple[str, ...]
    """That it is linked with."""
    undefined: frozenset[str]
    """Symbols that it takes from elsewhere."""
    versions: frozenset[str]
    """Of symbols that it needs, such as "GLIBC_2.34" and "GLIBCXX_3.4.30"."""
    binaries: Counter[str]
    """Compute capability, such as "8.6" → how many kernels' machine code for it is inside."""
    ptx: Counter[str]
    """The same for PTX."""

    def newest(self, prefix: str) -> str | None:
        """Return the newest version that it needs of a library, such as "2.34" for "GLIBC_"; None for none."""
        found = [
            name.removeprefix(prefix)
            for name in self.versions
            if re.fullmatch(rf"{re.escape(prefix)}\d+(\.\d+)+", name)
        ]
        return max(found, key=lambda version: tuple(map(int, version.split("."))), default=None)

    def foreign(self) -> list[str]:
        """Return what it asks for and ExecuTorch's CUDA delegate lacks: functions and libraries of PyTorch's."""
        functions = [
            name for name in self.undefined
            if (name.startswith("aoti_torch_") and name not in DELEGATE_SYMBOLS) or _PYTORCH.match(name)
        ]  # fmt: skip
        return sorted([*functions, *filter(_LIBTORCH.match, self.libraries)])


def read_native_code(library: bytes) -> NativeCode:
    """Read a shared object; raises ArtifactError where it is none, or damaged."""
    try:
        return _read(library)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise ArtifactError(f"the shared object in the program is damaged ({error}); export it again") from error


def _read(library: bytes) -> NativeCode:
    if not library.startswith(_ELF):
        raise ValueError("it is no 64-bit little-endian ELF file")
    (machine,) = struct.unpack_from("<H", library, 18)
    libraries: dict[str, None] = {}
    undefined: set[str] = set()
    versions: set[str] = set()
    for base in _objects(library, machine):
        sections = list(_sections(library, base))
        for kind, start, size, link in sections:
            if kind == _DYNAMIC:
                strings = sections[link][1]
                for tag, value in struct.iter_unpack("<qQ", library[start : start + size]):
                    if tag == _DT_NEEDED:
                        libraries[_text(library, strings + value)] = None
            elif kind == _DYNSYM:
                strings = sections[link][1]
                for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", library[start : start + size]):
                    if name and section == 0:
                        undefined.add(_text(library, strings + name))
            elif kind == _VERNEED:
                versions |= set(_needed_versions(library, start, sections[link][1]))
    return NativeCode(
        MACHINES.get(machine, "unknown"), tuple(libraries), frozenset(undefined), frozenset(versions),
        *_gpu_code(library),
    )  # fmt: skip


def _objects(data: bytes, machine: int) -> Iterator[int]:
    """Yield where a shared object starts, and those that it holds for the same processor."""
    for at in _places(data, _ELF):
        if at == 0 or data[at + 16 : at + 20] == struct.pack("<HH", _ET_DYN, machine):
            yield at


def _sections(data: bytes, base: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield kind, start, size and link of each section of the ELF file at `base`."""
    (table,) = struct.unpack_from("<Q", data, base + 40)
    entry, count = struct.unpack_from("<HH", data, base + 58)
    for index in range(count):
        _, kind, _, _, start, size, link = struct.unpack_from("<IIQQQQI", data, base + table + index * entry)
        yield kind, base + start, size, link


def _needed_versions(data: bytes, start: int, strings: int) -> Iterator[str]:
    while True:
        _, count, _, first, following = struct.unpack_from("<HHIII", data, start)
        at = start + first
        for _ in range(count):
            _, _, _, name, step = struct.unpack_from("<IHHII", data, at)
            yield _text(data, strings + name)
            at += step
        if not following:
            return
        start += following


def _gpu_code(data: bytes) -> tuple[Counter[str], Counter[str]]:
    """Count machine code and PTX, by compute capability: in fat binaries, and machine code that stands alone."""
    binaries: Counter[str] = Counter()
    ptx: Counter[str] = Counter()
    packed: list[range] = []
    for at in _places(data, _FATBIN):
        header, size = struct.unpack_from("<HQ", data, at + 6)
        end = min(at + header + size, len(data))
        packed.append(range(at, end))
        at += header
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
            (number,) = struct.unpack_from("<I", data, at + 28)
            (ptx if kind == _FATBIN_PTX else binaries)[f"{number // 10}.{number % 10}"] += 1
            at += max(1, header + size)
    for at in _places(data, _ELF):
        if at and not any(at in place for place in packed) and data[at + 18 : at + 20] == _EM_CUDA:
            (flags,) = struct.unpack_from("<I", data, at + 48)
            number = (flags >> 8 if data[at + 8] >= _SECOND_ABI else flags) & 0xFF
            binaries[f"{number // 10}.{number % 10}"] += 1
    return binaries, ptx


def _places(data: bytes, magic: bytes) -> Iterator[int]:
    at = data.find(magic)
    while at >= 0:
        yield at
        at = data.find(magic, at + 1)


def _text(data: bytes, start: int) -> str:
    end = data.index(b"\0", start)
    return data[start:end].decode()
