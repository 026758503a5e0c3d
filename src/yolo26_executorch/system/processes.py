"""What is asked of a process whatever it does."""

from __future__ import annotations


def is_running(pid: int) -> bool:
    """Whether a process of this machine has not ended; one that has, and waits for its parent to notice, is over."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
