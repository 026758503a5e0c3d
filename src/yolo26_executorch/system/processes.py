"""What is asked of a process whatever it does."""

from __future__ import annotations

import sys

WITHOUT_HERE = "import sys; sys.path[:] = filter(None, sys.path)"
"""How a program for `python -c` begins so that nothing is imported from the folder that it is started in.

`python -P` does the same, from 3.11 on."""


def run_module(module: str, *words: str) -> tuple[str, ...]:
    """Return the command that runs a module, as `python -P -m` does, with `words` for its arguments."""
    run = f"{WITHOUT_HERE}; import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__')"
    return (sys.executable, "-c", run, module, *words)


def is_running(pid: int) -> bool:
    """Whether a process of this machine has not ended; one that has, and waits for its parent to notice, is over."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
