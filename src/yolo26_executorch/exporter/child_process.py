"""A process that this one starts, watches and ends, with all that it starts in turn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

LOGS = ".logs"
"""The hidden folder of a base path that exports' logs lie in."""
GRACE_S = 10.0
"""How long a process may take to end after it was asked to, before it is killed."""

_TAIL_LINES = 3
_TAIL_BYTES = 4096


class ChildProcess:
    """A process in a session of its own, which gets and gives JSON lines; what it prints besides goes to a log.

    The terminal's Ctrl-C does not reach the session, and a signal from here reaches all of it.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            command: what to start.
            log: the file that its standard error goes to.
            environment: its variables; None passes on this process' own.

        Raises:
            OSError: the log cannot be written, or there is no such program.
        """
        self.log = log
        self._rest = b""
        self._log = log.open("wb", buffering=0)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
                env={**(os.environ if environment is None else environment), PARENT: str(os.getpid())},
            )
        except OSError:
            self._log.close()
            raise
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    @property
    def pid(self) -> int:
        """Its number, also that of its session."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for the signal that killed it; None while it runs."""
        return self._process.poll()

    @property
    def silent(self) -> bool:
        """Whether it has closed its standard output, and all of that was read."""
        return self._stdout.closed

    def send(self, message: Mapping[str, Any]) -> None:
        """Write a JSON line to its standard input; nothing happens where it has ended or closed that."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()

    def close_input(self) -> None:
        """End its standard input."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def lines(self, *, last: bool = False) -> Iterator[bytes]:
        """Yield the lines that it has written since, without waiting for more; the `last` one may be cut short."""
        while not self._stdout.closed:
            chunk = self._stdout.read(1 << 16)
            if chunk is None:  # nothing more for now
                break
            if not chunk:
                self._stdout.close()
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            yield from lines
        if self._rest and (last or self._stdout.closed):
            rest, self._rest = self._rest, b""
            yield rest

    def note(self, line: bytes) -> None:
        """Write a line of ours to the log."""
        if line.strip():
            with contextlib.suppress(OSError):  # a full disk is the process' own to report
                self._log.write(line + b"\n")

    def ask_to_end(self) -> None:
        """Send SIGTERM to its session."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End its session at once, without waiting."""
        self._signal(signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for its end, but no longer than that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def close(self) -> None:
        """Kill what is left of its session, wait for it, and close what leads there."""
        self.kill()
        self._process.wait()
        self.close_input()
        self._stdout.close()
        self._log.close()

    def log_tail(self) -> str:
        """Return the log's last lines as one printable line, empty where there is nothing."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        lines = [" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in text.splitlines()]
        return " | ".join([line for line in lines if any(map(str.isalnum, line))][-_TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def wait_for_output(processes: Sequence[ChildProcess], seconds: float) -> None:
    """Wait until one of some processes has written something or ended its output, but no longer than that."""
    wait([process._stdout.fileno() for process in processes if not process.silent], timeout=seconds)


PARENT = "YOLO26_ET_PARENT"
"""Environment variable that tells a process whose child it is."""


def leave(status: int) -> NoReturn:
    """End this process at once: taking PyTorch, CUDA and the compilers' pool apart takes seconds, and the parent waits.

    What is left of a child's session is ended by who started it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def memory_of(pid: int) -> int:
    """Return the bytes that a process and all it has started hold together; 0 once it has ended.

    Proportional set size: memory that processes share is counted once.
    """
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                try:
                    total += int(process.memory_full_info().pss)
                except (AttributeError, psutil.AccessDenied):  # no such figure on this system
                    total += int(process.memory_info().rss)
    return total
