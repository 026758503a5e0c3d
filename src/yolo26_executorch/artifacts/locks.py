"""One export at a time into one place: a lock per variant, which the system lets go of when its owner dies.

`BASE/.NAME.lock` is locked while NAME is being exported into BASE, and says who does it. The file stays: who removed it
could, on a network file system, take it from under another who has just locked it, and a third would lock a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import filelock

from ..errors import BusyError, UsageError, first_line, printable


@contextlib.contextmanager
def locked(base_path: Path, name: str, *, waiting: Callable[[str], None] | None) -> Iterator[None]:
    """Hold the lock of a name in a base path, which need not exist yet.

    Args:
        base_path: where the artifact's folder goes.
        name: the artifact's.
        waiting: called once, with who holds the lock, before it is waited for; None refuses to wait.

    Raises:
        BusyError: somebody else holds it, and `waiting` is None.
        UsageError: the base path cannot be written to.
    """
    path = base_path / f".{name}.lock"
    try:
        base_path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            holder = _holder(path)
            if waiting is None:
                raise BusyError(
                    f"{base_path / name} is being exported by {holder}; wait for it, or name another --base-path"
                ) from None
            waiting(holder)
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        raise UsageError(f"--base-path {base_path}: cannot be written to ({first_line(error)})") from error
    try:
        with contextlib.suppress(OSError):  # a full disk; the lock holds without its note
            path.write_text(json.dumps(_ourselves()), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            path.write_bytes(b"")  # nobody holds it any more
        lock.release()


def _ourselves() -> dict[str, str | int]:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _holder(note: Path) -> str:
    """Return who holds a lock, in words."""
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        words = f"process {int(said['process'])} on {said['host']!s:.80}, since {said['since']!s:.40}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    return printable(words)
