from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support import PATIENCE_S, wait_for
from support.stub_worker import PREAMBLE
from yolo26_executorch.cli import export, main
from yolo26_executorch.exporter import scheduler
from yolo26_executorch.models.variants import VARIANTS
from yolo26_executorch.system import probe, requirements
from yolo26_executorch.system.probe import Driver, Environment, Gpu, Tool
from yolo26_executorch.system.requirements import Usable

GOOD = """
(here / f"{name}.json").write_text(json.dumps(job))
say(event="stage", stage="load")
say(event="stage", stage="test")
say(event="answer", lines=["4 persons, 1 bus [bold]"])
record(seconds={"load": 1.5, "test": 0.5}, files={"model.pte": 9_400_000}, latency_ms=50.123,
       largest_error={"value": 1.2e-7, "unit": "px"}, test={"inputs": []})
"""

Stub = Callable[[str], list[str]]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Return a function that replaces the worker by what is to be done with `job`, `say` and `record`."""

    def make(body: str) -> list[str]:
        path = tmp_path / "stub.py"
        path.write_text(PREAMBLE + textwrap.dedent(body))
        monkeypatch.setattr(scheduler, "WORKER", (sys.executable, "-S", str(path)))
        return [*scheduler.WORKER]

    return make


@pytest.fixture(scope="session")
def cpu_machine() -> Environment:
    return dataclasses.replace(probe.probe(), system="Linux", driver=None, gpus=(), torch="2.13.0", executorch="1.5.1")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, cpu_machine: Environment) -> Callable[..., None]:
    """Return a function that changes what is known of this machine; to begin with, it has no GPU."""

    def change(**changes: Any) -> None:
        monkeypatch.setattr(probe, "probe", lambda folder: dataclasses.replace(cpu_machine, **changes))

    change()
    return change


@pytest.fixture(autouse=True)
def no_real_work(monkeypatch: pytest.MonkeyPatch, machine: Callable[..., None]) -> None:
    """Fail rather than start a real export."""
    monkeypatch.setattr(scheduler, "WORKER", (sys.executable, "-c", "raise SystemExit('no stub was set')"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def checkpoint(path: Path) -> Path:
    """Write a file that passes for a PyTorch archive until somebody loads it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 1000)
    return path


def run(out: Path, *words: str | Path | int) -> int:
    backend = () if "--backend" in words else ("--backend", "xnnpack")
    return main(["export", "--base-path", str(out), *backend, *map(str, words)])


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("yolo26-et: error: ")
    assert "Traceback" not in err
    return err.splitlines()[-1]


# --- What is done --------------------------------------------------------------------------------------------------


