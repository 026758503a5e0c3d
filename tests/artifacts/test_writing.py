from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import support
from support import make_manifest
from yolo26_executorch.artifacts import writing
from yolo26_executorch.artifacts.manifest import CARD, MANIFEST, PROGRAM, WEIGHTS
from yolo26_executorch.artifacts.reading import verify
from yolo26_executorch.artifacts.writing import Draft, prepare_base_path
from yolo26_executorch.errors import ArtifactError, IntegrityError, UsageError


def publish(base: Path, program: bytes = b"program", backend: str = "cuda", **changes: Any) -> Path:
    return support.publish(base, make_manifest(backend=backend, **changes), program)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
        assert verify(draft.folder) == untested
        assert entries(tmp_path) == [draft.folder.parent.name]
        (draft.folder / PROGRAM).write_bytes(b"changed")
        with pytest.raises(IntegrityError):
            verify(draft.folder)
        folder = draft.commit(make_manifest(backend="xnnpack"), "# card")
    assert verify(folder).test == make_manifest().test
    assert entries(folder) == [CARD, MANIFEST, PROGRAM]


def test_former_artifact_is_replaced_whole(tmp_path: Path) -> None:
    publish(tmp_path, b"former")
    folder = publish(tmp_path, b"new", backend="xnnpack")
    assert (folder / PROGRAM).read_bytes() == b"new"
    assert entries(folder) == [CARD, MANIFEST, PROGRAM]
    assert verify(folder).backend == "xnnpack"
    assert entries(tmp_path) == ["yolo26n"]


