from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from support import wait_for
from yolo26_executorch.system.processes import is_running, run_module


def test_who_runs_and_who_does_not() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    try:
        assert is_running(os.getpid())
        assert is_running(child.pid)
        child.kill()
        # Ended, and nobody has asked how.
        wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "its end")
        assert not is_running(child.pid)
    finally:
        child.kill()
        child.wait()
    assert not is_running(child.pid)


def test_a_module_is_run_without_the_folder_it_is_started_in(tmp_path: Path) -> None:
    """In which the user may have a `json.py`, or a folder named `torch`."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "said.py").write_text("import json, sys; print(__name__, sys.argv[1:], json.loads('1'))")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "elsewhere")}
    command = run_module("said", "a", "b")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("__main__ ['a', 'b'] 1\n", "")
