"""One worker process of the benchmark: what it is asked, what it answers, how it ends."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import printable
from ..exporter.child_process import ChildProcess, wait_for_output
from ..system.processes import run_module

if TYPE_CHECKING:
    from typing_extensions import Self

WORKER = run_module("yolo26_executorch.bench.worker")
"""What is started for each row."""

_END_S = 10.0
"""How long it may take to end by itself."""


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
        self._lines: deque[bytes] = deque()
        try:
            self._process = ChildProcess(worker, log)
        except OSError as error:
            raise NoAnswer(f"its process could not start: {error}") from error
        self._process.send(asdict(job))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer's fields; raises as `answer`."""
        self._process.send(request)
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
                data = json.loads(line)
                event = data.pop("event")
            except (ValueError, AttributeError, KeyError, TypeError):
                continue  # not ours
            if event in ("failed", "skipped"):
                raise NoAnswer(printable(str(data.get("message"))), event)
            return dict(data)

    def close(self) -> None:
        """Let it end by itself, for a while."""
        self._process.close_input()
        self._process.wait(_END_S)
        self.kill()

    def kill(self) -> None:
        """End it and what it has started."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _line(self, deadline: float) -> bytes:
        """Return the next line of its output; raises NoAnswer where there will be none."""
        while not self._lines:
            left = deadline - time.monotonic()
            if left <= 0:
                too_long = f"stopped because it took longer than {self._limit_s / 60:g} min; see --time-limit"
                raise NoAnswer(self._with_log_tail(too_long))
            if self._process.silent:
                raise NoAnswer(self._how_it_ended())
            wait_for_output([self._process], left)
            self._lines += self._process.lines()
        return self._lines.popleft()

    def _how_it_ended(self) -> str:
        self._process.wait(_END_S)
        status = self._process.returncode
        killed = status is not None and status < 0
        how = f"was killed by signal {-status}" if killed else f"ended with status {status}"  # type: ignore[operator]
        return self._with_log_tail(f"its process {how}")

    def _with_log_tail(self, message: str) -> str:
        tail = self._process.log_tail()
        return f"{message}; log tail: {tail[-500:]}" if tail else message
