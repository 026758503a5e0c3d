from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import support
from support import make_manifest, xnnpack_program
from yolo26_executorch.artifacts.manifest import PROGRAM, WEIGHTS, Manifest
from yolo26_executorch.artifacts.reading import load_manifest
from yolo26_executorch.cli import inspect
from yolo26_executorch.errors import ArtifactError, IntegrityError
from yolo26_executorch.models.tasks import TensorSpec

CONV_BYTES = 4 * 3 * 3 * 3 * 4


@pytest.fixture(scope="module")
def program() -> bytes:
    """A convolution in the delegate and a cumulative sum outside it."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.conv(images), dim=-1)

    return xnnpack_program(Net(), torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def weights() -> bytes:
    """A file of 20 named weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
        from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

        entries = {f"cuda_fqn_weight:cuda:w{index}": DataEntry(index, 16, None) for index in range(20)}
        return bytes(FlatTensorSerializer().serialize(DataPayload([bytes(n + 1) for n in range(20)], entries)))


def publish(base: Path, program: bytes, weights: bytes | None = None, **changes: Any) -> Path:
    fields = {
        "classes": dict(enumerate(["cat", "\x1b[2Jdog", "[bold]cow", "d", "e", "f"])),
        "input": TensorSpec("images", (1, 3, 8, 8), "float32", "RGB pictures", (), ("0..1",)),
        "outputs": (TensorSpec("detections", (1, 300, 2), "float32", "boxes", ("x", "angle"), ("px", "rad")),),
        "delegate": {"name": "XnnpackBackend", "delegated": 1, "outside": {"aten::cumsum.out": 1}},
        "test": {"latency_ms": 1.25},
    }
    manifest = make_manifest("detect", "cuda" if weights else "xnnpack", "user", **{**fields, **changes})
    return support.publish(base, manifest, program, weights or b"")


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_parser(parser.add_subparsers())
    args = parser.parse_args(["inspect", *words])
    status = args.run(args)
    assert isinstance(status, int)
    return status


def test_everything_is_printed(tmp_path: Path, program: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = publish(tmp_path, program)
    assert call(str(folder)) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "task detect",
        "weights a checkpoint of the user's own best.pt " + "c" * 64,
        "precision fp32",
        "precision tf32",  # that was asked for
        "input images float32 1 × 3 × 8 × 8 0..1 RGB pictures",
        "output detections float32 1 × 300 × 2 x (px), angle (rad) boxes",
        "forward XnnpackBackend × 1 calls outside: aten::cumsum.out × 1",
        "operators outside aten::cumsum.out × 1",
        "system any any",
        "torch 2.13.0",
        "latency_ms 1.25",
        "licence AGPL-3.0-or-later",
        f"model.pte {len(program) / 1e3:.1f} kB {load_manifest(folder).files[PROGRAM].sha256}",
    ):
        assert line in lines
    # Neither a terminal's codes nor rich's own marks are taken from a file.
    assert "\x1b" not in text
    assert "classes 6: cat, ?[2Jdog, [bold]cow, d, e, …" in lines


def test_weights_of_a_cuda_artifact(
    tmp_path: Path, program: bytes, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(str(publish(tmp_path, program, weights, test=None))) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "20 B cuda_fqn_weight:cuda:w19" in lines
    assert "36 B 8 more" in lines
    assert "GPU machine code 8.0" in lines
    assert "test left out (--no-test)" in lines


def test_json_has_it_all(tmp_path: Path, program: bytes, weights: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = publish(tmp_path, program, weights)
    assert call(str(folder), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert Manifest.from_json(data["manifest"]) == load_manifest(folder)
    [method] = data["contents"]["methods"]
    assert method == {
        "name": "forward",
        "delegate_calls": {"XnnpackBackend": 1},
        "outside": {"aten::cumsum.out": 1},
    }
    assert CONV_BYTES in data["contents"]["program_data"].values()
    assert data["contents"]["weights_data"] == {f"cuda_fqn_weight:cuda:w{n}": n + 1 for n in range(20)}


@pytest.mark.parametrize("cut", [10, 60, 200])
def test_files_that_are_intact_but_no_program(tmp_path: Path, program: bytes, weights: bytes, cut: int) -> None:
    with pytest.raises(ArtifactError, match=r"model\.pte is damaged: .*; copy or export it again"):
        call(str(publish(tmp_path, program[:cut])))
    with pytest.raises(ArtifactError, match=r"aoti_cuda_blob\.ptd is damaged: .*; copy or export it again"):
        call(str(publish(tmp_path, program, weights[:cut])))


def test_damage_is_refused_before_anything_is_read(
    tmp_path: Path, program: bytes, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = publish(tmp_path, program, weights)
    (folder / WEIGHTS).write_bytes(weights[:-1])
    with pytest.raises(IntegrityError, match=r"aoti_cuda_blob\.ptd has"):
        call(str(folder))
    with pytest.raises(ArtifactError, match="no artifact at"):
        call(str(tmp_path / "none"))
    assert capsys.readouterr().out == ""
