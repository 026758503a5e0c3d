"""Writing an artifact: a private folder beside its place, which takes the place when it is complete.

A folder is complete or absent: a crash, a full disk or a kill at any point leaves the former artifact or none.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import reprlib
import shutil
import socket
import tempfile
import types
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArtifactError, BusyError, UsageError, first_line
from .files import plain_sha256, plain_size
from .locks import locked
from .manifest import CARD, MANIFEST, PLAIN_NAME, PROGRAM, WEIGHTS, FileRecord, Manifest

if TYPE_CHECKING:
    from typing_extensions import Self


def prepare_base_path(path: Path, names: Iterable[str] = ()) -> None:
    """Make sure, before any work, that artifacts can be written to a folder.

    The folder is created where it is not there. Nothing of the user's own is ever replaced: a place that is taken by
    something other than an artifact is refused.

    Raises:
        UsageError: `path` is no folder that can be written to, or a name's place is taken.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Only trying tells: permissions, read-only mounts and quotas all show here.
        with tempfile.TemporaryFile(dir=path):
            pass
        for name in names:
            _check_place(path / name)
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else first_line(error)
        raise UsageError(
            f"--base-path {path}: cannot be written to ({why}); name a folder of your own, such as "
            "--base-path ~/yolo26_exports"
        ) from error


def remove_abandoned(base_path: Path) -> list[str]:
    """Remove drafts and locks that killed exports have left in a base path, on whatever machine; returns their names.

    A draft whose name nobody has locked is nobody's.
    """
    removed: dict[str, None] = {}
    for path in sorted(base_path.glob(".*")):
        match = re.fullmatch(r"\.(.+)\.(lock|tmp-[A-Za-z0-9._]+-\d+-\w+)", path.name)
        if match and PLAIN_NAME.fullmatch(match[1]) and not path.is_symlink():
            with contextlib.suppress(BusyError), locked(base_path, match[1], waiting=None):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                removed[match[1]] = None  # `locked` removes its own file
    return list(removed)


class Draft:
    """An artifact in the making: `with Draft(base_path, "yolo26n") as draft`, write into `draft.folder`, then `commit`.

    The folder lies in a private one (mode 0700) inside `base_path`, on the same file system as its place. Leaving the
    context without `commit` removes it; what a killed process left is removed by the next draft of that name.
    """

    folder: Path

    def __init__(self, base_path: Path, name: str) -> None:
        self.base_path = base_path
        self.name = name

    def __enter__(self) -> Self:
        """Make the folder; raises UsageError as `prepare_base_path` does."""
        if not PLAIN_NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} cannot be an artifact's name; use letters, digits, '.', '_' and '-'")
        prepare_base_path(self.base_path, [self.name])
        owner = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
        self._remove_abandoned(owner)
        prefix = f".{self.name}.tmp-{owner}-{os.getpid()}-"
        try:
            self._private = Path(tempfile.mkdtemp(prefix=prefix, dir=self.base_path))
            # The folder that gets published is one below, so that it has the mode of any folder made here.
            self.folder = self._private / self.name
            self.folder.mkdir()
        except OSError as error:
            raise UsageError(f"--base-path {self.base_path}: cannot be written to ({first_line(error)})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        """Remove what was not published; a full disk becomes an ArtifactError."""
        shutil.rmtree(self._private, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise self._unwritable(error) from error

    def records(self) -> dict[str, FileRecord]:
        """Return size and SHA-256 of every file written so far; raises IntegrityError for what is no plain file."""
        paths = sorted(path for path in self.folder.iterdir() if path.name != MANIFEST)
        return {path.name: FileRecord(plain_sha256(path), plain_size(path)) for path in paths}

    def seal(self, manifest: Manifest) -> Manifest:
        """Write the manifest of the files as they are, so that the folder can be verified and tested before `commit`.

        Returns the manifest with its `files` filled in.

        Raises:
            ArtifactError: it cannot be written (disk full, …), or could not be read back.
        """
        try:
            sealed = replace(manifest, files=self.records())
            data = sealed.to_json()
            Manifest.from_json(data)
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        except ArtifactError as error:
            raise ArtifactError(f"{self.name} cannot be written: {error}") from error
        return sealed

    def commit(self, manifest: Manifest, card: str | None = None) -> Path:
        """Publish the folder and return its place; a former artifact there is replaced in one step.

        Args:
            manifest: its `files` are filled in here.
            card: the text of README.md.

        Raises:
            ArtifactError: as `seal`.
            UsageError: its place was meanwhile taken by something that is no artifact.
        """
        target = self.base_path / self.name
        try:
            if card is not None:
                (self.folder / CARD).write_text(card, encoding="utf-8")
            for name in (*self.seal(manifest).files, MANIFEST, "."):
                _sync(self.folder / name)
            _check_place(target)
            _put_in_place(self.folder, target)
            _sync(self.base_path)
        except OSError as error:
            raise self._unwritable(error) from error
        return target

    def _unwritable(self, error: OSError) -> ArtifactError:
        return ArtifactError(
            f"{self.base_path / self.name} cannot be written ({first_line(error)}); make room or name another "
            "--base-path, and export it again"
        )

    def _remove_abandoned(self, owner: str) -> None:
        """Remove drafts of this name whose process, on this machine, has ended."""
        pattern = re.compile(rf"{re.escape(f'.{self.name}.tmp-{owner}-')}(\d{{1,9}})-\w+")
        for path in self.base_path.glob(".*"):
            match = pattern.fullmatch(path.name)
            if match and not _is_running(int(match[1])):
                shutil.rmtree(path, ignore_errors=True)


def _put_in_place(new: Path, target: Path) -> None:
    """Rename a folder to its place; what was there ends beside `new`, in its private folder."""
    try:
        new.rename(target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    try:
        _exchange(new, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        # No swap on this system: for a moment there is no artifact at all, but never half of one.
        former = new.parent / "former"
        target.rename(former)
        try:
            new.rename(target)
        except OSError:
            former.rename(target)
            raise


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders in one step, by Linux' renameat2(2); raises OSError where the system cannot."""
    at_working_folder, exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = os.fsencode(first), os.fsencode(second)
    if renameat2(at_working_folder, paths[0], at_working_folder, paths[1], exchange) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _check_place(target: Path) -> None:
    """Refuse to replace anything but an artifact, whole or damaged; raises UsageError."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{target} is in the way, and no folder; move it, or name another --base-path")
    ours = {PROGRAM, WEIGHTS, MANIFEST, CARD}
    found = list(target.iterdir())
    foreign = sorted(p.name for p in found if p.name not in ours and (p.is_dir() or not p.name.startswith(".")))
    if foreign or (found and not {PROGRAM, MANIFEST} & {p.name for p in found}):
        names = ", ".join(map(reprlib.repr, foreign[:5])) or "no artifact"
        raise UsageError(f"{target} is in the way: it holds {names}; move that elsewhere, or name another --base-path")


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do it for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
