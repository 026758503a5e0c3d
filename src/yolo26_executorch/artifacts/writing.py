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
from ..system.processes import is_running
from .files import plain_sha256, plain_size
from .locks import locked
from .manifest import CARD, MANIFEST, PLAIN_NAME, PROGRAM, WEIGHTS, FileRecord, Manifest

if TYPE_CHECKING:
    from typing_extensions import Self

_NOREPLACE, _EXCHANGE = 1, 2
"""Flags of renameat2(2)."""
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What systems and file systems without it, or without a flag of it, say."""
_TRIES = 10
"""How often an artifact's place is looked at anew while others change it."""


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
        ) from None


def remove_abandoned(base_path: Path) -> list[str]:
    """Remove drafts that killed exports have left in a base path, on whatever machine; returns their names.

    A draft whose name nobody has locked is nobody's. Files of locks stay (`locks`).
    """
    removed: dict[str, None] = {}
    for path in sorted(base_path.glob(".*.tmp-*")):
        match = re.fullmatch(r"\.(.+)\.tmp-[A-Za-z0-9._]+-\d+-\w+", path.name)
        if match and PLAIN_NAME.fullmatch(match[1]) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(BusyError), locked(base_path, match[1], waiting=None):
                _discard(path)
                removed[match[1]] = None
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
            self._inode = self.folder.stat().st_ino
        except OSError as error:
            raise UsageError(f"--base-path {self.base_path}: cannot be written to ({first_line(error)})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        """Remove what was not published; a full disk becomes an ArtifactError."""
        with contextlib.suppress(OSError):
            if self.folder.stat().st_ino == self._inode:  # not what a swap has brought here
                shutil.rmtree(self.folder, ignore_errors=True)
        _discard(self._private)
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
            if match and not path.is_symlink() and not is_running(int(match[1])):
                _discard(path)


def _put_in_place(new: Path, target: Path) -> None:
    """Rename a folder to its place; a former artifact ends beside `new`, in its private folder.

    Whatever appears at the place, and whenever: what is no artifact stays there.

    Raises:
        UsageError: something that is no artifact is in the way.
        OSError: the system refused.
    """
    for _ in range(_TRIES):
        try:
            _rename_to_free_place(new, target)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        _check_place(target)
        with contextlib.suppress(FileNotFoundError):  # what was in the way is gone again
            _replace(new, target)
            return
    raise OSError(errno.EBUSY, "others change it at the same time")


def _replace(new: Path, target: Path) -> None:
    """Put a folder in the place of a former artifact, in one step where the system can; see `_put_in_place`."""
    try:
        _renameat2(new, target, _EXCHANGE)
        former, swapped = new, True
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # For a moment there is no artifact at all, but never half of one.
        former, swapped = new.parent / "former", False
        target.rename(former)
    try:
        _check_place(former, target)  # it may be another one than was looked at before
    except UsageError:
        _put_back(former, target, swapped=swapped)
        raise
    if not swapped:
        try:
            _rename_to_free_place(new, target)
        except OSError:
            _put_back(former, target, swapped=False)
            raise


def _put_back(former: Path, target: Path, *, swapped: bool) -> None:
    """Return what was taken out of a place; where that cannot be done it stays where it is, which is told."""
    try:
        if swapped:
            _renameat2(former, target, _EXCHANGE)
        else:
            _rename_to_free_place(former, target)
    except OSError as error:
        raise UsageError(
            f"{target} was taken by something else in the meantime, and is now at {former} ({first_line(error)}); "
            "move it back, or elsewhere"
        ) from error


def _rename_to_free_place(source: Path, target: Path) -> None:
    """Rename a folder to where nothing is; raises OSError where something is."""
    try:
        _renameat2(source, target, _NOREPLACE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        source.rename(target)  # replaces an empty folder, and nothing else


def _renameat2(first: Path, second: Path, flag: int) -> None:
    """Rename by Linux' renameat2(2), which can swap two folders; raises OSError where the system cannot."""
    at_working_folder = -100
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = os.fsencode(first), os.fsencode(second)
    if renameat2(at_working_folder, paths[0], at_working_folder, paths[1], flag) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _check_place(target: Path, named: Path | None = None) -> None:
    """Refuse to replace anything but an artifact, whole or damaged.

    Raises:
        UsageError: it is something else; `named` is what the message calls it.
    """
    if not os.path.lexists(target):
        return
    place = named or target
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{place} is in the way, and no folder; move it, or name another --base-path")
    ours = {PROGRAM, WEIGHTS, MANIFEST, CARD}
    found = list(target.iterdir())
    foreign = sorted(p.name for p in found if p.name not in ours and (p.is_dir() or not p.name.startswith(".")))
    if foreign or (found and not {PROGRAM, WEIGHTS, MANIFEST} & {p.name for p in found}):
        names = ", ".join(map(reprlib.repr, foreign[:5])) or "no artifact"
        raise UsageError(f"{place} is in the way: it holds {names}; move that elsewhere, or name another --base-path")


def _discard(private: Path) -> None:
    """Remove a draft's private folder, but nothing in it that is no artifact: a kill may have kept that in there."""
    for entry in private.iterdir():
        with contextlib.suppress(UsageError):
            _check_place(entry)
            shutil.rmtree(entry, ignore_errors=True)
    with contextlib.suppress(OSError):
        private.rmdir()


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