def no_renameat2(first: Path, second: Path, flag: int) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.fixture(params=["renameat2", "rename"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that can swap two folders in one step, and one that cannot."""
    if request.param == "rename":
        monkeypatch.setattr(writing, "_renameat2", no_renameat2)
    elif sys.platform != "linux":
        pytest.skip("renameat2 is Linux'")
    return str(request.param)


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux'")
def test_swap_is_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was {name}").touch()
    writing._renameat2(tmp_path / "a", tmp_path / "b", writing._EXCHANGE)
    assert entries(tmp_path / "a") == ["was b"]
    assert entries(tmp_path / "b") == ["was a"]
    with pytest.raises(FileNotFoundError):
        writing._renameat2(tmp_path / "a", tmp_path / "none", writing._EXCHANGE)
    with pytest.raises(FileExistsError):
        writing._renameat2(tmp_path / "a", tmp_path / "b", writing._NOREPLACE)


def test_former_artifact_is_replaced(tmp_path: Path, system: str) -> None:
    publish(tmp_path, b"former")
    assert (publish(tmp_path, b"new") / PROGRAM).read_bytes() == b"new"
    assert entries(tmp_path) == ["yolo26n"]


def test_former_artifact_stays_when_the_new_one_cannot_move_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    folder = publish(tmp_path, b"former")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.parent.name.startswith(".yolo26n.tmp") and path.name == "yolo26n" and not folder.exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    def broken_swap(first: Path, second: Path, flag: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", failing)
    if system == "renameat2":
        monkeypatch.setattr(writing, "_renameat2", broken_swap)
    with pytest.raises(ArtifactError, match="Input/output error"):
        publish(tmp_path, b"new")
    assert (folder / PROGRAM).read_bytes() == b"former"
    verify(folder)
    assert entries(tmp_path) == ["yolo26n"]


def before(monkeypatch: pytest.MonkeyPatch, name: str, number: int, happening: Callable[[], object]) -> None:
    """Have something happen just before a function of `writing` is called for the nth time."""
    function, calls = getattr(writing, name), iter(range(1, 1000))

    def called(*words: Any, **named: Any) -> Any:
        if next(calls) == number:
            happening()
        return function(*words, **named)

    monkeypatch.setattr(writing, name, called)


def put_users_folder(place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    place.mkdir()
    (place / "thesis.txt").write_text("mine")


@pytest.mark.parametrize(
    "step, former",
    [
        ("_put_in_place", False),
        ("_put_in_place", True),
        ("_rename_to_free_place", False),
        ("_rename_to_free_place", True),
        ("_check_place", True),
        ("_replace", True),
    ],
)
def test_a_folder_that_appears_while_an_artifact_is_put_in_place_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, step: str, former: bool
) -> None:
    """Between any two steps: it was swapped out and erased once."""
    place = tmp_path / "yolo26n"
    if former:
        publish(tmp_path, b"former")
    with (
        Draft(tmp_path, "yolo26n") as draft,
        pytest.raises(UsageError, match=r"yolo26n is in the way: .*'thesis\.txt'"),
    ):
        (draft.folder / PROGRAM).write_bytes(b"new")
        before(monkeypatch, step, 1, lambda: put_users_folder(place))
        draft.commit(make_manifest(backend="xnnpack"))
    assert (place / "thesis.txt").read_text() == "mine"
    assert entries(tmp_path) == ["yolo26n"]


def test_an_artifact_that_is_removed_meanwhile_leaves_its_place_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    place = publish(tmp_path, b"former")
    before(monkeypatch, "_replace", 1, lambda: shutil.rmtree(place))
    publish(tmp_path, b"new")
    assert (place / PROGRAM).read_bytes() == b"new"
    assert entries(tmp_path) == ["yolo26n"]


def test_what_cannot_be_put_back_is_kept_and_its_place_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    place = publish(tmp_path, b"former")
    with (
        Draft(tmp_path, "yolo26n") as draft,
        pytest.raises(UsageError, match=r"is now at (\S+) \(.*; move it back") as said,
    ):
        (draft.folder / PROGRAM).write_bytes(b"new")
        before(monkeypatch, "_replace", 1, lambda: put_users_folder(place))
        # Somebody else is faster again.
        name = "_put_back"
        if system == "renameat2":
            before(monkeypatch, name, 1, lambda: shutil.rmtree(place))
        else:
            before(monkeypatch, name, 1, lambda: publish_plain(place))
        draft.commit(make_manifest(backend="xnnpack"))
    kept = Path(str(said.value).split(" is now at ")[1].split(" (")[0])
    assert (kept / "thesis.txt").read_text() == "mine"
    writing.remove_abandoned(tmp_path)
    with Draft(tmp_path, "yolo26n"):
        pass
    assert (kept / "thesis.txt").read_text() == "mine"


def publish_plain(place: Path) -> None:
    place.mkdir()
    (place / PROGRAM).write_bytes(b"another's")


def publish_and_die(base: Path, point: str) -> None:
    """Publish as a process does that is killed at some point; never returns."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def no_swap_and_die(first: Path, second: Path, flag: int) -> None:
        if flag == writing._EXCHANGE:
            rename = Path.rename
            Path.rename = lambda path, target: (rename(path, target), die())  # type: ignore[method-assign, assignment]
        raise OSError(errno.ENOSYS, "Function not implemented")

    try:
        if point == "card":
            writing.Draft.records = die  # type: ignore[method-assign, assignment]
        elif point == "files":
            writing._sync = die
        elif point == "manifest":
            writing._sync = lambda path: die() if path.name == MANIFEST else None
        elif point == "before":
            writing._put_in_place = die
        elif point == "between":
            writing._renameat2 = no_swap_and_die
        elif point == "after":
            writing.Draft.__exit__ = die  # type: ignore[method-assign]
        publish(base, b"new")
    finally:
        os._exit(1)


@pytest.mark.parametrize("point", ["card", "files", "manifest", "before", "between", "after"])
def test_kill_leaves_the_former_artifact_or_none(tmp_path: Path, point: str) -> None:
    folder = publish(tmp_path, b"former")
    if (child := os.fork()) == 0:
        publish_and_die(tmp_path, point)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    if point == "between":
        assert not folder.exists()
    else:
        verify(folder)
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
    verify(folder)


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
    verify(publish(tmp_path))


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


def test_base_path_is_made_and_left_clean(tmp_path: Path) -> None:
    prepare_base_path(tmp_path / "a" / "b", ["yolo26n"])
    assert entries(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("below", ["", "sub"])
def test_base_path_that_cannot_be_written(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / below if below else tmp_path / "file"
    for refused in (lambda: prepare_base_path(path), lambda: publish(path)):
        with pytest.raises(UsageError, match=r"--base-path .*cannot be written to \(.*\); name a folder") as caught:
            refused()
        assert caught.value.exit_status == 2


def test_read_only_base_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(**kwargs: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    with pytest.raises(UsageError, match="Read-only file system"):
        prepare_base_path(tmp_path)
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
    for refused in (lambda: prepare_base_path(tmp_path, ["yolo26n"]), lambda: publish(tmp_path)):
        with pytest.raises(UsageError, match=r"yolo26n is in the way.*or name another --base-path"):
            refused()
    assert os.path.lexists(place)


@pytest.mark.parametrize("left", [[], [".DS_Store", PROGRAM], [MANIFEST], [PROGRAM, CARD, WEIGHTS]])
def test_damaged_artifacts_and_empty_folders_are_replaced(tmp_path: Path, left: list[str]) -> None:
    place = tmp_path / "yolo26n"
    place.mkdir()
    for name in left:
        (place / name).write_bytes(b"")
    verify(publish(tmp_path))
    assert entries(tmp_path) == ["yolo26n"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a\n", "é"])
def test_illegal_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be an artifact's name"), Draft(tmp_path, name):
        pass
