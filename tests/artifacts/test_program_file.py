from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support import xnnpack_program
from support.program_files import MATRIX, VIEWS, Net, cuda_program, data_file, later_payload, payload
from yolo26_executorch.artifacts import program_file
from yolo26_executorch.artifacts.program_file import Method, Weight, read_cuda_payload, read_methods, read_named_data
from yolo26_executorch.errors import ArtifactError, CompatibilityError

CONV_BYTES = 4 * 3 * 3 * 3 * 4


@pytest.fixture(scope="module")
def program() -> bytes:
    return xnnpack_program(Net(), torch.zeros(1, 3, 8, 8))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return data_file(tmp_path / "data.ptd", {"cuda_fqn_weight:cuda:matrix": MATRIX.numpy().tobytes(), "other": b"x"})


def test_methods(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(program)
    assert read_methods(path) == (Method("forward", {"XnnpackBackend": 1}, {"aten::cumsum.out": 1}),)


def test_named_data(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(program)
    assert CONV_BYTES in {len(data) for data in read_named_data(path).values()}
    entries = {"a": b"1", "b": b"", "été": bytes(range(256))}
    assert read_named_data(data_file(tmp_path / "data.ptd", entries)) == entries


def test_the_cuda_payload(tmp_path: Path, program: bytes, stored: Path) -> None:
    found = read_cuda_payload(cuda_program(tmp_path / "model.pte", program, payload()), stored)
    assert found.library == b"\x7fELF code"
    assert [weight.name for weight in found.weights] == list(VIEWS)
    for weight, (_, offset, sizes, strides) in zip(found.weights, VIEWS.values(), strict=True):
        tensor = weight.tensor("cpu")
        assert tensor.stride() == strides
        assert torch.equal(tensor, MATRIX.as_strided(sizes, strides, offset))


def test_outputs_are_followed_through_the_copies_behind_the_delegate() -> None:
    with program_file.quiet():
        from executorch.exir.schema import DelegateCall, KernelCall

    # Values: 0 the input, 1 its copy on the GPU, 2-4 what the delegate gives, 5 and 6 copies of two on the host.
    steps = [
        KernelCall(0, [0, 9, 1, 1]),
        DelegateCall(0, [1, 2, 3, 4]),
        KernelCall(1, [4, 9, 5, 5]),
        KernelCall(1, [2, 9, 6, 6]),
    ]
    chain = SimpleNamespace(instructions=[SimpleNamespace(instr_args=step) for step in steps])
    plan = SimpleNamespace(inputs=[0], outputs=[5, 6, 3], chains=[chain])
    assert program_file._output_order(plan) == (2, 0, 1)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool],
)
def test_a_weights_dtype(dtype: torch.dtype) -> None:
    values = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype)
    data = values.view(torch.uint8).numpy().tobytes()
    weight = Weight("w", data, dtype, 0, (3, 2), (1, 3))
    assert torch.equal(weight.tensor("cpu"), values.t())
    kinds = program_file._dtypes()
    assert dtype in kinds.values()


def test_a_program_of_another_delegate_has_no_cuda_payload(tmp_path: Path, program: bytes, stored: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(program)
    with pytest.raises(ArtifactError, match=r"CUDA delegate.*expected one"):
        read_cuda_payload(path, stored)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-3],
        lambda data: data[:20],
        lambda data: data[:10] + b"\xff" * 4 + data[14:],
        lambda data: data.replace(b"so_key", b"no_key"),
        lambda data: b"ETCUDAFQN0" + b"\0" * 4 + data[14:],
        lambda data: b"ETCUDAFQN0" + b"\xff" * 4 + data[14:],
    ],
)
def test_a_damaged_payload_is_refused(
    tmp_path: Path, program: bytes, stored: Path, change: Callable[[bytes], bytes]
) -> None:
    path = cuda_program(tmp_path / "model.pte", program, change(payload()))
    with pytest.raises(ArtifactError, match=r"model\.pte is damaged: .*; copy or export it again") as caught:
        read_cuda_payload(path, stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [lambda data: b"ETCUDAFQN2" + data[10:], lambda _: b"so\nweights", lambda _: b""])
