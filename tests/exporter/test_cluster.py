from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import pytest

from support import CHECKPOINTS, PATIENCE_S, make_manifest, network, publish, save_checkpoint, wait_for
from support.stub_worker import PREAMBLE
from yolo26_executorch.artifacts.locks import locked
from yolo26_executorch.artifacts.manifest import MANIFEST, PROGRAM
from yolo26_executorch.artifacts.reading import verify
from yolo26_executorch.cli import main
from yolo26_executorch.errors import ArtifactError, BackendError, UsageError
from yolo26_executorch.exporter import cluster, scheduler
from yolo26_executorch.exporter.child_process import LOGS
from yolo26_executorch.exporter.cluster import driver, node
from yolo26_executorch.exporter.cluster.connection import Resources
from yolo26_executorch.exporter.jobs import Job, Record
from yolo26_executorch.models.checkpoints import find_sources
from yolo26_executorch.models.options import ExportOptions

NAMES = ("yolo26n", "yolo26s", "yolo26m")
OPTIONS = ExportOptions(random_weights=True, seed=3)
TEST = {"latency_ms": {"p50": 1.25}, "largest": {"value": 1e-6, "unit": "px"}}

GOOD = """
say(event="stage", stage="load")
say(event="stage", stage="lower")
made(name)
record(seconds={"load": 1.0}, folder=job["base_path"])
"""

Stub = Callable[[str], list[str]]
Events = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """Return a function that makes a worker's command from what it does with `job`, `say`, `record` and `made`.

    `made(name)` puts a made-up artifact of that name where the job wants it.
    """
    for backend in ("xnnpack", "cuda"):
        for name in NAMES:
            options = dataclasses.replace(OPTIONS, backend=backend)
            manifest = make_manifest(name=name, variant=name, backend=backend, options=options, test=TEST)
            publish(tmp_path / "made" / backend, manifest)
    helpers = """
import shutil
def made(name):
    source = here / "made" / job["options"]["backend"] / name
    return pathlib.Path(shutil.copytree(source, pathlib.Path(job["base_path"]) / name))
"""

    def make(body: str) -> list[str]:
        path = tmp_path / "stub.py"
        path.write_text(PREAMBLE + helpers + textwrap.dedent(body))
        return [sys.executable, "-S", str(path)]

    return make


def job(name: str = "yolo26n", **changes: Any) -> Job:
    (source,) = find_sources([name])
    given = Job(
        source, Path(), OPTIONS, None, test=True, skip_existing=False, trusted=False, command="yolo26-et export"
    )
    return dataclasses.replace(given, **changes)


def run(base: Path | str, worker: list[str] | None, *jobs: Job, **options: Any) -> tuple[list[Record], Events]:
    events: Events = []
    store = cluster.open_store(base)
    listen = options.pop("listen", lambda name, event: None)

    def on_event(name: str, event: scheduler.Event) -> None:
        events.append((name, dict(event)))
        listen(name, event)

    records = cluster.run(jobs or [job()], store=store, on_event=on_event, worker=worker, **options)
    return records, events


def kinds(events: Events, name: str) -> list[str]:
    return [event["event"] for label, event in events if label == name]


def hidden(base: Path) -> list[str]:
    return [p.name for p in base.iterdir() if p.name.startswith(".") and p.name != LOGS and p.suffix != ".lock"]


def scratch_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("yolo26-et-ray-*"))


