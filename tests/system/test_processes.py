from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

from yolo26_executorch.system.processes import is_running


def test_who_runs_and_who_does_not() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        assert is_running(os.getpid())
        assert is_running(child.pid)
        child.kill()
        deadline = time.monotonic() + 20
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:  # ended, and nobody has asked how
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not is_running(child.pid)
    finally:
        child.kill()
        child.wait()
    assert not is_running(child.pid)