def test_success_shows_lines_table_and_report(out: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub(GOOD)
    assert run(out, "--models", "yolo26n", "yolo26s-seg") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    stamp = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    said = [re.sub(stamp, "", line) for line in lines if re.match(stamp, line)]
    assert said[:5] == [
        "yolo26n: load, stage 1 of 5",
        "yolo26n: test, stage 5 of 5",
        "yolo26n: 4 persons, 1 bus [bold]",
        "yolo26n: exported, 9.4 MB, 2 s, 50.12 ms a run",
        "yolo26n: 1 of 2 done, 1 waiting: yolo26s-seg",
    ]
    assert said[5] == "yolo26s-seg: load, stage 1 of 5"
    (row,) = (line for line in lines if line.split()[:2] == ["yolo26s-seg", "exported"])
    assert row.split()[2:] == ["9.4", "2.0", "50.12", "1.2e-07", "px"]
    assert lines[-2] == "2 exported · xnnpack, fp32, 640×640, batch 1"
    assert lines[-1] == f"report: {out / 'report.json'}"  # the stub's records have no folder to go on with


def test_the_last_line_is_what_to_type_next(tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub("""
        if name == "yolo26n":
            record("failed", message="why")
        else:
            record(folder=job["base_path"] + "/" + name)
    """)
    base = tmp_path / "my exports"
    assert run(base, "yolo26n", "yolo26s") == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"next: yolo26-et predict '{base}/yolo26s' bus.jpg"
    assert run(base, "yolo26n") == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {base / 'report.json'}"


def test_the_report(out: Path, stub: Stub, cpu_machine: Environment) -> None:
    stub(GOOD)
    assert run(out, "--models", "yolo26n", "--batch", "2", "--random-weights", "--seed", "7", "--no-test") == 0
    report = json.loads((out / "report.json").read_text())
    assert set(report) == {"schema", "created", "seconds", "command", "machine", "options", "records", "exit_status"}
    assert report["schema"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report["created"])
    assert report["command"].startswith(f"yolo26-et export --base-path {out} --backend xnnpack --models yolo26n")
    assert report["machine"] == json.loads(json.dumps(cpu_machine.to_json()))
    expected = {
        "backend": "xnnpack", "precision": "tf32", "imgsz": [640, 640], "batch": 2, "outputs": "named",
        "input": "float32", "io": "host", "random_weights": True, "seed": 7, "autotune": "off", "words": [],
        "models": ["yolo26n"], "test": False, "skip_existing": False, "force": False, "jobs": 1,
        "devices": [], "time_limit_s": 3600.0, "memory_limit_bytes": None, "retries": 2,
    }  # fmt: skip
    assert report["options"] == expected
    (record,) = report["records"]
    assert (record["outcome"], record["latency_ms"]) == ("exported", 50.123)
    assert report["exit_status"] == 0
    assert [path.name for path in out.iterdir()] == ["report.json"]


def test_the_flags_reach_the_worker(out: Path, tmp_path: Path, stub: Stub) -> None:
    stub(GOOD)
    own = checkpoint(tmp_path / "mine.pt")
    weights = tmp_path / "weights"
    words = ["--models", own, "--weights-dir", weights, "--skip-existing", "--trust-checkpoint", "--imgsz", 640, 480]
    assert run(out, *words, "--outputs", "ultralytics", "--input", "uint8", "--precision", "fp32") == 0
    job = json.loads((tmp_path / "mine.json").read_text())
    assert job["source"] == {"name": "mine", "variant": None, "path": str(own)}
    assert (job["base_path"], job["weights_dir"]) == (str(out), str(weights))
    assert (job["test"], job["skip_existing"], job["trusted"]) == (True, True, True)
    assert job["options"] == {
        "backend": "xnnpack", "precision": "fp32", "imgsz": [640, 480], "batch": 1, "outputs": "ultralytics",
        "input": "uint8", "io": "host", "random_weights": False, "seed": 0, "autotune": "off", "words": [],
    }  # fmt: skip
    assert job["command"].startswith("yolo26-et export ")


def test_all_25_by_default_at_their_native_size(out: Path, stub: Stub) -> None:
    stub("record()")
    assert run(out, "--imgsz", "native", "--jobs", "2") == 0
    report = json.loads((out / "report.json").read_text())
    assert [record["name"] for record in report["records"]] == list(VARIANTS)
    assert report["options"]["imgsz"] is None


def test_a_failure_is_status_1_and_the_others_go_on(out: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub("""
        if name == "yolo26n":
            say(event="stage", stage="load")
            record("failed", stage="load", message="yolo26n.pt is not in [weights]")
        else:
            record("skipped")
    """)
    assert run(out, "--models", "yolo26n", "yolo26s") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4] == "yolo26n: failed at the stage 'load': yolo26n.pt is not in [weights]"
    assert lines[-3].startswith("1 failed, 1 skipped · ")
    assert lines[-2] == f"logs: {out / '.logs'}"
    assert (out / ".logs/yolo26n.log").is_file()
    assert any("complete, intact" in line for line in lines if line.split()[:2] == ["yolo26s", "skipped"])
    report = json.loads((out / "report.json").read_text())
    assert report["exit_status"] == 1
    assert [record["outcome"] for record in report["records"]] == ["failed", "skipped"]


def test_a_crash_is_a_failure(out: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub("""
        say(event="stage", stage="compile")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert run(out, "--models", "yolo26n") == 1
    assert (
        "failed at the stage 'compile': its process was killed, probably by the kernel because memory ran out"
        in capsys.readouterr().out
    )


def test_debug_keeps_logs(out: Path, stub: Stub) -> None:
    stub("print('noise', file=sys.stderr); record()")
    assert run(out, "--models", "yolo26n", "--debug") == 0
    assert (out / scheduler.LOGS / "yolo26n.log").read_text() == "noise\n"


def test_what_was_not_tested_is_said(out: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub("record(files={'model.pte': 1})")
    assert run(out, "--models", "yolo26n", "--no-test", "--random-weights") == 0
    text = capsys.readouterr().out
    assert "not tested" in text
    assert "random weights (seed 0)" in text


def test_a_report_elsewhere(out: Path, tmp_path: Path, stub: Stub) -> None:
    stub("record()")
    place = tmp_path / "new" / "results.json"
    assert run(out, "--models", "yolo26n", "--report", place) == 0
    assert json.loads(place.read_text())["exit_status"] == 0
    assert [path.name for path in place.parent.iterdir()] == ["results.json"]


def test_a_report_that_cannot_be_written_in_the_end_is_an_error_after_the_table(
    out: Path, tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "report.json"
    stub(f"os.mkdir({str(place)!r}); record()")
    assert run(out, "--models", "yolo26n", "--report", place) == 1
    captured = capsys.readouterr()
    assert "1 exported" in captured.out
    assert "the report could not be written" in captured.err
    assert not [*tmp_path.glob(".report*")]


def test_a_terminal_sees_moving_lines(
    out: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        export, "console", lambda: Console(file=screen, force_terminal=True, width=100, markup=False, highlight=False)
    )
    stub("""
        say(event="stage", stage="load")
        say(event="stage", stage="lower")
        say(event="answer", lines=["4 persons [bold]"])
        record("failed" if name == "yolo26s" else "exported", message="no luck", files={"model.pte": 2_000_000})
    """)
    assert run(out, "--models", "yolo26n", "yolo26s") == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "0 of 2 done, 1 running, 1 waiting: yolo26s" in text
    assert "1 of 2 done, 1 running" in text
    assert re.search(r"yolo26n: load, stage \d of \d, \d+ s", text)
    assert re.search(r"yolo26n: lower, stage \d of \d, \d+ s", text)
    assert "yolo26n: 4 persons [bold]" in text
    assert "yolo26n: exported, 2.0 MB" in text
    assert "yolo26s: failed: no luck" in text


INTERRUPTED = """
import sys
from yolo26_executorch import cli
from yolo26_executorch.exporter import scheduler
scheduler.WORKER = {worker!r}
sys.exit(cli.main(["export", "--base-path", {out!r}, "--backend", "xnnpack", "--models", "yolo26n", "yolo26s",
                   "yolo26m", "--no-test"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_130_with_table_and_report(
    out: Path, tmp_path: Path, stub: Stub, number: signal.Signals
) -> None:
    worker = stub("""
        if name == "yolo26n":
            record()
            sys.exit()
        say(event="stage", stage="export")
        (here / "started").touch()
        time.sleep(600)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(worker=worker, out=str(out))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for((tmp_path / "started").exists, "the second export", process)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert errors == ""
    assert "1 exported, 2 interrupted" in output
    report = json.loads((out / "report.json").read_text())
    assert report["exit_status"] == 130
    assert [(record["outcome"], record["stage"]) for record in report["records"]] == [
        ("exported", None), ("interrupted", "export"), ("interrupted", None)
    ]  # fmt: skip


# --- Which backend -------------------------------------------------------------------------------------------------


def gpu_machine() -> dict[str, Any]:
    return {
        "driver": Driver("580.95", (13, 0)),
        "torch_cuda": "13.0",
        "gpus": (Gpu("NVIDIA H100", (9, 0), 80 * 10**9),),
        "triton": "3.7.1",
        "cxx": Tool("/usr/bin/g++", "12.2.0"),
        "nvcc": None,
        "cuda_home": "/opt/no/such/cuda",
        "cores": 16,
    }


def test_auto_without_cuda_warns_once_and_goes_on(out: Path, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub(GOOD)
    assert run(out, "--backend", "auto", "--models", "yolo26n") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("yolo26-et: warning: no usable CUDA: no NVIDIA driver")
    assert "XNNPACK" in line
    assert json.loads((out / "report.json").read_text())["options"]["backend"] == "xnnpack"


def test_auto_with_cuda_takes_it(
    out: Path,
    stub: Stub,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(scheduler.system_limits, "cores", lambda: 16)
    machine(**gpu_machine())
    stub(GOOD)
    assert run(out, "--backend", "auto", "--models", "yolo26n", "yolo26s") == 0
    assert capsys.readouterr().err == ""
    options = json.loads((out / "report.json").read_text())["options"]
    assert (options["backend"], options["jobs"]) == ("cuda", 2)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"driver": None}, "no NVIDIA driver"),
        ({"torch_cuda": None}, "build without CUDA"),
        ({"gpus": (Gpu("Tesla P100", (6, 0), 16 * 10**9),)}, "compute capability 6.0"),
    ],
)
def test_cuda_that_is_not_usable_is_refused(
    out: Path,
    machine: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    cause: str,
) -> None:
    machine(**{**gpu_machine(), **changes})
    assert run(out, "--backend", "cuda", "--models", "yolo26n") == 2
    assert cause in last_error(capsys)
    assert not out.exists()


def test_cuda_on_this_machine_is_refused_where_it_is_not_usable(out: Path) -> None:
    """The real look at the machine, through the guide's script."""
    script = Path(__file__).parents[2] / "examples" / "models" / "yolo26_cuda_export.py"
    done = subprocess.run(
        [sys.executable, str(script), "--base-path", str(out), "--backend", "cuda", "--models", "yolo26n"],
        capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("yolo26-et: error: --backend cuda: ")
    assert "; fix: " in line
    assert not out.exists()


def test_an_unfit_runtime_is_refused_for_tested_xnnpack_models(
    out: Path, stub: Stub, machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(torch="2.11.0")
    stub("record()")
    assert run(out, "--models", "yolo26n") == 2
    message = last_error(capsys)
    assert 'pip install "torch>=2.13,<2.14"' in message
    assert "--no-test" in message
    assert run(out, "--models", "yolo26n", "--no-test") == 0


def test_an_unfit_runtime_is_no_matter_for_cuda(out: Path, stub: Stub, machine: Callable[..., None]) -> None:
    machine(**gpu_machine(), torch="2.11.0")
    stub("record()")
    assert run(out, "--backend", "cuda", "--models", "yolo26n") == 0


# --- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "yolo26n-sge"], "did you mean yolo26n-seg"),
        (["--models", "yolo26n", "yolo99*"], "yolo99*"),
        (["--models", "no/such/best.pt"], "no such checkpoint file: no/such/best.pt"),
        (["--imgsz", "650"], "nearest: --imgsz 640 or --imgsz 672"),
        (["--models", "yolo26n", "--imgsz", "224"], "nearest: --imgsz 320"),
        (["--models", "yolo26n-cls", "yolo26n", "--imgsz", "224"], "detect takes multiples of 32"),
        (["--imgsz", "big"], "expected one number"),
        (["--imgsz", "1", "2", "3"], "expected one number"),
        (["--batch", "0"], "try --batch 1"),
        (["--jobs", "0"], "try --jobs 1"),
        (["--precision", "fp16"], "--precision fp16 needs --backend cuda"),
        (["--io", "device"], "needs --backend cuda"),
    ],
)
def test_wrong_words_are_refused_before_any_work(
    out: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(out, *words) == 2
    assert message in last_error(capsys)
    assert not out.exists()


def test_classify_takes_its_native_size(out: Path, stub: Stub) -> None:
    stub("record()")
    assert run(out, "--models", "yolo26?-cls", "--imgsz", "224") == 0


@pytest.mark.parametrize(("size", "status"), [("224", 0), ("640", 0), ("100", 2)])
def test_a_checkpoints_size_is_refused_where_no_task_takes_it(
    out: Path, tmp_path: Path, stub: Stub, size: str, status: int
) -> None:
    stub("record()")
    assert run(out, "--models", checkpoint(tmp_path / "best.pt"), "--imgsz", size) == status
    assert out.exists() is (status == 0)


@pytest.mark.parametrize("damage", ["corrupt", "truncated"])
def test_a_damaged_checkpoint_is_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = checkpoint(tmp_path / "best.pt")
    content = path.read_bytes()
    path.write_bytes(content[:300] if damage == "truncated" else content[:200] + b"\0" * 20 + content[220:])
    assert run(out, "--models", path) == 2
    assert f"{path} cannot be read" in last_error(capsys)
    assert not out.exists()


def test_random_weights_are_not_for_checkpoints(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path / "best.pt")
    assert run(out, "--models", "yolo26n", path, "--random-weights") == 2
    message = last_error(capsys)
    assert "--random-weights" in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("flag", "place"), [("--base-path", "file"), ("--base-path", "file/below"), ("--weights-dir", "file"),
                        ("--report", "folder"), ("--report", "file/below.json")],
)  # fmt: skip
def test_places_that_cannot_be_used_are_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, place: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert run(out, "--models", "yolo26n", flag, tmp_path / place) == 2
    assert f"{flag} {tmp_path / place}" in last_error(capsys)


def test_backends_are_judged_once_and_by_the_facts_of_the_report(
    out: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look would cost time and could differ from what the report says."""
    seen: list[Environment] = []

    def usable(facts: Environment, devices: object) -> Usable:
        seen.append(facts)
        return Usable(False, "cause", "remedy")

    monkeypatch.setattr(requirements, "usable_cuda", usable)
    stub("record()")
    assert run(out, "--backend", "auto", "--models", "yolo26n") == 0
    (facts,) = seen
    assert json.loads((out / "report.json").read_text())["machine"] == json.loads(json.dumps(facts.to_json()))


@pytest.mark.parametrize("error", [None, {"value": 0.25, "unit": "px"}])
def test_plain_and_final_texts_survive_missing_figures(
    out: Path, stub: Stub, capsys: pytest.CaptureFixture[str], error: dict[str, Any] | None
) -> None:
    stub(f"record(largest_error={error!r})")
    assert run(out, "--models", "yolo26n") == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["yolo26n", "exported"])
    assert row.split()[2:5] == ["-", "-", "-"]
    assert ("0.25 px" in row) is (error is not None)