# --- With two machines ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
class TestTwoMachines:
    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, ray_cluster: str) -> None:
        self.address = ray_cluster

    def test_a_worker_killed_in_the_middle_costs_nothing(
        self, tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        worker = stub("""
            say(event="stage", stage="load")
            if name == "yolo26s" and not (here / "killed").exists():
                (here / "pid").write_text(str(os.getppid()))
                say(event="stage", stage="lower")
                time.sleep(600)
            made(name)
            record(seconds={"load": 1.0})
        """)

        def killing_run(*jobs: Any, on_event: Any, **options: Any) -> list[Record]:
            def listen(name: str, event: scheduler.Event) -> None:
                on_event(name, event)
                if event.get("stage") == "lower":
                    (tmp_path / "killed").touch()
                    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

            return run_on_cluster(*jobs, on_event=listen, worker=worker, **options)

        run_on_cluster = cluster.run
        monkeypatch.setattr(cluster, "run", killing_run)
        out = tmp_path / "out"
        words = ["--models", *NAMES, "--backend", "xnnpack", "--random-weights", "--base-path", str(out)]
        assert main(["export", "--ray", self.address, *words]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "yolo26s: failed: the cluster lost its worker; trying again in 0 s" in captured.out
        assert "3 exported · xnnpack" in captured.out
        for name in NAMES:
            assert verify(out / name).name == name
        assert hidden(out) == []
        report = json.loads((out / "report.json").read_text())
        assert report["options"]["ray"] == self.address
        assert [record["attempts"] for record in report["records"]] == [1, 2, 1]
        assert report["records"][1]["folder"] == str(out / "yolo26s")

    def test_two_at_a_time_with_their_events(self, tmp_path: Path, stub: Stub) -> None:
        worker = stub(f"""
            (here / name).touch()
            while len([*here.glob("yolo26*")]) < 2:
                time.sleep(0.02)
            say(event="answer", lines=["4 persons"])
            {textwrap.indent(GOOD, " " * 12).strip()}
        """)
        before = scratch_folders()
        records, events = run(tmp_path / "out", worker, job("yolo26n"), job("yolo26s"))
        assert [(made.name, made.outcome) for made in records] == [("yolo26n", "exported"), ("yolo26s", "exported")]
        for made in records:
            assert kinds(events, made.name) == ["start", "answer", "stage", "stage", "record"]
            assert (made.device, made.attempts) == (socket.gethostname(), 1)
            assert made.folder == str(tmp_path / "out" / made.name)
        assert Record.from_json(events[-1][1]["record"]) in records
        assert not (tmp_path / "out" / LOGS).exists()
        assert scratch_folders() == before

    def test_a_failure_brings_its_log(self, tmp_path: Path, stub: Stub) -> None:
        worker = stub("""
            say(event="stage", stage="compile")
            print("ptxas: what it said", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        """)
        (made,), _ = run(tmp_path / "out", worker)
        log = tmp_path / "out" / LOGS / "yolo26n.log"
        assert (made.outcome, made.stage, made.folder) == ("failed", "compile", None)
        assert made.message is not None
        assert "SIGSEGV" in made.message
        assert f"(all of it: {log})" in made.message
        assert "ptxas: what it said" in log.read_text()
        assert not (tmp_path / "out" / "yolo26n").exists()

    def test_who_dies_again_and_again_is_given_up(self, tmp_path: Path, stub: Stub) -> None:
        worker = stub("""
            say(event="stage", stage="load")
            time.sleep(0.3)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        """)
        (made,), events = run(tmp_path / "out", worker, retries=1)
        assert made.outcome == "failed"
        assert made.message is not None
        assert made.message.startswith("the cluster lost its worker")
        assert kinds(events, "yolo26n").count("retry") == 1

    def test_what_was_changed_on_the_way_is_refused(self, tmp_path: Path, stub: Stub) -> None:
        out = tmp_path / "out"
        former = publish(out, make_manifest())
        before = {path.name: path.read_bytes() for path in former.iterdir()}
        (made,), _ = run(out, stub(f"(made(name) / '{PROGRAM}').write_bytes(b'PROGRAM'); record()"))
        assert (made.outcome, made.stage) == ("failed", "write")
        assert made.message is not None
        assert "was changed" in made.message
        assert {path.name: path.read_bytes() for path in former.iterdir()} == before
        assert hidden(out) == []

    def test_a_real_export_of_a_checkpoint_of_ones_own_to_a_url(self, tmp_path: Path) -> None:
        url = f"memory://{tmp_path.name}"
        own = save_checkpoint(tmp_path / "mine.pt", network("yolo26n-cls.yaml", {0: "circle", 1: "square"}))
        words = ["--models", str(own), "--imgsz", "native", "--backend", "xnnpack", "--skip-existing", "--no-test"]
        words += ["--base-path", url, "--ray", self.address, "--report", str(tmp_path / "report.json")]
        assert main(["export", *words]) == 0
        fsspec.filesystem("memory").get(url, str(tmp_path / "got"), recursive=True)
        manifest = verify(tmp_path / "got" / own.stem)
        assert (manifest.checkpoint.origin, manifest.checkpoint.file) == ("user", own.name)
        (record,) = json.loads((tmp_path / "report.json").read_text())["records"]
        assert (record["outcome"], record["folder"]) == ("exported", f"{url}/{own.stem}")
        assert main(["export", *words]) == 0
        (record,) = json.loads((tmp_path / "report.json").read_text())["records"]
        assert (record["outcome"], set(record["files"])) == ("skipped", set(manifest.files))

    def test_another_checkpoints_artifact_is_not_replaced(self, tmp_path: Path, stub: Stub) -> None:
        """One that came there meanwhile, or was found to be another only where the weights were downloaded."""
        out, worker = tmp_path / "out", stub(GOOD)
        former = make_manifest(backend="xnnpack", checkpoint=dataclasses.replace(CHECKPOINTS["random"], seed=4))
        publish(out, former)
        (made,), _ = run(out, worker)
        assert (made.outcome, made.stage) == ("failed", "write")
        assert "random weights of seed 4; this one: random weights of seed 3" in str(made.message)
        assert verify(out / "yolo26n").checkpoint.seed == 4
        (made,), _ = run(out, worker, job(force=True))
        assert made.outcome == "exported"
        assert verify(out / "yolo26n").checkpoint.seed == 3

    def test_one_for_each_kind_of_gpu(self, tmp_path: Path, stub: Stub) -> None:
        out = tmp_path / "out"
        cuda = job(options=dataclasses.replace(OPTIONS, backend="cuda"))
        resources = Resources.of_cluster()
        assert resources.resolve_backend("auto") == ("cuda", None)
        records, events = run(out, stub(GOOD), cuda, architectures=resources.architectures())
        assert [made.name for made in records] == ["A100/yolo26n", "H100/yolo26n"]
        assert {made.device for made in records} == {f"{socket.gethostname()}:0"}
        for made in records:
            assert made.folder == str(out / made.name)
            assert verify(out / made.name).backend == "cuda"
            assert kinds(events, made.name)[0] == "start"

    def test_a_machine_without_cuda_says_what_it_lacks(self, tmp_path: Path) -> None:
        (made,), _ = run(tmp_path / "out", None, job(options=dataclasses.replace(OPTIONS, backend="cuda")))
        assert made.outcome == "failed"
        assert made.message is not None
        assert made.message.startswith(f"{socket.gethostname()} cannot do it: ")

    def test_skipping_what_is_there(self, tmp_path: Path, stub: Stub) -> None:
        out = tmp_path / "out"
        worker = stub(GOOD)
        run(out, worker)
        again = job(skip_existing=True)
        (made,), events = run(out, worker, again)
        assert (made.outcome, made.latency_ms, made.folder) == ("skipped", 1.25, str(out / "yolo26n"))
        assert kinds(events, "yolo26n") == ["start", "record"]
        (out / "yolo26n" / PROGRAM).write_bytes(b"damaged")
        (made,), _ = run(out, worker, again)
        assert made.outcome == "exported"

    @pytest.mark.parametrize("test", [{}, {"latency_ms": None}, {"latency_ms": {"p99": 1.0}, "largest": {}}])
    def test_skipping_what_lacks_figures(self, tmp_path: Path, stub: Stub, test: dict[str, Any]) -> None:
        """A manifest that another program wrote, or changed: it is no reason for the driver to end."""
        out = tmp_path / "out"
        options = dataclasses.replace(OPTIONS, imgsz=(640, 640))
        publish(out, make_manifest(backend="xnnpack", options=options, test=test))
        records, _ = run(out, stub(GOOD), job(skip_existing=True), job("yolo26s"))
        assert [made.outcome for made in records] == ["skipped", "exported"]
        assert (records[0].latency_ms, records[0].largest_error, records[0].test) == (None, None, test)

    def test_a_place_that_somebody_else_has(self, tmp_path: Path, stub: Stub) -> None:
        out, worker = tmp_path / "out", stub(GOOD)
        with locked(out, "yolo26n", waiting=None):
            (made,), _ = run(out, worker, job(wait=False))
        assert made.outcome == "failed"
        assert made.message is not None
        assert "is being exported by process" in made.message

        held = locked(out, "yolo26n", waiting=None)
        held.__enter__()
        release = lambda name, event: held.__exit__(None, None, None) if event["event"] == "wait" else None  # noqa: E731
        (made,), events = run(out, worker, listen=release)
        assert made.outcome == "exported"
        assert kinds(events, "yolo26n")[:2] == ["start", "wait"]

    def test_what_no_machine_is_left_for_does_not_wait_for_ever(
        self, tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Resources, "can", lambda *_: False)
        monkeypatch.setattr(driver, "PATIENCE_S", 0.3)
        monkeypatch.setattr(driver, "_LOOK_S", 0.1)
        (made,), _ = run(tmp_path / "out", stub("time.sleep(600)"))
        message = "no machine of the cluster is left that could do it (num_cpus 1, num_gpus 0)"
        assert (made.outcome, made.message) == ("failed", message)

    def test_a_machine_that_saw_its_worker_killed_first_does_not_guess_why(
        self, tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = stub("""
            (here / "part").write_text(str(os.getpid()))
            (here / "part").rename(here / "pid")
            time.sleep(600)
        """)
        pid = tmp_path / "pid"

        def kill_the_worker_alone(*_: object, **__: object) -> None:
            if pid.exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid.read_text()), signal.SIGKILL)

        monkeypatch.setattr(Resources, "can", lambda *_: not pid.exists())
        monkeypatch.setattr(driver._Driver, "_cancel", kill_the_worker_alone)
        monkeypatch.setattr(driver, "PATIENCE_S", 0.3)
        monkeypatch.setattr(driver, "_LOOK_S", 0.1)
        (made,), _ = run(tmp_path / "out", worker)
        assert made.outcome == "failed"
        assert made.message is not None
        assert made.message.startswith("no machine of the cluster is left")

    def test_an_error_of_the_listener_leaves_nothing_behind(self, tmp_path: Path, stub: Stub) -> None:
        worker = stub("""
            (here / "pid").write_text(str(os.getpid()))
            say(event="stage", stage="load")
            time.sleep(600)
        """)

        def listen(name: str, event: scheduler.Event) -> None:
            if event["event"] == "stage":
                raise BrokenPipeError

        with pytest.raises(BrokenPipeError):
            run(tmp_path / "out", worker, listen=listen)
        wait_for(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())), "the worker's end")
        assert hidden(tmp_path / "out") == []


