from __future__ import annotations

import dataclasses
import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import support
from support import make_manifest, xnnpack_program
from yolo26_executorch.artifacts import folder as artifact
from yolo26_executorch.artifacts.folder import Draft
from yolo26_executorch.artifacts.manifest import CARD, MANIFEST, PROGRAM, WEIGHTS, Manifest, Platform
from yolo26_executorch.errors import ArtifactError, CompatibilityError, IntegrityError, UsageError

LINUX = {"system": "Linux", "machine": "x86_64"}


def publish(base: Path, program: bytes = b"program", backend: str = "cuda", **changes: Any) -> Path:
    return support.publish(base, make_manifest(backend=backend, **changes), program)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- the manifest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cuda", "xnnpack"])
def test_manifest_survives_the_file(tmp_path: Path, backend: str) -> None:
    folder = publish(tmp_path, backend=backend)
    manifest = artifact.load_manifest(folder)
    assert manifest == artifact.verify(folder)
    assert dataclasses.replace(manifest, files={}) == make_manifest(backend=backend)
    assert set(manifest.files) == set(entries(folder)) - {MANIFEST}
    assert manifest.files[PROGRAM].bytes == len(b"program")
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_random_bytes_are_read_or_refused_but_never_crash(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    path = folder / MANIFEST
    whole = path.read_bytes()
    chance = random.Random(0)  # noqa: S311
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        path.write_bytes(data[: chance.choice([None, chance.randrange(len(data))])])
        try:
            artifact.verify(folder)
        except ArtifactError as error:
            refused += 1
            assert str(error).isprintable()
    assert refused > 200


@pytest.mark.parametrize("text", ["", "{", "null", "[" * 100_000, '{"schema": NaN}', "1e999", "9" * 5000, "\ufeff{}"])
def test_file_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged: .*; copy or export it again"):
        artifact.load_manifest(tmp_path)


def test_missing_artifact_says_where_there_are_some(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact at .*yolo26s: .*export. makes one"):
        artifact.load_manifest(tmp_path / "yolo26s")
    publish(tmp_path)
    with pytest.raises(ArtifactError, match=r"did you mean .*yolo26n"):
        artifact.load_manifest(tmp_path)
    with pytest.raises(ArtifactError, match="no artifact"):
        artifact.load_manifest(tmp_path / "yolo26n" / PROGRAM)


# ---- integrity -------------------------------------------------------------------------------------------------------


def test_truncated_file_is_found_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path)
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(artifact, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(IntegrityError, match=r"aoti_cuda_blob\.ptd has 699 bytes, its manifest says 700"):
        artifact.verify(folder)


def test_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    data = bytearray((folder / PROGRAM).read_bytes())
    data[3] ^= 1
    (folder / PROGRAM).write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.pte was changed: its SHA-256 is"):
        artifact.verify(folder)


def test_missing_file_is_found(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / CARD).unlink()
    with pytest.raises(IntegrityError, match=r"lacks README\.md"):
        artifact.verify(folder)


def test_unknown_file_is_refused_and_hidden_ones_are_not(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".cache").mkdir()
    artifact.verify(folder)
    (folder / "evil\n.so").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"holds 'evil\\n\.so', which its manifest does not name"):
        artifact.verify(folder)


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
        artifact.verify(folder)


def test_unreadable_folder_is_an_integrity_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path)

    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(artifact, "_sha256", broken)
    with pytest.raises(IntegrityError, match="cannot be read: Input/output error"):
        artifact.verify(folder)


# ---- is it current, does it run here ---------------------------------------------------------------------------------


def test_current_only_with_same_options_checkpoint_and_test(tmp_path: Path) -> None:
    manifest = artifact.verify(publish(tmp_path))
    folder, options, checkpoint = tmp_path / "yolo26n", manifest.options, manifest.checkpoint
    assert artifact.is_current(folder, options, checkpoint, tested=True)
    assert artifact.is_current(folder, options, {**checkpoint, "file": "elsewhere.pt"}, tested=True)
    assert not artifact.is_current(folder, dataclasses.replace(options, batch=2), checkpoint, tested=True)
    for key, value in {"origin": "user", "sha256": "a" * 64, "seed": 4}.items():
        assert not artifact.is_current(folder, options, {**checkpoint, key: value}, tested=True)
    assert not artifact.is_current(tmp_path / "yolo26s", options, checkpoint, tested=True)
    (folder / PROGRAM).write_bytes(b"damaged")
    assert not artifact.is_current(folder, options, checkpoint, tested=True)


