from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support import PATIENCE_S, wait_for
from support.stub_worker import PREAMBLE
from yolo26_executorch.exporter import export_process, scheduler
from yolo26_executorch.exporter.export_process import ExportProcess, Limits
from yolo26_executorch.exporter.jobs import Job, Record
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.variants import VARIANTS
from yolo26_executorch.system.processes import is_running

Stub = Callable[[str], list[str]]


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """Return a function that makes a worker's command from what it does with `job`, `say` and `record`."""

    def make(body: str) -> list[str]:
        path = tmp_path / "stub.py"
        path.write_text(PREAMBLE + textwrap.dedent(body))
        return [sys.executable, "-S", str(path)]

    return make


def job(tmp_path: Path, name: str = "yolo26n") -> Job:
    return Job(
        source=Source(name, VARIANTS.get(name), None),
        base_path=tmp_path / "out",
        options=ExportOptions(),
        weights_dir=None,
        test=True,
        skip_existing=False,
        trusted=False,
        command="yolo26-et export",
    )


def run(
    tmp_path: Path, worker: list[str], names: tuple[str, ...] = ("yolo26n",), **options: Any
) -> tuple[list[Record], list[tuple[str, dict[str, Any]]]]:
    events: list[tuple[str, dict[str, Any]]] = []
    records = scheduler.run(
        [job(tmp_path, name) for name in names],
        parallel=options.pop("parallel", 1),
        on_event=lambda name, event: events.append((name, dict(event))),
        worker=worker,
        **options,
    )
    return records, events


def test_events_and_record_of_a_good_worker(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        say(event="stage", stage="load")
        say(event="stage", stage="test")
        say(event="answer", lines=["4 persons"])
        record(seconds={"load": 1.5, "test": 0.5}, files={"model.pte": 1000000}, latency_ms=2.5,
               largest_error={"value": 1e-6, "unit": "px"}, folder="out/yolo26n", test={"ok": True})
    """)
    records, events = run(tmp_path, worker)
    (made,) = records
    assert made.outcome == "exported"
    assert (made.total_s, made.size_mb, made.latency_ms) == (2.0, 1.0, 2.5)
    assert [(name, event["event"]) for name, event in events] == [
        ("yolo26n", kind) for kind in ("start", "stage", "stage", "answer", "record")
    ]
    assert events[1][1]["stage"] == "load"
    assert events[3][1]["lines"] == ["4 persons"]
    assert Record.from_json(events[-1][1]["record"]) == made
    assert not (tmp_path / "out" / scheduler.LOGS).exists()


def test_the_job_reaches_the_worker_whole(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        (here / "got.json").write_text(json.dumps(job))
        record()
    """)
    run(tmp_path, worker)
    assert Job.from_json(json.loads((tmp_path / "got.json").read_text())) == job(tmp_path)


def test_a_failure_in_words_is_taken_as_it_is_and_its_log_kept(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        print("what the library said", file=sys.stderr)
        record("failed", stage="compile", message="the GPU's memory ran out")
    """)
    (made,), _ = run(tmp_path, worker)
    assert (made.outcome, made.stage, made.message) == ("failed", "compile", "the GPU's memory ran out")
    assert "library said" in (tmp_path / "out" / scheduler.LOGS / "yolo26n.log").read_text()


def test_logs_of_good_workers_are_kept_on_demand(tmp_path: Path, stub: Stub) -> None:
    run(tmp_path, stub("print('noise', file=sys.stderr); record()"), keep_logs=True)
    assert (tmp_path / "out" / scheduler.LOGS / "yolo26n.log").read_text() == "noise\n"


def test_a_crash_fails_one_variant_and_says_where(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        say(event="stage", stage="lower")
        if name == "yolo26s":
            said = "\\x1b[31mfirst\\x1b[0m\\n\\nsecond\\n  ^^^^\\nthird\\nassertion failed: x > 0"
            print(said, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        record()
    """)
    records, _ = run(tmp_path, worker, ("yolo26n", "yolo26s", "yolo26m"))
    assert [made.outcome for made in records] == ["exported", "failed", "exported"]
    crashed = records[1]
    assert crashed.stage == "lower"
    assert crashed.task == "detect"
    assert crashed.message is not None
    assert "its process crashed (SIGSEGV)" in crashed.message
    assert "second | third | assertion failed: x > 0" in crashed.message
    assert "yolo26s.log" in crashed.message
    assert crashed.message.isprintable()


