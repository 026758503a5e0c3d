"""Containers' limits, read from made-up files of both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolo26_executorch.system import limits

GB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores and 64 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 64 * GB // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)


def group(root: Path, files: dict[str, str]) -> Path:
    """Write files below a made-up root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


V2 = {"proc/self/cgroup": "0::/"}
V1 = {"proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/\n3:cpuset:/\n1:name=systemd:/\n0::/"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({**V2, "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        ({**V2, "sys/fs/cgroup/cpu.max": "max 100000"}, 16),
        ({**V2, "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({**V2, "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({**V2, "sys/fs/cgroup/cpu.max": "6400000 100000"}, 16),
        ({**V2, "sys/fs/cgroup/cpuset.cpus.effective": "0-2,5"}, 4),
        ({**V2, "sys/fs/cgroup/cpuset.cpus": "", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({**V2, "sys/fs/cgroup/cpu.max": "800000 100000", "sys/fs/cgroup/cpuset.cpus.effective": "1-3"}, 3),
        ({**V1, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
          "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 16),
        ({**V1, "sys/fs/cgroup/cpuset/cpuset.cpus": "0-1"}, 2),
        # A job of a batch system: the limit lies in the group above the process' own.
        ({"proc/self/cgroup": "0::/slurm/job_1/step_0", "sys/fs/cgroup/slurm/job_1/cpu.max": "500000 100000",
          "sys/fs/cgroup/slurm/job_1/step_0/cpu.max": "max 100000"}, 5),
        # A container that is told its path outside and sees its own group's files alone.
        ({"proc/self/cgroup": "4:cpu,cpuacct:/docker/4f2a", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000",
          "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1),
        # What cannot be read limits nothing.
        ({**V2, "sys/fs/cgroup/cpu.max": "many", "sys/fs/cgroup/cpuset.cpus.effective": "all"}, 16),
        ({**V2, "sys/fs/cgroup/cpu.max": "100000 0"}, 16),
        ({"proc/self/cgroup": "0::/../../elsewhere", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    ],
)  # fmt: skip
def test_cores_are_the_containers(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert limits.cores(group(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, 64 * GB),
        ({**V2, "sys/fs/cgroup/memory.max": str(8 * GB)}, 8 * GB),
        ({**V2, "sys/fs/cgroup/memory.max": "max"}, 64 * GB),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GB)}, 4 * GB),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 64 * GB),
        ({"proc/self/cgroup": "0::/kubepods/pod1/box", "sys/fs/cgroup/kubepods/pod1/memory.max": str(2 * GB),
          "sys/fs/cgroup/kubepods/pod1/box/memory.max": str(3 * GB)}, 2 * GB),
        ({**V2, "sys/fs/cgroup/memory.max": "plenty"}, 64 * GB),
    ],
)  # fmt: skip
def test_memory_is_the_containers(tmp_path: Path, files: dict[str, str], memory: int) -> None:
    assert limits.memory_bytes(group(tmp_path, files)) == memory


def test_memory_is_not_known_where_nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", missing)
    assert limits.memory_bytes(tmp_path) is None


def test_affinity_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4}, raising=False)
    assert limits.cores(group(tmp_path, {**V2, "sys/fs/cgroup/cpu.max": "400000 100000"})) == 2
