"""Exports spread over a cluster by Ray, with the events, limits and records of those on one machine (`scheduler`).

    connection  joins or starts a cluster, and says what its machines have
    driver      hands out tasks, shows their events, brings what they made to its place
    node        one export on whichever machine Ray chose, in a scratch folder, by `scheduler` and its worker process
    stores      where artifacts go: a folder here, or any place that fsspec can write to

Ray schedules, carries checkpoints there and artifacts back, and starts again elsewhere what a machine took with it. The
package must be installed on every machine of the cluster.
"""

from __future__ import annotations

from .connection import Resources, connect
from .driver import run
from .stores import Store, open_store

__all__ = ["Resources", "Store", "connect", "open_store", "run"]
