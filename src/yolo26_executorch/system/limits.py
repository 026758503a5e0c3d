"""The cores and the memory that this process may use: the machine's, less what a container keeps from it.

Containers limit by control groups, of version 1 (a hierarchy for each controller) or 2 (one for all); see the kernel's
documentation, admin-guide/cgroup-v1 and admin-guide/cgroup-v2. A group's parents limit it, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, whole ones, 1 or more.

    Args:
        root: where the system's files lie.
    """
    known = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for group in _groups(root, "cpu"):
        known += _quota(group)
    for group in _groups(root, "cpuset"):
        known += _first(group, ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"), _count)
    return max(1, min(known))


def memory_bytes(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that this process may use; None where they are not known.

    Args:
        root: where the system's files lie.
    """
    known: list[int] = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for group in _groups(root, "memory"):
        # Version 1 writes no limit as a number near 2^63, which the machine's own memory undercuts.
        known += _first(group, ("memory.max", "memory.limit_in_bytes"), int)
    return min(known, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the group that limits this process, and of its parents."""
    mounted = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if names and controller not in names.split(","):
                continue
            for hierarchy in (mounted / names, mounted / controller) if names else (mounted, mounted / "unified"):
                # A container may see the group's path outside and nothing but its own group's files.
                group = hierarchy / path.strip("/")
                folders = [group, *group.parents] if ".." not in group.parts else []
                yield from (folder for folder in folders if folder.is_relative_to(hierarchy) and folder.is_dir())
                if hierarchy.is_dir():
                    yield hierarchy


def _quota(group: Path) -> list[int]:
    """Return the cores' worth of time that a group may use, rounded down: more threads would be held up."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return [int(quota) // int(period)] if quota != "max" else []
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((group / f"cpu.cfs_{kind}_us").read_text() for kind in ("quota", "period"))
        return [int(quota) // int(period)] if int(quota) > 0 else []
    return []


def _first(group: Path, names: tuple[str, ...], read: Callable[[str], int]) -> list[int]:
    """Return what the first of some files says; nothing where none does, or says "max"."""
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            if text := (group / name).read_text().strip():
                return [read(text)]
    return []


def _count(ranges: str) -> int:
    """Count a list such as "0-3,8": 5."""
    ends = [part.split("-") for part in ranges.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