def test_untested_artifact_is_current_only_for_who_wants_no_test(tmp_path: Path) -> None:
    manifest = artifact.verify(publish(tmp_path, test=None))
    folder = tmp_path / "yolo26n"
    assert artifact.is_current(folder, manifest.options, manifest.checkpoint, tested=False)
    assert not artifact.is_current(folder, manifest.options, manifest.checkpoint, tested=True)


def test_a_gpu_that_is_not_covered_is_refused() -> None:
    manifest = make_manifest(platform=Platform("Linux", "x86_64", ("8.6",), ("8.9",)))
    artifact.check_platform(manifest, **LINUX, capability=(9, 0))
    with pytest.raises(CompatibilityError, match=r"capability 8\.6, 8\.9 and newer; this GPU is 8\.0: export"):
        artifact.check_platform(manifest, **LINUX, capability=(8, 0))


def test_platform_messages_name_both_sides_and_the_way_out() -> None:
    manifest = make_manifest()
    with pytest.raises(
        CompatibilityError, match=r"native code for Linux x86_64; this machine is Linux aarch64: .*export"
    ):
        artifact.check_platform(manifest, system="Linux", machine="aarch64", capability=(9, 0))
    with pytest.raises(CompatibilityError, match="this machine is Windows x86_64"):
        artifact.check_platform(manifest, system="Windows", machine="x86_64", capability=(9, 0))
    with pytest.raises(CompatibilityError, match=r"capability 8\.0, 8\.0 and newer, and no CUDA GPU .*doctor"):
        artifact.check_platform(manifest, **LINUX, capability=None)
    with pytest.raises(CompatibilityError, match="from its checkpoint"):
        artifact.check_platform(dataclasses.replace(manifest, variant=None), **LINUX, capability=(7, 0))


