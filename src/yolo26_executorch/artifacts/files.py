"""Plain files, read once: their size, their SHA-256, and private copies of the very bytes that were hashed."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, Any

from ..errors import IntegrityError

_CHUNK = 1 << 20
"""Bytes that are read and hashed at a time."""


def plain_size(path: Path, folder: int | None = None) -> int:
    """Return a file's size in bytes.

    Args:
        path: the file; with `folder` its name alone is looked up, in that open folder.
        folder: descriptor of the folder that holds it.

    Raises:
        IntegrityError: a link, folder, pipe or device, which an artifact never holds.
        OSError: there is no such file, or it cannot be looked at.
    """
    status = os.stat(path if folder is None else path.name, dir_fd=folder, follow_symlinks=False)
    return _plain(status, path).st_size


def open_plain(path: Path, folder: int | None = None) -> IO[bytes]:
    """Open a file for reading, without following a link or waiting for a pipe; see `plain_size`."""
    plain_size(path, folder)
    descriptor = os.open(
        path if folder is None else path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder
    )
    file = os.fdopen(descriptor, "rb", buffering=0)
    try:
        _plain(os.fstat(descriptor), path)
    except BaseException:
        file.close()
        raise
    return file


def plain_sha256(path: Path, folder: int | None = None) -> str:
    """Return a plain file's SHA-256 in hexadecimal; arguments and errors are those of `plain_size`."""
    with open_plain(path, folder) as file:
        return _read_through(file)


def _read_through(file: IO[bytes], into: IO[bytes] | None = None) -> str:
    """Read a file to its end and return its SHA-256; what was hashed is also written `into` another file."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        if into is not None:
            into.write(chunk)
    return digest.hexdigest()


class PrivateCopy:
    """A copy of a file that no other program can change: sealed memory on Linux, elsewhere a private temporary file."""

    def __init__(self, file: IO[bytes]) -> None:
        """Copy all that `file` holds; raises OSError where there is no room."""
        self._copy, self.path = _private_file()
        try:
            self.sha256 = _read_through(file, self._copy)
            self._copy.flush()
            _seal(self._copy)
        except BaseException:
            self.close()
            raise

    path: str
    """Where this process, and no other, can open it; valid until `close`."""
    sha256: str
    """Of the very bytes that are held, in hexadecimal."""

    def read(self) -> bytes:
        """Return the bytes."""
        with open(self.path, "rb") as file:  # noqa: PTH123 (a position of its own, so that threads may read at once)
            return file.read()

    def close(self) -> None:
        """Give the memory back, unless somebody has mapped the file and still holds it."""
        self._copy.close()


def _private_file() -> tuple[IO[Any], str]:
    try:
        descriptor = os.memfd_create("yolo26-et", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # not Linux, or forbidden
        pass
    else:
        file, path = os.fdopen(descriptor, "wb"), f"/proc/self/fd/{descriptor}"
        if os.path.exists(path):  # noqa: PTH110 (Path.exists raises where /proc may not be looked into)
            return file, path
        file.close()
    temporary = tempfile.NamedTemporaryFile(prefix="yolo26-et-")  # noqa: SIM115 (of mode 0600, removed by `close`)
    return temporary, temporary.name


def _seal(file: IO[Any]) -> None:
    """Forbid every later change; a temporary file's mode has to do where there is no such thing."""
    import fcntl

    seals = ("F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE")
    try:
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, sum(getattr(fcntl, name) for name in seals))
    except (AttributeError, OSError):
        os.fchmod(file.fileno(), stat.S_IRUSR)


def _plain(status: os.stat_result, path: Path) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        kind = "link" if stat.S_ISLNK(status.st_mode) else "folder or special file"
        raise IntegrityError(f"{path} is a {kind}; an artifact holds plain files only")
    return status
