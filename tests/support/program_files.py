"""Small program and data files, by ExecuTorch's own writers."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

MATRIX = torch.arange(24, dtype=torch.float32)
VIEWS = {
    # name: dtype, offset, sizes, strides into the matrix's bytes
    "layers.0.weight": (torch.float32, 0, (4, 6), (6, 1)),
    "layers.0.view": (torch.float32, 2, (3, 4), (1, 6)),
    "layers.1.scalar": (torch.float32, 5, (), ()),
}


class Net(nn.Module):
    """A convolution in the delegate and a cumulative sum outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(images)
        return torch.cumsum(features, dim=-1), features


def data_file(path: Path, entries: dict[str, bytes]) -> Path:
    """Write a `.ptd` as ExecuTorch writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
        from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

        named = {key: DataEntry(index, 16, None) for index, key in enumerate(entries)}
        path.write_bytes(bytes(FlatTensorSerializer().serialize(DataPayload(list(entries.values()), named))))
    return path


def cuda_program(
    path: Path, program: bytes, payload: bytes, library: bytes = b"\x7fELF code", delegates: int = 1,
    more: Mapping[str, bytes] | None = None,
) -> Path:  # fmt: skip
    """Turn the program into one of the CUDA delegate, by ExecuTorch's own writers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.exir._serialize import _deserialize_pte_binary, _serialize_pte_binary
        from executorch.exir._serialize._named_data_store import NamedDataStoreOutput
        from executorch.exir._serialize.data_serializer import DataEntry

        file = _deserialize_pte_binary(program)
        for plan in file.program.execution_plan:
            for delegate in plan.delegates[:delegates]:
                delegate.id = "CudaBackend"
                file.program.backend_delegate_data[delegate.processed.index].data = payload
        libraries = {"so_key": library, **(more or {})}
        keys = {key: DataEntry(index, 16, None) for index, key in enumerate(libraries)}
        file.named_data = NamedDataStoreOutput(list(libraries.values()), keys, {})
        path.write_bytes(bytes(_serialize_pte_binary(file)))
    return path


def later_payload(*variants: tuple[int, int, int, str], storage: str = "cuda_fqn_weight:cuda:matrix") -> bytes:
    """The payload of the release behind 1.5: target, PTX, flags and the library's key of each, then the same rows."""
    single = payload(storage)
    rows = single[single.index(b"so_key") + len(b"so_key") :]
    packed = [struct.pack("<IIII", *numbers, len(key)) + key.encode() for *numbers, key in variants]
    return b"ETCUDAFQN0" + struct.pack("<I", len(variants)) + b"".join(packed) + rows


def payload(storage: str = "cuda_fqn_weight:cuda:matrix") -> bytes:
    """The CUDA delegate's payload, by ExecuTorch's own writer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.backends.cuda.cuda_weight_collector import CudaWeightEntry, encode_cuda_weight_metadata
        from executorch.exir.tensor import scalar_type_enum

        rows = [
            CudaWeightEntry(name, storage, 96, int(scalar_type_enum(dtype)), 1, offset, sizes, strides)
            for name, (dtype, offset, sizes, strides) in VIEWS.items()
        ]
        return bytes(encode_cuda_weight_metadata("so_key", rows))
