"""Which rows there are, and what becomes of them, with workers that measure nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from support import make_manifest, publish
from support.stub_bench import stub_worker
from yolo26_executorch.bench import Report, Settings, measure, runner
from yolo26_executorch.bench.matrix import plan
from yolo26_executorch.bench.records import ARTIFACT, PEERS
from yolo26_executorch.errors import ArtifactError, IntegrityError, UsageError
from yolo26_executorch.system import probe

QUICK = Settings(runs=6, rounds=2, warm_s=0, round_s=0)
EAGER = replace(QUICK, against=("eager",))


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where logs go."""
    folder = tmp_path / "logs"
    folder.mkdir()
    monkeypatch.setattr(runner.tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return publish(tmp_path, make_manifest(backend="xnnpack"))


def bench(
    folders: Sequence[Path],
    settings: Settings,
    worker: Sequence[str],
    progress: Callable[[str], None] = lambda words: None,
) -> Report:
    return measure(folders, settings, command="yolo26-et bench", progress=progress, worker=worker)


def outcomes(report: Report) -> dict[str, str]:
    return {f"{row.subject} {row.mode}": f"{row.outcome}: {row.message}" for row in report.rows}


def no_worker_is_left(worker: Sequence[str]) -> bool:
    mine = psutil.Process().children(recursive=True)
    return not [one for one in mine if one.status() != psutil.STATUS_ZOMBIE and worker[3] in one.cmdline()]


# ---- the plan --------------------------------------------------------------------------------------------------------


def reasons(settings: Settings, *, backend: str, gpu: bool) -> dict[str, str | None]:
    manifest = make_manifest(backend=backend)
    rows = plan({Path("yolo26n"): manifest}, settings, gpu=gpu)
    return {f"{row.subject} {row.mode}": row.message for row in rows}


def test_an_artifact_has_all_rows_and_its_peers_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    found = reasons(Settings(against=PEERS), backend="cuda", gpu=True)
    assert list(found) == [
        *(f"{subject} graph" for subject in (ARTIFACT, *PEERS)), "artifact launched",
        *(f"{subject} host" for subject in (ARTIFACT, *PEERS)), "artifact file",
    ]  # fmt: skip
    assert set(found.values()) == {None}
    asked = reasons(Settings(against=("eager",), modes=("file",)), backend="cuda", gpu=True)
    assert list(asked) == ["artifact file", "eager file"]


def test_what_cannot_run_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = reasons(Settings(against=PEERS), backend="xnnpack", gpu=True)
    assert found["artifact graph"] == "an artifact for xnnpack runs on the CPU: it has no graph row"
    assert found["artifact launched"] == "an artifact for xnnpack runs on the CPU: it has no launched row"
    assert found["artifact host"] is found["eager host"] is found["compile host"] is found["artifact file"] is None
    assert found["tensorrt host"] == found["tensorrt-rtx host"] == "TensorRT runs on NVIDIA's GPUs only"
    missing = "not installed: onnxruntime, onnx, onnxscript; pip install onnxruntime{} onnx onnxscript"
    assert found["onnxruntime host"] == missing.format("")
    found = reasons(Settings(against=PEERS), backend="cuda", gpu=True)
    assert found["onnxruntime graph"] == missing.format("-gpu")
    assert (found["tensorrt graph"] or "").startswith("not installed: tensorrt,")
    assert (found["tensorrt-rtx graph"] or "").startswith("not installed: tensorrt-rtx,")
    found = reasons(Settings(against=PEERS), backend="cuda", gpu=False)
    assert set(found.values()) == {"no NVIDIA GPU is usable here; `yolo26-et doctor` says why"}


def test_what_is_compared_stands_beside_each_other() -> None:
    manifests = {Path("a"): make_manifest(), Path("b"): make_manifest()}
    rows = plan(manifests, Settings(against=("eager",)), gpu=True)
    assert [(row.artifact, row.subject, row.mode) for row in rows[:4]] == [
        ("a", "artifact", "graph"), ("a", "eager", "graph"), ("b", "artifact", "graph"), ("b", "eager", "graph"),
    ]  # fmt: skip


def test_xnnpack_computes_in_fp32_whatever_its_name(folder: Path) -> None:
    (row, *_) = plan({folder: make_manifest(backend="xnnpack")}, Settings(), gpu=False)
    assert (row.precision, row.imgsz, row.batch) == ("fp32", (640, 640), 1)


@pytest.mark.parametrize("named", ["none", "twice", "missing", "damaged", "no picture"])
def test_wrong_commands_start_nothing(tmp_path: Path, folder: Path, named: str) -> None:
    worker, log = stub_worker(tmp_path)
    settings = replace(QUICK, image=tmp_path / "none.jpg") if named == "no picture" else QUICK
    folders = {"none": [], "twice": [folder, folder / ".." / folder.name], "missing": [tmp_path / "x"]}
    if named == "damaged":
        (folder / "model.pte").write_bytes(b"other")
    errors = {"missing": ArtifactError, "damaged": IntegrityError}
    chosen = folders.get(named, [folder])
    if named == "twice":
        chosen = [folder, Path(str(folder))]
    with pytest.raises(errors.get(named, UsageError)):
        bench(chosen, settings, worker)
    assert not log.exists()


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_rows_take_turns_and_become_a_report(tmp_path: Path, folder: Path, temporary: Path) -> None:
    worker, log = stub_worker(tmp_path, row_artifact_host="noisy")
    report = bench([folder], EAGER, worker)
    assert [line for line in log.read_text().splitlines() if line.startswith("round")] == [
        "round row artifact host", "round row eager host", "round row artifact file",
    ] * 2  # fmt: skip
    rows = {f"{row.subject} {row.mode}": row for row in report.rows}
    assert {name for name, row in rows.items() if row.outcome == "skipped"} == {
        "artifact graph", "eager graph", "artifact launched",
    }  # fmt: skip
    own = rows["artifact host"]
    assert (own.outcome, own.message, own.runner, own.device) == ("measured", None, "stub", "cpu")
    assert own.latency is not None and own.load is not None and own.memory is not None
    assert [one.runs for one in own.rounds] == [3, 3]
    assert (own.latency.p50_ms, own.latency.spread_ms, own.latency.runs) == (10.5, 1.0, 6)
    assert (own.load.first_result_s, own.memory.gpu_bytes) == (3.5, 7)
    assert own.achieved is not None
    assert own.achieved.gflop_s == pytest.approx(5.0 / 0.0105)
    assert own.achieved.of_compute == pytest.approx(5.0 / 0.0105 / 1000)
    assert own.achieved.of_bandwidth == pytest.approx(0.01 / 0.0105 / 10)
    assert rows["artifact file"].achieved is None
    assert report.work[str(folder)].floor_ms == pytest.approx(5.0)
    assert (report.failed, report.interrupted, report.warnings) == (False, False, ())
    assert report.versions["executorch"] and report.machine.cores
    assert Report.from_json(report.to_json()) == report
    assert not [*temporary.iterdir()]
    assert no_worker_is_left(worker)


@pytest.mark.parametrize(
    ("how", "outcome", "words"),
    [
        ("failed", "failed", "because of?[2J it"),
        ("skipped", "skipped", "because of?[2J it"),
        ("dies", "failed", "its process ended with status 3; log tail: something broke"),
        ("killed", "failed", "its process was killed by signal 9"),
        ("dies in round 2", "failed", "its process ended with status 4"),
        ("hangs", "failed", "stopped because it took longer than 0.05 min; see --time-limit"),
    ],
)
def test_a_failure_is_a_row_and_the_others_go_on(
    tmp_path: Path, folder: Path, temporary: Path, how: str, outcome: str, words: str
) -> None:
    worker, _ = stub_worker(tmp_path, row_artifact_host=how)
    report = bench([folder], replace(EAGER, limit_s=3.0 if how == "hangs" else 600.0), worker)
    found = outcomes(report)
    assert found["artifact host"] == f"{outcome}: {words}"
    assert found["eager host"] == found["artifact file"] == "measured: None"
    assert report.failed == (outcome == "failed")
    assert bool([*temporary.iterdir()]) == (outcome == "failed")  # the log is kept
    assert no_worker_is_left(worker)
    assert Report.from_json(report.to_json()) == report


def test_a_worker_that_cannot_start_is_a_failure(folder: Path) -> None:
    report = bench([folder], QUICK, ["/nonexistent/python"])
    assert outcomes(report)["artifact host"].startswith("failed: its process could not start")
    assert report.failed


def test_without_ceilings_or_work_there_is_a_warning(tmp_path: Path, folder: Path) -> None:
    worker, _ = stub_worker(tmp_path, ceilings="failed")
    report = bench([folder], QUICK, worker)
    assert report.warnings == ("ceilings fp32: because of?[2J it",)
    (own,) = (row for row in report.rows if row.mode == "host")
    assert own.achieved is not None
    assert (own.achieved.of_compute, own.achieved.of_bandwidth) == (None, None)
    assert report.work[str(folder)].floor_ms is None
    worker, _ = stub_worker(tmp_path, work="dies")
    report = bench([folder], QUICK, worker)
    assert report.work == {}
    assert not any(row.achieved for row in report.rows)
    assert not report.failed


def test_processes_opened_side_by_side_have_no_load_times(tmp_path: Path, folder: Path) -> None:
    worker, log = stub_worker(tmp_path)
    report = bench([folder], replace(EAGER, jobs=3), worker)
    measured = [row for row in report.rows if row.measured]
    assert len(measured) == 3
    assert all(row.load is None and row.memory and row.memory.gpu_bytes is None for row in measured)
    assert log.read_text().splitlines()[-6:] == [
        "round row artifact host", "round row eager host", "round row artifact file",
    ] * 2  # fmt: skip


def test_more_rows_than_may_be_open_come_one_batch_after_the_other(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_SIDE_BY_SIDE", 1)
    worker, log = stub_worker(tmp_path)
    bench([folder], QUICK, worker)
    assert [line for line in log.read_text().splitlines() if " row " in line] == [
        *["start row artifact host", "round row artifact host", "round row artifact host"],
        *["start row artifact file", "round row artifact file", "round row artifact file"],
    ]


@pytest.mark.parametrize("when", ["does at most", "opening", "round 1 of 2"])
def test_an_interruption_keeps_what_is_through(tmp_path: Path, folder: Path, when: str) -> None:
    worker, _ = stub_worker(tmp_path)

    def progress(words: str) -> None:
        if when in words:
            raise KeyboardInterrupt

    report = bench([folder], EAGER, worker, progress)
    assert report.interrupted
    assert no_worker_is_left(worker)
    assert Report.from_json(report.to_json()) == report
    found = outcomes(report)
    if when == "round 1 of 2":
        assert found["artifact host"] == "measured: interrupted after round 1"
        assert found["eager host"] == "failed: interrupted"
    else:
        assert found["artifact host"] == found["artifact file"] == "failed: interrupted"
    assert found["artifact graph"].startswith("skipped")


def test_the_commit_is_the_checkouts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True, capture_output=True
        )

    monkeypatch.setattr(runner, "__file__", str(tmp_path / "session.py"))
    assert runner._commit() == (None, None)
    git("init")
    (tmp_path / "session.py").write_text("1")
    assert runner._commit() == (None, None)  # installed inside somebody else's checkout
    git("add", ".")
    git("commit", "-m", "x")
    commit, modified = runner._commit()
    assert (len(commit or ""), modified) == (40, False)
    (tmp_path / "session.py").write_text("2")
    assert runner._commit() == (commit, True)


def test_a_cuda_artifact_without_a_gpu_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_only: Any = replace(probe.probe(), gpus=())
    monkeypatch.setattr(probe, "probe", lambda: cpu_only)
    worker, log = stub_worker(tmp_path)
    report = bench([publish(tmp_path, make_manifest())], EAGER, worker)
    assert {row.outcome for row in report.rows} == {"skipped"}
    assert report.failed
    assert not log.exists()