# --- A cluster of this machine, started and stopped by the command ----------------------------------------------------

SCRIPT = """
import functools, sys
from yolo26_executorch.exporter import cluster
from yolo26_executorch.cli import main
cluster.run = functools.partial(cluster.run, worker={worker!r})
sys.exit(main(["export", "--ray", "local", "--models", "yolo26n", "--backend", "xnnpack", "--random-weights",
    "--base-path", {out!r}]))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_an_interruption_ends_everything(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        say(event="stage", stage="load")
        first = not (here / "first").exists()
        (here / "new").write_text(f"{os.getppid()} {os.getpid()}")
        (here / "new").rename(here / ("first" if first else "second"))
        time.sleep(600)
    """)
    script = SCRIPT.format(worker=worker, out=str(tmp_path / "out"))
    before = scratch_folders()
    shown = tmp_path / "shown"
    with shown.open("w") as file:
        command = subprocess.Popen(
            [sys.executable, "-c", script], stdout=file, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    try:
        wait_for((tmp_path / "first").exists, "the export")
        os.kill(int((tmp_path / "first").read_text().split()[0]), signal.SIGKILL)
        wait_for(lambda: "trying again" in shown.read_text() and (tmp_path / "second").exists(), "another try")
        children = psutil.Process(command.pid).children(recursive=True)
        assert len(children) > 2
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does
        _, err = command.communicate(timeout=PATIENCE_S)
    finally:
        command.kill()
        command.communicate()
    assert (command.returncode, err) == (130, "")
    out = shown.read_text()
    said = [line.partition(": ")[2] for line in out.splitlines() if line.startswith("20")]
    assert said[0].startswith("load, stage 1 of ")
    assert "failed: the cluster lost its worker; trying again in 0 s" in said
    assert "1 interrupted · xnnpack" in out
    assert "raylet" not in out
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert alive == []
    assert not any(psutil.pid_exists(int(pid)) for pid in (tmp_path / "second").read_text().split())
    assert hidden(tmp_path / "out") == []
    assert scratch_folders() <= before  # the killed try's, too


def test_what_killed_exports_left_is_removed() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    zombie = subprocess.Popen([sys.executable, "-c", ""])  # ended, and nobody has asked how
    wait_for(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE, "its end")
    with contextlib.ExitStack() as stack:
        folders = {
            pid: Path(tempfile.mkdtemp(prefix=f"{node._prefix()}{pid}-"))
            for pid in (ended.pid, zombie.pid, os.getpid())
        }
        for folder in folders.values():
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            (folder / "part").write_text("of an artifact")
        assert {*folders.items()} <= {*node.scratch_folders()}
        node.remove_abandoned()
        assert [pid for pid, folder in folders.items() if folder.exists()] == [os.getpid()]
    zombie.wait()


# --- What is refused before any work ----------------------------------------------------------------------------------


def export(out: Path | str, *words: str) -> int:
    return main(["export", "--base-path", str(out), "--models", "yolo26n", "--random-weights", *words])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("yolo26-et: error: ")
    return line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--per-arch",), "--per-arch: expected with --ray"),
        (("--ray", "local", "--devices", "0"), "--devices 0: on a cluster Ray chooses the GPUs"),
    ],
)
def test_flags_that_do_not_go_together(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "out", *words) == 2
    assert said in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_a_url_needs_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert export("s3://bucket/folder") == 2
    assert "--base-path s3://bucket/folder: a URL needs --ray" in error_of(capsys)