def test_an_unknown_payload_is_refused_in_words(
    tmp_path: Path, program: bytes, stored: Path, change: Callable[[bytes], bytes]
) -> None:
    path = cuda_program(tmp_path / "model.pte", program, change(payload()))
    with pytest.raises(ArtifactError) as caught:
        read_cuda_payload(path, stored)
    assert "was made by another release of ExecuTorch" in str(caught.value)
    assert "this reads ETCUDAFQN3 and ETCUDAFQN0" in str(caught.value)


LATER = ((86, 0, 0, "so_86"), (90, 0, 0, "so_90"), (80, 80, 1, "so_ptx"))
LIBRARIES = {"so_86": b"for 8.6", "so_90": b"for 9.0", "so_ptx": b"PTX of 8.0"}


def test_the_payload_of_the_release_behind_is_read(tmp_path: Path, program: bytes, stored: Path) -> None:
    path = cuda_program(tmp_path / "model.pte", program, later_payload(*LATER), more=LIBRARIES)
    found = read_cuda_payload(path, stored)
    assert [(one.target, one.ptx, one.fallback) for one in found.variants] == [
        (86, 0, False), (90, 0, False), (80, 80, True)
    ]  # fmt: skip
    assert [weight.name for weight in found.weights] == list(VIEWS)
    chosen = {capability: found.for_gpu(capability) for capability in ((8, 6), (9, 0), (8, 0), (12, 0))}
    assert [one.library for one in chosen.values()] == [b"for 8.6", b"for 9.0", b"PTX of 8.0", b"PTX of 8.0"]
    assert all(one.weights == found.weights for one in chosen.values())
    with pytest.raises(CompatibilityError, match=r"for compute capability 8\.6, 9\.0, 8\.0; this GPU is 7\.5"):
        found.for_gpu((7, 5))


def test_a_shared_object_without_a_target_runs_everywhere(tmp_path: Path, program: bytes, stored: Path) -> None:
    path = cuda_program(tmp_path / "model.pte", program, later_payload((0, 0, 0, "so_key")))
    found = read_cuda_payload(path, stored)
    assert found.for_gpu((7, 5)).library == found.library == b"\x7fELF code"
    single = read_cuda_payload(cuda_program(tmp_path / "single.pte", program, payload()), stored)
    assert single.variants == ()
    assert single.for_gpu((7, 5)) is single


def test_weights_that_are_not_stored_are_refused(tmp_path: Path, program: bytes, stored: Path) -> None:
    path = cuda_program(tmp_path / "model.pte", program, payload("cuda_fqn_weight:cuda:elsewhere"))
    with pytest.raises(ArtifactError, match="elsewhere"):
        read_cuda_payload(path, stored)


READERS: dict[str, Callable[[Path], Any]] = {"methods": read_methods, "data": read_named_data}


@pytest.mark.parametrize("reader", READERS)
def test_truncated_programs_are_refused_in_one_line(tmp_path: Path, program: bytes, reader: str) -> None:
    path = tmp_path / "model.pte"
    for cut in (0, 1, 8, 31, 60, 200, len(program) // 2):
        path.write_bytes(program[:cut])
        with pytest.raises(ArtifactError, match=r"model\.pte is damaged: ") as caught:
            READERS[reader](path)
        assert str(caught.value).isprintable()


def test_truncated_data_is_refused_in_one_line(tmp_path: Path, stored: Path) -> None:
    whole = stored.read_bytes()
    for cut in (0, 1, 8, 31, 60, len(whole) // 2):
        stored.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match=r"data\.ptd is damaged: "):
            read_named_data(stored)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for name in ("model.pte", "data.ptd"):
        with pytest.raises(ArtifactError, match="No such file"):
            read_named_data(tmp_path / name)


@pytest.mark.slow
def test_reading_is_silent(tmp_path: Path, program: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """Also the first time, when ExecuTorch's modules are imported: people only look at a file."""
    import subprocess
    import sys

    path = tmp_path / "model.pte"
    path.write_bytes(program)
    words = "import sys; from yolo26_executorch.artifacts.program_file import *; print(read_methods(Path(sys.argv[1])))"
    subprocess.run([sys.executable, "-c", words, str(path)], check=True)
    out, err = capfd.readouterr()
    assert out.startswith("(Method(name='forward'")
    assert err == ""
