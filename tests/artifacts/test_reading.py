from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import support
from support import make_manifest, xnnpack_program
from yolo26_executorch.artifacts import reading
from yolo26_executorch.artifacts.manifest import CARD, MANIFEST, PROGRAM, WEIGHTS, Manifest
from yolo26_executorch.errors import ArtifactError, IntegrityError


def publish(base: Path, program: bytes = b"program", backend: str = "cuda", **changes: Any) -> Path:
    return support.publish(base, make_manifest(backend=backend, **changes), program)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("backend", ["cuda", "xnnpack"])
def test_manifest_survives_the_file(tmp_path: Path, backend: str) -> None:
    folder = publish(tmp_path, backend=backend)
    manifest = reading.load_manifest(folder)
    assert manifest == reading.verify(folder)
    assert dataclasses.replace(manifest, files={}) == make_manifest(backend=backend)
    assert set(manifest.files) == set(entries(folder)) - {MANIFEST}
    assert manifest.files[PROGRAM].bytes == len(b"program")
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[" * 100_000, '{"schema": NaN}', "1e999", "9" * 5000, "\ufeff{}"], ids=range(8)
)
def test_file_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged: .*; copy or export it again"):
        reading.load_manifest(tmp_path)


def test_missing_artifact_says_where_there_are_some(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact at .*yolo26s: .*export. makes one"):
        reading.load_manifest(tmp_path / "yolo26s")
    publish(tmp_path)
    with pytest.raises(ArtifactError, match=r"did you mean .*yolo26n"):
        reading.load_manifest(tmp_path)


def test_truncated_file_is_found_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path)
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(reading, "plain_sha256", lambda path, folder: pytest.fail(f"{path} was read"))
    with pytest.raises(IntegrityError, match=r"aoti_cuda_blob\.ptd has 699 bytes, its manifest says 700"):
        reading.verify(folder)


def test_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    data = bytearray((folder / PROGRAM).read_bytes())
    data[3] ^= 1
    (folder / PROGRAM).write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.pte was changed: its SHA-256 is"):
        reading.verify(folder)


def test_missing_file_is_found(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / CARD).unlink()
    with pytest.raises(IntegrityError, match=r"lacks README\.md"):
        reading.verify(folder)


def test_unknown_file_is_refused_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".cache").mkdir()
    reading.verify(folder)
    (folder / "evil\n.so").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"holds 'evil\\n\.so', which its manifest does not name"):
        reading.verify(folder)


@pytest.mark.parametrize("name", [PROGRAM, MANIFEST])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_plain_files_are_read(tmp_path: Path, name: str, kind: str) -> None:
    folder = publish(tmp_path)
    path = folder / name
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ArtifactError, match="plain files only"):
        reading.verify(folder)


def test_unreadable_folder_is_an_integrity_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path)

    def broken(path: Path, folder: int) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(reading, "plain_sha256", broken)
    with pytest.raises(IntegrityError, match="cannot be read: Input/output error"):
        reading.verify(folder)


def test_contents(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(images + images, dim=-1)

    inside = reading.contents(publish(tmp_path, xnnpack_program(Net(), torch.zeros(2, 2)), "xnnpack"))
    [method] = inside.methods
    assert (method.name, method.delegate_calls, method.outside) == (
        "forward", {"XnnpackBackend": 1}, {"aten::cumsum.out": 1}
    )  # fmt: skip
    assert inside.weights_data == {}


def test_contents_are_read_only_of_an_intact_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path)
    with pytest.raises(ArtifactError, match=r"model\.pte is damaged: .*; copy or export it again"):
        reading.contents(folder)
    (folder / PROGRAM).write_bytes(b"changed")
    monkeypatch.setattr(reading, "program_file", None)
    with pytest.raises(IntegrityError):
        reading.contents(folder)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "best.pt",
            r"best.pt is to be exported before it can run: `yolo26-et export .*best.pt`, or in Python export\(",
        ),
        ("yolo26n-seg", "is to be exported before it can run"),
        ("mine/model.pte", "is a file of an artifact; give its folder, .*mine$"),
    ],
)
def test_what_is_nearly_an_artifact_is_answered_with_what_to_do(
    given: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path).rename(tmp_path / "mine")
    (tmp_path / "best.pt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=told):
        reading.load_manifest(given)
