"""The cluster that a command works with: joined or started, and what its machines have."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from ...artifacts.manifest import PLAIN_NAME
from ...errors import BackendError, UsageError, first_line
from ..child_process import GRACE_S
from ..scheduler import CORES_PER_CUDA_JOB
from . import node

CONNECT_S = 5.0
"""How long a cluster's address may take to answer."""
CPUS = {"cuda": CORES_PER_CUDA_JOB, "xnnpack": 2}
"""What an export asks for, where every machine that could do it has as many."""

_ACCELERATOR = "accelerator_type:"


@contextlib.contextmanager
def connect(address: str) -> Iterator[Resources]:
    """Join a cluster, or start one of this machine alone ("local"), which ends with the context.

    Args:
        address: "local", "auto" (the cluster that this machine is part of), HOST:PORT, or ray://HOST:PORT.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    # Read when Ray is imported or started: no usage reports; exports at the usual niceness, as without Ray; and one
    # long try to connect instead of twenty.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")
    else:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"--ray {address}: Ray is not installed ({first_line(error)}): pip install 'yolo26-executorch[ray]'"
        ) from error
    if ray.is_initialized():  # by whoever calls this, who ends it, too
        if address not in ("auto", here := ray.get_runtime_context().gcs_address):
            raise UsageError(f"--ray {address}: this process is connected to the cluster at {here}; name that one")
        yield Resources.of_cluster()
        return
    local = {"include_dashboard": False, "object_store_memory": 512 * 2**20} if address == "local" else {}
    try:
        _check_address(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except Exception as error:  # ValueError, ConnectionError, RuntimeError for other versions, classes of Ray's
        raise UsageError(
            f"--ray {address}: no such cluster can be joined ({first_line(error)}); `ray status` on its head node "
            "shows whether it runs, and --ray local starts one on this machine"
        ) from error
    # It prints on standard output what becomes of its workers, whatever its settings; `run` reports that itself.
    printing = ray._private.worker.print_to_stdstream
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield Resources.of_cluster()
    finally:
        ours = {process.pid for process in psutil.Process().children(recursive=True)} if address == "local" else set()
        ray.shutdown()
        ray._private.worker.print_to_stdstream = printing
        if address == "local":
            _clean_up(ours)


def _clean_up(ours: set[int]) -> None:
    """Wait for exports that are being ended with the cluster, and remove what those that were killed have left."""
    ending = []
    for pid, _ in node.scratch_folders():
        if pid in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                ending.append(psutil.Process(pid))
    psutil.wait_procs(ending, timeout=GRACE_S)
    node.remove_abandoned()


def _check_address(address: str) -> None:
    """Check that a server listens at an address; Ray itself would try for minutes. Raises OSError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


@dataclass(frozen=True)
class Resources:
    """What the machines of a cluster have, each a mapping of Ray's names to amounts ("CPU", "GPU", …)."""

    machines: tuple[Mapping[str, float], ...]

    @classmethod
    def of_cluster(cls) -> Resources:
        """Look at the cluster that this process is connected to."""
        import ray

        return cls(tuple(one["Resources"] for one in ray.nodes() if one["Alive"]))

    def resolve_backend(self, requested: str) -> tuple[str, str | None]:
        """Return the backend to export to, and a warning or None.

        Raises:
            BackendError: "cuda" was asked for, and no machine has a GPU.
        """
        if any(machine.get("GPU", 0) >= 1 for machine in self.machines):
            return ("cuda" if requested == "auto" else requested), None
        if requested == "cuda":
            raise BackendError(
                "--backend cuda: no machine of the Ray cluster has a GPU; add one, or export for CPUs with "
                "--backend xnnpack"
            )
        warning = "no machine of the Ray cluster has a GPU: exporting models for CPUs through XNNPACK"
        return "xnnpack", warning if requested == "auto" else None

    def architectures(self) -> tuple[str, ...]:
        """Return the kinds of GPU in the cluster, by Ray's names ("H100"), sorted.

        Raises:
            UsageError: there is none that has a name.
        """
        found = {
            name.removeprefix(_ACCELERATOR)
            for machine in self.machines
            for name in machine
            if machine.get("GPU", 0) >= 1 and name.startswith(_ACCELERATOR)
        }
        if not found or not all(map(PLAIN_NAME.fullmatch, found)):
            raise UsageError("--per-arch: no machine of the Ray cluster says what kind of GPU it has; leave it out")
        return tuple(sorted(found))

    def demand(self, backend: str, architecture: str | None = None) -> dict[str, Any]:
        """Return what one export asks for, as options of a Ray task; no more CPUs than each GPU's share of them."""
        gpus = 1 if backend == "cuda" else 0
        able = [machine for machine in self.machines if machine.get("GPU", 0) >= gpus and machine.get("CPU", 0) >= 1]
        shares = [int(machine["CPU"] / (machine["GPU"] if gpus else 1)) for machine in able]
        cpus = min([CPUS[backend], *shares])
        return {"num_cpus": cpus, "num_gpus": gpus, **({"accelerator_type": architecture} if architecture else {})}

    def can(self, demand: Mapping[str, Any]) -> bool:
        """Whether any machine has what an export asks for, busy or not."""
        wanted = {"CPU": demand["num_cpus"], "GPU": demand["num_gpus"]}
        if kind := demand.get("accelerator_type"):
            wanted[_ACCELERATOR + kind] = 0.001
        return any(all(has.get(name, 0) >= amount for name, amount in wanted.items()) for has in self.machines)