def test_nobody_at_the_address_is_said_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have connected this process
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was asked, which tries again for a minute"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert export(tmp_path / "out", "--ray", address) == 2
    assert f"--ray {address}: no such cluster can be joined (Connection refused)" in error_of(capsys)


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert export(tmp_path / "out", "--ray", "local") == 2
    assert "pip install 'yolo26-executorch[ray]'" in error_of(capsys)


def machines(*given: dict[str, float]) -> Resources:
    return Resources(given)


def test_the_backend_is_the_clusters() -> None:
    cpus, gpus = machines({"CPU": 4}), machines({"CPU": 4}, {"CPU": 8, "GPU": 2})
    assert gpus.resolve_backend("auto") == ("cuda", None)
    assert gpus.resolve_backend("xnnpack") == ("xnnpack", None)
    backend, warning = cpus.resolve_backend("auto")
    assert backend == "xnnpack"
    assert warning is not None
    assert cpus.resolve_backend("xnnpack") == ("xnnpack", None)
    with pytest.raises(BackendError, match="no machine of the Ray cluster has a GPU"):
        cpus.resolve_backend("cuda")


def test_what_an_export_asks_for() -> None:
    cluster = machines({"CPU": 64}, {"CPU": 16, "GPU": 8, "accelerator_type:H100": 1})
    assert cluster.demand("xnnpack") == {"num_cpus": 2, "num_gpus": 0}
    assert cluster.demand("cuda", "H100") == {"num_cpus": 2, "num_gpus": 1, "accelerator_type": "H100"}
    assert machines({"CPU": 1}, {"CPU": 8}).demand("xnnpack") == {"num_cpus": 1, "num_gpus": 0}
    assert cluster.can(cluster.demand("cuda", "H100"))
    assert not cluster.can(cluster.demand("cuda", "A100"))
    assert not machines({"CPU": 64}).can(cluster.demand("cuda"))
    assert cluster.architectures() == ("H100",)
    with pytest.raises(UsageError, match="says what kind of GPU"):
        machines({"CPU": 64, "GPU": 1}).architectures()


