from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yolo26_executorch.exporter.child_process import PARENT, ChildProcess, memory_of, wait_for_output
from yolo26_executorch.system.processes import is_running

Start = Callable[..., ChildProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a Python program."""
    started: list[ChildProcess] = []

    def make(program: str, environment: dict[str, str] | None = None) -> ChildProcess:
        command = [sys.executable, "-S", "-c", "import json, os, subprocess, sys, time\n" + program]
        started.append(ChildProcess(command, tmp_path / "log", environment))
        return started[-1]

    yield make
    for process in started:
        process.close()


def everything(process: ChildProcess) -> list[bytes]:
    """Read all that a process writes until it closes its output."""
    lines = []
    while not process.silent:
        wait_for_output([process], 60)
        lines += process.lines()
    return lines


def test_it_gets_and_gives_lines(start: Start) -> None:
    process = start("for line in sys.stdin:\n    print(json.loads(line)['number'] + 1, flush=True)")
    answers = []
    for number in range(3):
        process.send({"number": number})
        while not (lines := [*process.lines()]):
            wait_for_output([process], 60)
        answers += lines
    assert answers == [b"1", b"2", b"3"]
    process.close_input()
    assert everything(process) == []
    process.wait(60)
    assert process.returncode == 0


def test_a_line_cut_short_is_given_at_the_end(start: Start) -> None:
    assert everything(start("sys.stdout.write('whole\\n' + 'x' * 200_000 + '\\npart')")) == [
        b"whole", b"x" * 200_000, b"part",
    ]  # fmt: skip


def test_the_last_line_can_be_had_while_the_output_is_open(start: Start) -> None:
    process = start("sys.stdout.write('part'); sys.stdout.flush(); time.sleep(60)")
    wait_for_output([process], 60)
    assert [*process.lines()] == []
    assert [*process.lines(last=True)] == [b"part"]


def test_who_has_ended_is_written_to_in_vain(start: Start) -> None:
    process = start("os.close(0)")
    process.wait(60)
    process.send({"too": "late"})
    process.close_input()


def test_it_is_told_whose_child_it_is_and_has_the_environment_given(start: Start) -> None:
    program = f"print(json.dumps([os.environ[{PARENT!r}], os.environ['A'], os.getsid(0) == os.getpid()]))"
    (line,) = everything(start(program, {"A": "b"}))
    assert json.loads(line) == [str(os.getpid()), "b", True]


def test_closing_it_ends_all_that_it_started(start: Start) -> None:
    process = start("child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); time.sleep(60)")
    lines: list[bytes] = []
    while not lines:
        assert not process.silent
        wait_for_output([process], 60)
        lines = list(process.lines())
    (line,) = lines
    assert is_running(int(line))
    assert memory_of(process.pid) > 1_000_000
    process.close()
    assert process.returncode == -9
    deadline = time.monotonic() + 60
    while is_running(int(line)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert memory_of(process.pid) == 0


def test_the_tail_of_its_log_is_one_printable_line(start: Start, tmp_path: Path) -> None:
    process = start("print('first\\n\\x1b[31msecond\\n  ^^^^\\nthird\\nlast \\x07one', file=sys.stderr, flush=True)")
    assert everything(process) == []
    process.note(b"")
    process.note(b"a note")
    assert process.log_tail() == "third | last one | a note"
    (tmp_path / "log").unlink()
    assert process.log_tail() == ""


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ChildProcess([str(tmp_path / "no-such-program")], tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        ChildProcess([sys.executable], tmp_path / "no" / "log")
