from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support import PATIENCE_S
from yolo26_executorch.artifacts.locks import locked
from yolo26_executorch.errors import BusyError, UsageError

HOLD = """
import sys, time
from pathlib import Path
from yolo26_executorch.artifacts.locks import locked
with locked(Path(sys.argv[1]), "yolo26n", waiting=None):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(base: Path) -> subprocess.Popen[str]:
    """Hold the lock of yolo26n in another process."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(base)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_its_file_stays_the_same_one(tmp_path: Path) -> None:
    """Were it removed, two could each hold a file of that name on a network file system."""
    base = tmp_path / "new"
    inodes = set()
    for _ in range(3):
        with locked(base, "yolo26n", waiting=None):
            inodes.add((base / ".yolo26n.lock").stat().st_ino)
            assert str(os.getpid()) in (base / ".yolo26n.lock").read_text()
        assert (base / ".yolo26n.lock").read_bytes() == b""  # nobody holds it
    assert [path.name for path in base.iterdir()] == [".yolo26n.lock"]
    assert len(inodes) == 1


def test_a_second_one_is_told_who_holds_it_and_other_names_are_free(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        with (
            pytest.raises(BusyError, match=rf"being exported by process {process.pid} on .*, since 20"),
            locked(tmp_path, "yolo26n", waiting=None),
        ):
            pass
        with locked(tmp_path, "yolo26s", waiting=None):
            pass
        process.kill()


def test_a_dead_owners_lock_is_taken_over(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / ".yolo26n.lock").exists()
    with locked(tmp_path, "yolo26n", waiting=None):
        assert str(os.getpid()) in (tmp_path / ".yolo26n.lock").read_text()


def test_who_waits_gets_it_in_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    freed = threading.Event()
    with hold(tmp_path) as process:

        def free() -> None:
            freed.set()
            process.kill()

        def release(holder: str) -> None:
            said.append(holder)
            threading.Timer(0.3, free).start()

        with locked(tmp_path, "yolo26n", waiting=release):
            assert freed.is_set()
    assert said == [word for word in said if word.startswith(f"process {process.pid} on ")]
    assert len(said) == 1


def test_many_take_turns(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from yolo26_executorch.artifacts.locks import locked
base = Path(sys.argv[1])
for _ in range(15):
    with locked(base, "n", waiting=lambda holder: None):
        mark = os.open(base / "inside", os.O_CREAT | os.O_EXCL)  # fails where somebody is inside
        time.sleep(0.002)
        os.close(mark)
        (base / "inside").unlink()
"""
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == [".n.lock"]


def test_words_of_a_foreign_note_cannot_steer_the_terminal(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        (tmp_path / ".yolo26n.lock").write_text('{"process": 1, "host": "a\\u001b[2Jb", "since": ""}')
        with pytest.raises(BusyError) as raised, locked(tmp_path, "yolo26n", waiting=None):
            pass
        assert str(raised.value).isprintable()
        (tmp_path / ".yolo26n.lock").write_text("what?")
        with pytest.raises(BusyError, match="by another process"), locked(tmp_path, "yolo26n", waiting=None):
            pass
        process.kill()


def test_a_base_path_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to"), locked(tmp_path / "file", "n", waiting=None):
        pass
