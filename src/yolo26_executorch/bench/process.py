"""One worker of the benchmark, seen from the outside: what it is asked, what it answers, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..system.processes import run_module

if TYPE_CHECKING:
    from typing_extensions import Self

WORKER = run_module("yolo26_executorch.bench.worker")
"""What is started for each row. -P: a stray `random.py` where the user stands must not be imported."""

_TAIL_LINES = 3
_END_S = 10.0


@dataclass(frozen=True)
class Job:
    """What a worker does."""

    kind: str
    """"row", "work" (count what a model has to do) or "ceilings"."""
    folder: str = ""
    subject: str = ""
    mode: str = ""
    runner: str = "auto"
    compile_mode: str = "default"
    image: str = ""
    checkpoint: str | None = None
    weights_dir: str | None = None
    trusted: bool = False
    device: str = ""
    """Of the ceilings; so is the precision."""
    precision: str = ""


class NoAnswer(Exception):
    """A worker gave none; says why in one line."""

    def __init__(self, message: str, outcome: str = "failed") -> None:
        super().__init__(message)
        self.outcome = outcome
        """"failed" or "skipped"."""


class Process:
    """A worker process; a context manager that ends it."""

    def __init__(self, job: Job, log: Path, *, worker: Sequence[str], limit_s: float) -> None:
        """Start it; `limit_s` is how long each of its answers may take. Raises NoAnswer."""
        self.log = log
        self._limit_s = limit_s
        self._rest = b""
        with log.open("wb") as log_file:
            try:
                # A session of its own: the terminal's Ctrl-C must not reach it, and the compilers that it starts must
                # end with it.
                self._process = subprocess.Popen(
                    worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, start_new_session=True
                )
            except OSError as error:
                raise NoAnswer(f"its process could not start: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._say(asdict(job))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer's fields; raises as `answer`."""
        self._say(request)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer and return its fields.

        Raises:
            NoAnswer: it failed, had to skip the job, died, or took too long.
        """
        deadline = time.monotonic() + self._limit_s
        while True:
            line = self._line(deadline)
            try:
                said = json.loads(line)
                event = said.pop("event")
            except (ValueError, AttributeError, KeyError, TypeError):
                continue  # not ours
            if event in ("failed", "skipped"):
                raise NoAnswer(printable(str(said.get("message"))), event)
            return dict(said)

    def close(self) -> None:
        """Let it end by itself, for a while."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self.kill()

    def kill(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _say(self, request: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the answer will tell
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()

    def _line(self, deadline: float) -> bytes:
        """Return the next line of its output; raises NoAnswer where there will be none."""
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoAnswer(
                    f"stopped because it took longer than {self._limit_s / 60:g} min; see --time-limit"
                    f"{self._last_words()}"
                )
            wait([self._stdout.fileno()], timeout=left)
            chunk = self._stdout.read(1 << 16)
            if chunk == b"":
                raise NoAnswer(self._obituary())
            self._rest += chunk or b""
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        status = self._process.returncode
        killed = status is not None and status < 0
        how = f"was killed by signal {-status}" if killed else f"ended with status {status}"
        return f"its process {how}{self._last_words()}"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                said = printable(" | ".join(" ".join(line.split()) for line in lines[-_TAIL_LINES:]))
                return f"; last words: {said[-500:]}"
        return ""