def test_killed_by_the_kernel_says_what_to_try(tmp_path: Path, stub: Stub) -> None:
    (made,), _ = run(tmp_path, stub("os.kill(os.getpid(), signal.SIGKILL)"))
    assert made.outcome == "failed"
    assert made.message is not None
    assert "memory ran out" in made.message
    assert "--jobs 1" in made.message
    assert "before its first stage" in made.message


def test_a_traceback_becomes_its_last_lines(tmp_path: Path, stub: Stub) -> None:
    (made,), _ = run(tmp_path, stub("raise ValueError('no such thing')"))
    assert made.message is not None
    assert "with status 1 and no record" in made.message
    assert "ValueError: no such thing" in made.message


def test_a_silent_exit_is_a_failure(tmp_path: Path, stub: Stub) -> None:
    (made,), events = run(tmp_path, stub(""))
    assert made.outcome == "failed"
    assert made.message == "its process ended before its first stage with status 0 and no record"
    assert [event["event"] for _, event in events] == ["start", "record"]


@pytest.mark.parametrize(
    "said",
    [
        '{"event": "record", "record": {"name": "yolo26n"}}',
        '{"event": "record", "record": {"name": "n", "backend": "b", "precision": "p", "outcome": "fine"}}',
        '{"event": "record", "record": 7}',
        '{"event": "record"}',
        '{"event": "answer", "lines": 3}',
        '{"event": "party"}',
        "[1, 2",
        "null",
        "\\xff\\xfe",
    ],
)
def test_garbage_is_no_event_and_lands_in_the_log(tmp_path: Path, stub: Stub, said: str) -> None:
    worker = stub(f"""
        sys.stdout.buffer.write(b'{said}\\n')
        sys.stdout.flush()
    """)
    (made,), events = run(tmp_path, worker)
    assert made.outcome == "failed"
    assert [event["event"] for _, event in events] == ["start", "record"]
    assert (tmp_path / "out" / scheduler.LOGS / "yolo26n.log").stat().st_size > 0


def test_garbage_around_events_does_no_harm(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        sys.stdout.write("Downloading… 100%\\n\\n")
        say(event="stage", stage="load")
        sys.stdout.write("x" * 200_000 + "\\n")
        record()
        sys.stdout.write("bye")
    """)
    (made,), events = run(tmp_path, worker)
    assert made.outcome == "exported"
    assert [event["event"] for _, event in events] == ["start", "stage", "record"]


def test_a_record_counts_though_the_process_crashes_afterwards(tmp_path: Path, stub: Stub) -> None:
    (made,), _ = run(tmp_path, stub("record(); os.kill(os.getpid(), signal.SIGSEGV)"))
    assert made.outcome == "exported"


def test_a_record_without_a_last_newline_counts(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        sys.stdout.write(json.dumps({"event": "record", "record": {"name": name, "variant": name, "task": None,
            "backend": "xnnpack", "precision": "tf32", "outcome": "skipped"}}))
    """)
    (made,), _ = run(tmp_path, worker)
    assert made.outcome == "skipped"


def test_a_worker_that_cannot_start_is_a_failure(tmp_path: Path) -> None:
    (made,), _ = run(tmp_path, [str(tmp_path / "no-such-program")])
    assert made.outcome == "failed"
    assert made.message is not None
    assert "could not start" in made.message


def test_a_worker_that_never_reads_its_job_does_no_harm(tmp_path: Path) -> None:
    (made,), _ = run(tmp_path, [sys.executable, "-S", "-c", "import os; os.close(0)"])
    assert made.outcome == "failed"


def test_closing_standard_output_early_is_not_the_end(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        record()
        os.close(1)
        time.sleep(0.5)
        (here / "done").touch()
        os._exit(0)
    """)
    (made,), _ = run(tmp_path, worker)
    assert made.outcome == "exported"
    assert (tmp_path / "done").exists()


def test_what_a_worker_leaves_behind_is_ended_and_not_waited_for(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        child = subprocess.Popen(["sh", "-c", f"sleep 600; touch {here}/waited_for"])
        (here / "pid").write_text(str(child.pid))
        record()
        os._exit(0)
    """)
    (made,), _ = run(tmp_path, worker)
    assert made.outcome == "exported"
    assert not (tmp_path / "waited_for").exists()
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(pid), "the child's end")