def test_cpu_artifacts_run_anywhere() -> None:
    artifact.check_platform(make_manifest(backend="xnnpack"), system="Darwin", machine="arm64", capability=None)


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_draft_is_private_and_the_artifact_is_not(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    with Draft(tmp_path, "yolo26n") as draft:
        assert draft.folder.parent.stat().st_mode & 0o777 == 0o700
        assert draft.folder.parent.name.startswith(".yolo26n.tmp-")
        (draft.folder / PROGRAM).write_bytes(b"x")
        folder = draft.commit(make_manifest(backend="xnnpack"))
    assert folder == tmp_path / "yolo26n"
    assert folder.stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert entries(folder) == [MANIFEST, PROGRAM]
    assert entries(tmp_path) == ["usual", "yolo26n"]


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Draft(tmp_path / "new", "yolo26n") as draft:
        (draft.folder / PROGRAM).write_bytes(b"x")
        raise KeyboardInterrupt
    assert entries(tmp_path / "new") == []


def test_sealed_draft_can_be_tested_before_it_is_published(tmp_path: Path) -> None:
    with Draft(tmp_path, "yolo26n") as draft:
        (draft.folder / PROGRAM).write_bytes(b"x")
        untested = draft.seal(make_manifest(backend="xnnpack", test=None))
        assert artifact.verify(draft.folder) == untested
        assert entries(tmp_path) == [draft.folder.parent.name]
        (draft.folder / PROGRAM).write_bytes(b"changed")
        with pytest.raises(IntegrityError):
            artifact.verify(draft.folder)
        folder = draft.commit(make_manifest(backend="xnnpack"), "# card")
    assert artifact.verify(folder).test == make_manifest().test
    assert entries(folder) == [CARD, MANIFEST, PROGRAM]


def test_former_artifact_is_replaced_whole(tmp_path: Path) -> None:
    publish(tmp_path, b"former")
    folder = publish(tmp_path, b"new", backend="xnnpack")
    assert (folder / PROGRAM).read_bytes() == b"new"
    assert entries(folder) == [CARD, MANIFEST, PROGRAM]
    assert artifact.verify(folder).backend == "xnnpack"
    assert entries(tmp_path) == ["yolo26n"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux'")
def test_swap_is_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was {name}").touch()
    artifact._exchange(tmp_path / "a", tmp_path / "b")
    assert entries(tmp_path / "a") == ["was b"]
    assert entries(tmp_path / "b") == ["was a"]
    with pytest.raises(FileNotFoundError):
        artifact._exchange(tmp_path / "a", tmp_path / "none")


def no_swap(first: Path, second: Path) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_former_artifact_is_replaced_where_the_system_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "_exchange", no_swap)
    publish(tmp_path, b"former")
    assert (publish(tmp_path, b"new") / PROGRAM).read_bytes() == b"new"
    assert entries(tmp_path) == ["yolo26n"]


@pytest.mark.parametrize("swap", [True, False])
def test_former_artifact_stays_when_the_new_one_cannot_move_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    folder = publish(tmp_path, b"former")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.parent.name.startswith(".yolo26n.tmp") and path.name == "yolo26n" and not folder.exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    def broken_swap(first: Path, second: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr(artifact, "_exchange", broken_swap if swap else no_swap)
    with pytest.raises(ArtifactError, match="Input/output error"):
        publish(tmp_path, b"new")
    assert (folder / PROGRAM).read_bytes() == b"former"
    artifact.verify(folder)
    assert entries(tmp_path) == ["yolo26n"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from support import make_manifest, publish
    from yolo26_executorch.artifacts import folder as artifact

    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    base, point = Path(sys.argv[1]), sys.argv[2]
    if point == "card":
        artifact.Draft.records = die
    elif point == "files":
        artifact._sync = die
    elif point == "manifest":
        artifact._sync = lambda path: die() if path.name == "manifest.json" else None
    elif point == "before":
        artifact._put_in_place = die
    elif point == "between":
        def no_swap(first, second):
            rename = Path.rename
            Path.rename = lambda path, target: (rename(path, target), die())
            raise OSError(38, "Function not implemented")
        artifact._exchange = no_swap
    elif point == "after":
        artifact.Draft.__exit__ = die
    publish(base, make_manifest(), b"new")
"""


@pytest.mark.parametrize("point", ["card", "files", "manifest", "before", "between", "after"])
def test_kill_leaves_the_former_artifact_or_none(tmp_path: Path, point: str) -> None:
    folder = publish(tmp_path, b"former")
    assert support.run_python(KILLED, str(tmp_path), point).returncode == -signal.SIGKILL
    if point == "between":
        assert not folder.exists()
    else:
        artifact.verify(folder)
        assert (folder / PROGRAM).read_bytes() == (b"new" if point == "after" else b"former")
    assert len(entries(tmp_path)) == (1 if point == "between" else 2)
    # What the killed process left is gone with the next export of that name.
    publish(tmp_path, b"next")
    assert entries(tmp_path) == ["yolo26n"]
    assert (folder / PROGRAM).read_bytes() == b"next"


def test_only_abandoned_drafts_of_that_name_are_removed(tmp_path: Path) -> None:
    with Draft(tmp_path, "yolo26n") as other:
        owner = other.folder.parent.name.removeprefix(".yolo26n.tmp-").rsplit("-", 2)[0]
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        kept = [
            other.folder.parent.name,
            f".yolo26s.tmp-{owner}-{ended.pid}-abcdefgh",
            f".yolo26n.tmp-{owner}-1-abcdefgh",
            f".yolo26n.tmp-another.host-{ended.pid}-abcdefgh",
            ".yolo26n.tmp-mine",
        ]
        for name in (*kept[1:], f".yolo26n.tmp-{owner}-{ended.pid}-abcdefgh"):
            (tmp_path / name).mkdir()
        with Draft(tmp_path, "yolo26n") as draft:
            assert entries(tmp_path) == sorted([*kept, draft.folder.parent.name])


@pytest.mark.parametrize("step", ["fsync", "write"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_former_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    folder = publish(tmp_path, b"former")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync" if step == "fsync" else "pathlib.Path.write_text", full)
        with pytest.raises(ArtifactError, match=r"yolo26n cannot be written \(.*\); make room"):
            publish(tmp_path, b"new")
    assert entries(tmp_path) == ["yolo26n"]
    artifact.verify(folder)


def test_full_disk_while_the_exporter_writes(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No space left on device"), Draft(tmp_path, "yolo26n"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), Draft(tmp_path, "yolo26n"):
        raise PermissionError(errno.EACCES, "not the disk's fault")
    assert entries(tmp_path) == []


def test_folders_that_cannot_be_synced_are_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unable)
    artifact.verify(publish(tmp_path))


def test_only_plain_files_are_published(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"yolo26n cannot be written: .*link"), Draft(tmp_path, "yolo26n") as draft:
        (draft.folder / PROGRAM).symlink_to("/etc/passwd")
        draft.commit(make_manifest(backend="xnnpack"))
    assert entries(tmp_path) == []


def test_manifest_that_could_not_be_read_back_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"yolo26n cannot be written: .*plain JSON"):
        publish(tmp_path, test={"largest": float("nan")})
    with pytest.raises(ArtifactError, match="files"), Draft(tmp_path, "yolo26n") as draft:
        draft.commit(make_manifest(backend="xnnpack"))
    assert entries(tmp_path) == []


# ---- where it may be written -----------------------------------------------------------------------------------------


def test_base_path_is_made_and_left_clean(tmp_path: Path) -> None:
    artifact.prepare_base_path(tmp_path / "a" / "b", ["yolo26n"])
    assert entries(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("below", ["", "sub"])
def test_base_path_that_cannot_be_written(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / below if below else tmp_path / "file"
    for refused in (lambda: artifact.prepare_base_path(path), lambda: publish(path)):
        with pytest.raises(UsageError, match=r"--base-path .*cannot be written to \(.*\); name a folder") as caught:
            refused()
        assert caught.value.exit_status == 2


def test_read_only_base_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(**kwargs: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    with pytest.raises(UsageError, match="Read-only file system"):
        artifact.prepare_base_path(tmp_path)
    with pytest.raises(UsageError, match="Read-only file system"):
        publish(tmp_path)


@pytest.mark.parametrize("taken", ["file", "link", "photo.jpg", "README.md", ".git/", "model.pte photo.jpg"])
def test_what_is_no_artifact_is_never_replaced(tmp_path: Path, taken: str) -> None:
    place = tmp_path / "yolo26n"
    if taken == "file":
        place.write_bytes(b"mine")
    elif taken == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        for name in taken.split():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).mkdir() if name.endswith("/") else (place / name).write_bytes(b"mine")
    for refused in (lambda: artifact.prepare_base_path(tmp_path, ["yolo26n"]), lambda: publish(tmp_path)):
        with pytest.raises(UsageError, match=r"yolo26n is in the way.*or name another --base-path"):
            refused()
    assert os.path.lexists(place)


@pytest.mark.parametrize("left", [[], [".DS_Store", PROGRAM], [MANIFEST], [PROGRAM, CARD, WEIGHTS]])
def test_damaged_artifacts_and_empty_folders_are_replaced(tmp_path: Path, left: list[str]) -> None:
    place = tmp_path / "yolo26n"
    place.mkdir()
    for name in left:
        (place / name).write_bytes(b"")
    artifact.verify(publish(tmp_path))
    assert entries(tmp_path) == ["yolo26n"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a\n", "é"])
def test_illegal_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be an artifact's name"), Draft(tmp_path, name):
        pass


# ---- inside the files ------------------------------------------------------------------------------------------------


def test_contents(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(images + images, dim=-1)

    inside = artifact.contents(publish(tmp_path, xnnpack_program(Net(), torch.zeros(2, 2)), "xnnpack"))
    [method] = inside.methods
    assert (method.name, method.delegate_calls, method.outside) == (
        "forward", {"XnnpackBackend": 1}, {"aten::cumsum.out": 1}
    )  # fmt: skip
    assert inside.weights_data == {}


def test_contents_are_read_only_of_an_intact_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path)
    with pytest.raises(ArtifactError, match=r"model\.pte is damaged: .*; copy or export it again"):
        artifact.contents(folder)
    (folder / PROGRAM).write_bytes(b"changed")
    monkeypatch.setattr(artifact, "program_file", None)
    with pytest.raises(IntegrityError):
        artifact.contents(folder)