@pytest.mark.parametrize("url", ["nonsense://place", "memory://"])
def test_a_place_that_cannot_be_written_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no credentials")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(UsageError, match=f"--base-path {url}"):
        cluster.open_store(url).prepare(["yolo26n"])


def test_a_store_that_loses_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path, make_manifest(backend="xnnpack"))
    files = {path.name: np.fromfile(path, np.uint8) for path in folder.iterdir()}
    store = cluster.open_store(f"memory://{tmp_path.name}")
    assert store.publish("yolo26n", files) == store.there("yolo26n")
    memory = fsspec.filesystem("memory")
    uploaded: list[str] = []
    put = memory.put_file

    def lose(source: str, target: str, **more: Any) -> None:
        uploaded.append(target.rpartition("/")[2])
        assert not memory.exists(f"/{tmp_path.name}/yolo26n/{MANIFEST}")
        put(source, target, **more)
        if target.endswith(PROGRAM):
            memory.pipe_file(target, b"")

    monkeypatch.setattr(type(memory), "put_file", staticmethod(lose))
    with pytest.raises(ArtifactError, match="does not hold what was written"):
        store.publish("yolo26n", files)
    assert uploaded[-1] == MANIFEST
    assert store.there("yolo26n") is None


def test_an_artifact_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    store = cluster.open_store(tmp_path / "out")
    with pytest.raises(ArtifactError, match="came from the cluster"):
        store.publish("yolo26n", {"../evil": np.zeros(1, np.uint8)})
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]