def test_workers_run_side_by_side(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        (here / name).touch()
        while len([*here.glob("yolo26*")]) < 2:
            time.sleep(0.02)
        record()
    """)
    records, _ = run(tmp_path, worker, ("yolo26n", "yolo26s"), parallel=2)
    assert [made.outcome for made in records] == ["exported", "exported"]


def test_workers_run_one_by_one(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        lock = here / "lock"
        lock.touch(exist_ok=False)
        time.sleep(0.1)
        lock.unlink()
        record()
    """)
    records, events = run(tmp_path, worker, ("yolo26n", "yolo26s", "yolo26m"))
    assert [made.name for made in records] == ["yolo26n", "yolo26s", "yolo26m"]
    assert all(made.ok for made in records)
    assert [name for name, _ in events] == ["yolo26n"] * 2 + ["yolo26s"] * 2 + ["yolo26m"] * 2


def test_an_error_of_the_listener_leaves_no_worker_behind(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        (here / "pid").write_text(str(os.getpid()))
        say(event="stage", stage="load")
        time.sleep(600)
    """)

    def listen(name: str, event: scheduler.Event) -> None:
        if event["event"] == "stage":
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        scheduler.run([job(tmp_path)], parallel=1, on_event=listen, worker=worker)
    assert not is_running(int((tmp_path / "pid").read_text()))


SCRIPT = """
import json, os
from yolo26_executorch.exporter import child_process, export_process, scheduler
from yolo26_executorch.exporter.jobs import Job
child_process.GRACE_S = {grace}
if files := {until!r}:
    class time:
        monotonic = staticmethod(lambda: 3600.0 * all(map(os.path.exists, files)))
    export_process.time = time
records = scheduler.run([Job.from_json(job) for job in json.loads({jobs!r})], parallel=2,
    on_event=lambda name, event: None, worker={worker!r})
print(json.dumps([record.to_json() for record in records]))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that runs three jobs, two at a time, in a process of their own."""
    started: list[subprocess.Popen[str]] = []

    def make(worker: list[str], grace: float = 600, until: Sequence[Path] = ()) -> subprocess.Popen[str]:
        """Where files are given, an hour goes by when they are there, and no time before or after that."""
        jobs = json.dumps([job(tmp_path, name).to_json() for name in ("yolo26s", "yolo26x", "yolo26m")])
        script = SCRIPT.format(jobs=jobs, grace=grace, worker=worker, until=[*map(str, until)])
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield make
    for process in started:
        process.kill()
        process.communicate()


def outcomes(process: subprocess.Popen[str]) -> dict[str, tuple[str, str | None]]:
    output, _ = process.communicate(timeout=PATIENCE_S)
    return {data["name"]: (data["outcome"], data["stage"]) for data in json.loads(output)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_workers_and_their_children(
    tmp_path: Path, stub: Stub, start: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    worker = stub("""
        if name == "yolo26x":
            record()
            sys.exit()
        say(event="stage", stage="compile")
        child = subprocess.Popen(["sleep", "600"])
        (here / f"{name}.new").write_text(str(child.pid))
        (here / f"{name}.new").rename(here / f"{name}.pid")
        time.sleep(600)
    """)
    process = start(worker)
    pids = [tmp_path / "yolo26s.pid", tmp_path / "yolo26m.pid"]
    wait_for(lambda: all(pid.exists() for pid in pids), "the workers")
    process.send_signal(number)
    assert outcomes(process) == {
        "yolo26x": ("exported", None),
        "yolo26s": ("interrupted", "compile"),
        "yolo26m": ("interrupted", "compile"),
    }
    for pid in pids:
        wait_for(lambda pid=pid: not is_running(int(pid.read_text())), "the child's end")


def test_what_was_not_started_is_interrupted_too(
    tmp_path: Path, stub: Stub, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(stub("(here / name).touch(); time.sleep(600)"))
    wait_for(lambda: (tmp_path / "yolo26m").exists() and (tmp_path / "yolo26x").exists(), "the workers")
    process.send_signal(signal.SIGINT)
    assert set(outcomes(process).values()) == {("interrupted", None)}
    assert not (tmp_path / "yolo26s").exists()


STUBBORN = """
signal.signal(signal.SIGTERM, lambda *_: (here / f"{name}.asked").touch())
(here / name).touch()
while True:
    time.sleep(600)
"""


def test_who_does_not_end_is_killed_after_a_grace(
    tmp_path: Path, stub: Stub, start: Callable[..., subprocess.Popen[str]]
) -> None:
    asked = [tmp_path / f"{name}.asked" for name in ("yolo26x", "yolo26m")]
    process = start(stub(STUBBORN), until=asked)
    wait_for(lambda: (tmp_path / "yolo26m").exists() and (tmp_path / "yolo26x").exists(), "the workers")
    process.send_signal(signal.SIGINT)
    assert set(outcomes(process).values()) == {("interrupted", None)}
    assert (tmp_path / "yolo26x.asked").exists()


def test_a_second_interruption_kills_at_once(
    tmp_path: Path, stub: Stub, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(stub(STUBBORN), grace=600)
    wait_for(lambda: (tmp_path / "yolo26m").exists() and (tmp_path / "yolo26x").exists(), "the workers")
    process.send_signal(signal.SIGINT)
    wait_for(lambda: (tmp_path / "yolo26x.asked").exists(), "the first signal")
    process.send_signal(signal.SIGINT)
    assert set(outcomes(process).values()) == {("interrupted", None)}


def test_the_largest_start_first_side_by_side_and_records_keep_their_order(tmp_path: Path, stub: Stub) -> None:
    names = ("yolo26n", "yolo26x-seg", "yolo26m", "yolo26l")
    records, events = run(tmp_path, stub("record()"), names, parallel=2)
    begun = [name for name, event in events if event["event"] == "start"]
    assert begun == ["yolo26x-seg", "yolo26l", "yolo26m", "yolo26n"]
    assert [made.name for made in records] == list(names)


def test_one_at_a_time_they_start_in_the_order_given(tmp_path: Path, stub: Stub) -> None:
    _, events = run(tmp_path, stub("record()"), ("yolo26n", "yolo26x"))
    assert [name for name, event in events if event["event"] == "start"] == ["yolo26n", "yolo26x"]


def clock(monkeypatch: pytest.MonkeyPatch, hours: Callable[[], int]) -> None:
    """Tell the workers' watch a time that only events move."""
    monkeypatch.setattr(export_process, "time", SimpleNamespace(monotonic=lambda: 3600.0 * hours()))


def test_a_hang_is_stopped_with_all_it_started(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, lambda: (tmp_path / "hangs").exists())
    worker = stub("""
        if name == "yolo26n":
            record()
            sys.exit()
        say(event="stage", stage="compile")
        (here / "pid").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
        print("still compiling", file=sys.stderr, flush=True)
        (here / "hangs").touch()
        time.sleep(600)
    """)
    records, _ = run(tmp_path, worker, ("yolo26s", "yolo26n"), limits=Limits(seconds=1.5))
    assert [made.outcome for made in records] == ["failed", "exported"]
    assert records[0].stage == "compile"
    assert records[0].message is not None
    assert "longer than the 0.025 min of --time-limit" in records[0].message
    assert "still compiling" in records[0].message
    wait_for(lambda: not is_running(int((tmp_path / "pid").read_text())), "the child's end")


def test_time_spent_waiting_for_another_export_does_not_count(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = stub("""
        say(event="wait", holder="process 7")
        while not (here / "free").exists():
            time.sleep(0.02)
        say(event="stage", stage="load")
        while not (here / "seen").exists():
            time.sleep(0.02)
        record()
    """)
    clock(monkeypatch, lambda: (tmp_path / "hour").exists())
    poll = ExportProcess.poll
    polled: list[bool] = []

    def watched(one: ExportProcess) -> bool:
        if not one._waiting:
            if polled:
                (tmp_path / "seen").touch()
            return poll(one)
        waited_an_hour = (tmp_path / "hour").exists()
        (tmp_path / "hour").touch()
        ended = poll(one)
        if waited_an_hour:
            polled.append(ended)
            (tmp_path / "free").touch()
        return ended

    monkeypatch.setattr(ExportProcess, "poll", watched)
    (made,), events = run(tmp_path, worker, limits=Limits(seconds=0.9))
    assert made.outcome == "exported"
    assert {"event": "wait", "holder": "process 7"} in [event for _, event in events]
    assert polled


def test_who_eats_memory_is_stopped(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        say(event="stage", stage="lower")
        held = bytearray(os.urandom(1)) * 400_000_000
        time.sleep(600)
    """)
    (made,), _ = run(tmp_path, worker, limits=Limits(memory_bytes=200_000_000))
    assert (made.outcome, made.stage) == ("failed", "lower")
    assert made.message is not None
    assert "more than the 0.20 GB of --memory-limit" in made.message
    assert made.peak_memory_bytes is not None
    assert made.peak_memory_bytes > 200_000_000


def test_a_cause_that_passes_gets_another_try_with_fewer_compilers(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        tries = here / f"{name}.tries"
        with tries.open("a") as file:
            print(os.environ["YOLO26_ET_COMPILE_THREADS"], file=file)
        if len(tries.read_text().split()) < 3:
            record("failed", stage="load", message="no network", transient=True)
        else:
            record()
    """)
    (made,), events = run(tmp_path, worker, back_off_s=0.05)
    assert (made.outcome, made.attempts) == ("exported", 3)
    assert [event["in_s"] for _, event in events if event["event"] == "retry"] == [0.05, 0.2]
    assert [event["event"] for _, event in events] == ["start", "retry", "retry", "record"]
    threads = [int(word) for word in (tmp_path / "yolo26n.tries").read_text().split()]
    assert threads == [threads[0], max(1, threads[0] // 2), max(1, threads[0] // 4)]


@pytest.mark.parametrize(("transient", "tries"), [(True, 3), (False, 1)])
def test_tries_come_to_an_end_and_other_causes_get_one(tmp_path: Path, stub: Stub, transient: bool, tries: int) -> None:
    worker = stub(f"record('failed', stage='load', message='no luck', transient={transient})")
    (made,), events = run(tmp_path, worker, back_off_s=0.01)
    assert (made.outcome, made.message, made.attempts) == ("failed", "no luck", tries)
    assert [event["event"] for _, event in events] == ["start", *["retry"] * (tries - 1), "record"]


def test_jobs_are_spread_over_the_gpus(tmp_path: Path, stub: Stub) -> None:
    worker = stub("""
        (here / f"{name}.device").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        while len([*here.glob("*.device")]) < 4:
            time.sleep(0.02)
        record()
    """)
    names = ("yolo26n", "yolo26s", "yolo26m", "yolo26l")
    records, _ = run(tmp_path, worker, names, parallel=4, devices={"0": 2, "GPU-abc": 2})
    given = {name: (tmp_path / f"{name}.device").read_text() for name in names}
    assert sorted(given.values()) == ["0", "0", "GPU-abc", "GPU-abc"]
    assert {made.name: made.device for made in records} == given


def test_a_small_gpu_limits_no_other(tmp_path: Path, stub: Stub) -> None:
    """The one with memory for three gets three exports, the largest first, while the small one gets one."""
    worker = stub("""
        (here / f"{name}.device").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        while len([*here.glob("*.device")]) < 4:
            time.sleep(0.02)
        record()
    """)
    names = ("yolo26n", "yolo26s", "yolo26m", "yolo26x")
    run(tmp_path, worker, names, parallel=4, devices={"small": 1, "large": 3})
    given = {name: (tmp_path / f"{name}.device").read_text() for name in names}
    assert sorted(given.values()) == ["large", "large", "large", "small"]
    assert given["yolo26x"] == "large"


def test_a_gpu_has_memory_for_one_export_at_least() -> None:
    assert [scheduler.slots(gigabytes * 10**9) for gigabytes in (1, 8, 80)] == [1, 2, 26]


def test_without_devices_the_choice_is_cudas(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (made,), _ = run(tmp_path, stub("record(message=str('CUDA_VISIBLE_DEVICES' in os.environ))"))
    assert (made.message, made.device) == ("False", None)


def test_handlers_are_put_back(tmp_path: Path, stub: Stub) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run(tmp_path, stub("record()"))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize(
    ("backend", "jobs", "cores", "memory", "gpu", "parallel"),
    [
        ("xnnpack", 25, 64, 256, 80, 1),
        ("cuda", 25, 16, 128, 80, 8),
        ("cuda", 2, 16, 128, 80, 2),
        ("cuda", 25, 2, 128, 80, 1),
        ("cuda", 0, 16, 128, 80, 1),
        ("cuda", 25, 16, 16, 80, 4),
        ("cuda", 25, 16, None, 80, 8),
        ("cuda", 25, 16, 128, 8, 2),
        ("cuda", 25, 16, 128, 1, 1),
    ],
)
def test_how_many_at_a_time(
    monkeypatch: pytest.MonkeyPatch, backend: str, jobs: int, cores: int, memory: int | None, gpu: int, parallel: int
) -> None:
    """Memory in GB."""
    monkeypatch.setattr(scheduler.system_limits, "cores", lambda: cores)
    memory_bytes = None if memory is None else memory * 10**9
    found = scheduler.default_parallel(backend, jobs, memory_bytes=memory_bytes, gpu_slots=scheduler.slots(gpu * 10**9))
    assert found == parallel


def test_the_real_worker_is_of_this_package_and_python() -> None:
    assert scheduler.WORKER[0] == sys.executable
    assert scheduler.WORKER[-1] == "yolo26_executorch.exporter.worker"
    assert os.access(scheduler.WORKER[0], os.X_OK)
