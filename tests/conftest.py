from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from support.interpreter import Interpreter


def pytest_configure(config: pytest.Config) -> None:
    """Keep Ultralytics, here and in what the tests start, off the network, pip and the user's settings."""
    # A folder for each worker: Ultralytics writes its settings without a lock when it is first imported.
    settings = tempfile.TemporaryDirectory(prefix="yolo26-et-tests-")
    config.add_cleanup(settings.cleanup)
    os.environ |= {
        "YOLO_CONFIG_DIR": settings.name,
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        # Whichever test imports it first would find its greeting on standard output.
        "YOLO_VERBOSE": "false",
    }
    # Examples that are the same in each run, but for `make test-all`'s; how long one takes says how busy a machine is.
    hypothesis.settings.register_profile(
        "ours", deadline=None, database=None, derandomize="YOLO26_ET_TEST_SEED" not in os.environ, print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )  # fmt: skip
    hypothesis.settings.load_profile("ours")
    # A shell's background job (`make test &`) is deaf to Ctrl-C, and so would be what the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a module on one worker, so that what they share is made once."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(scope="session")
def interpret() -> Iterator[Interpreter]:
    """Start Triton's interpreter, once for each worker."""
    from support.interpreter import Interpreter

    with Interpreter() as run:
        yield run


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the artifact of a task's bundled checkpoint, for XNNPACK at 320×320, tested.

    Each is made once in a run of the tests, by whichever worker asks first. Nobody may change it.
    """
    base = tmp_path_factory.getbasetemp()
    # Workers have folders of their own below the run's.
    base = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"

    def get(task: str) -> Path:
        from filelock import FileLock

        base.mkdir(exist_ok=True)
        made = base / f"{task}.json"
        with FileLock(base / f"{task}.lock"):
            if not made.exists():
                made.write_text(json.dumps(_export(task, base)))
        record = json.loads(made.read_text())["record"]
        assert record["outcome"] == "exported", record["message"]
        return Path(record["folder"])

    return get


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Start a Ray cluster of two machines, each of one CPU and a made-up GPU, and connect to it; return its address.

    Tests that use it belong to the xdist group "ray", so that there is one in a run.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray
    from ray.cluster_utils import Cluster

    common = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80_000_000}
    head = {**common, "resources": {"accelerator_type:A100": 1}, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**common, resources={"accelerator_type:H100": 1})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def _export(task: str, base: Path) -> dict[str, Any]:
    """Export a bundled checkpoint; returns the worker's record and events."""
    from support import shapes_checkpoint
    from yolo26_executorch.exporter.jobs import Job
    from yolo26_executorch.exporter.pipeline import export_one
    from yolo26_executorch.models.checkpoints import find_sources
    from yolo26_executorch.models.options import ExportOptions

    [source] = find_sources([str(shapes_checkpoint(task))])
    job = Job(
        source, base, ExportOptions(imgsz=(320, 320)), None,
        test=True, skip_existing=False, trusted=False, command="yolo26-et export",
    )  # fmt: skip
    events: list[dict[str, Any]] = []
    return {"record": export_one(job, events.append).to_json(), "events": events}
