from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from support import PATIENCE_S
from yolo26_executorch.exporter.jobs import Job, Record
from yolo26_executorch.exporter.scheduler import WORKER
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.variants import VARIANTS

STUBBED = """
    import os, subprocess, sys, time
    from pathlib import Path
    from yolo26_executorch.exporter import worker

    def export_one(job, say):
        {body}

    worker.export_one = export_one
    sys.exit(worker.main())
"""


def job_of(base_path: Path, **options: Any) -> Job:
    settings = ExportOptions(imgsz=(224, 224), random_weights=True, **options)
    source = Source("yolo26n-cls", VARIANTS["yolo26n-cls"], None)
    return Job(source, base_path, settings, None, False, False, False, "yolo26-et export")


def start(job: Job, body: str | None = None, **variables: str) -> subprocess.Popen[str]:
    """Start a worker on a job; `body` takes the export's place, `variables` join the environment."""
    words = [*WORKER]
    if body is not None:
        words = [
            sys.executable,
            "-c",
            textwrap.dedent(STUBBED).format(body=textwrap.indent(textwrap.dedent(body), "    ").strip()),
        ]
    environment = {key: value for key, value in os.environ.items() if key != "YOLO_AUTOINSTALL"} | variables
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(job.to_json()))
    process.stdin.close()
    process.stdin = None
    return process


def test_only_events_reach_standard_output(tmp_path: Path) -> None:
    """Whatever libraries, compilers and C code print."""
    process = start(
        job_of(tmp_path),
        """
        print("from Python")
        os.write(1, b"from C\\n")
        subprocess.run(["echo", "from a compiler"])
        say({"event": "stage", "stage": "load"})
        sys.stdout.write("unfinished")
        print("error", file=sys.stderr)
        return job.record("exported")
        """,
    )
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    stage, last = (json.loads(line) for line in out.splitlines())
    assert stage == {"event": "stage", "stage": "load"}
    assert last["event"] == "record"
    assert Record.from_json(last["record"]) == job_of(tmp_path).record("exported")
    for words in ("from Python", "from C", "from a compiler", "unfinished", "error"):
        assert words in err


def test_events_arrive_as_they_happen(tmp_path: Path) -> None:
    mark = tmp_path / "go on"
    process = start(
        job_of(tmp_path),
        f"""
        say({{"event": "stage", "stage": "load"}})
        while not Path({str(mark)!r}).exists():
            time.sleep(0.01)
        return job.record("exported")
        """,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["stage"] == "load"
    mark.touch()
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["record"]["outcome"] == "exported"


def test_a_failed_export_is_status_0_and_a_record(tmp_path: Path) -> None:
    process = start(job_of(tmp_path), 'return job.record("failed", message="no luck")')
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert json.loads(out)["record"]["message"] == "no luck"


def test_a_defect_is_another_status_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    process = start(job_of(tmp_path), "raise ZeroDivisionError")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (1, "")
    assert "ZeroDivisionError" in err


@pytest.mark.slow
def test_sigterm_removes_the_draft(tmp_path: Path) -> None:
    """In the middle of a real export."""
    process = start(job_of(tmp_path))
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("stage") == "lower":
            break
    assert sorted(path.name[:17] for path in tmp_path.iterdir()) == [".yolo26n-cls.lock", ".yolo26n-cls.tmp-"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert [path.name for path in tmp_path.iterdir()] == [".yolo26n-cls.lock"]


@pytest.mark.slow
def test_ultralytics_installs_nothing_for_a_checkpoint(tmp_path: Path) -> None:
    process = start(
        job_of(tmp_path),
        """
        from ultralytics.utils import AUTOINSTALL
        return job.record("failed", message=str(AUTOINSTALL))
        """,
    )
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["record"]["message"] == "False"


def test_a_cuda_export_finds_the_toolkit(tmp_path: Path) -> None:
    """The variables are there before PyTorch is imported, which looks for them then."""
    (tmp_path / "cuda" / "include").mkdir(parents=True)
    (tmp_path / "cuda" / "include" / "cuda.h").touch()
    body = """
        said = [os.environ["CUDA_HOME"], "torch" in sys.modules]
        return job.record("failed", message=str(said))
        """
    process = start(job_of(tmp_path, backend="cuda"), body, CUDA_PATH=str(tmp_path / "cuda"))
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["record"]["message"] == str([str(tmp_path / "cuda"), False])
