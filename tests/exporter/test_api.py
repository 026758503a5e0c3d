"""`yolo26_executorch.export`, from Python."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

import yolo26_executorch
from support.stub_worker import PREAMBLE
from yolo26_executorch import OptionError, ParityError, UsageError, export, load_manifest
from yolo26_executorch.errors import DownloadError, ExportError, UnknownVariantError
from yolo26_executorch.exporter import scheduler
from yolo26_executorch.exporter.request import Request

Stub = Callable[[str], None]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Return a function that replaces the worker by what is to be done with `job`, `say` and `record`."""

    def make(body: str) -> None:
        path = tmp_path / "stub.py"
        path.write_text(PREAMBLE + textwrap.dedent(body))
        monkeypatch.setattr(scheduler, "WORKER", (sys.executable, "-S", str(path)))

    return make


def test_its_keywords_are_the_flags_and_their_defaults_the_requests() -> None:
    parameters = inspect.signature(export).parameters
    flags = {field.name: field.default for field in fields(Request)}
    only_for_many = {"models", "jobs", "ray", "per_arch"}
    assert set(parameters) - {"model"} == set(flags) - only_for_many
    for name, parameter in parameters.items():
        if name not in ("model", "imgsz"):
            assert parameter.default == flags[name], name
    assert parameters["imgsz"].default == 640


def test_it_returns_the_folder_and_shows_progress(
    tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub("""
        (here / "job.json").write_text(json.dumps(job))
        say(event="stage", stage="lower")
        record(folder=job["base_path"] + "/" + name)
    """)
    folder = export(
        "yolo26n", imgsz=(640, 480), precision="fp32", name="mine", base_path=str(tmp_path / "out"), backend="xnnpack",
        random_weights=True,
    )  # fmt: skip
    assert folder == tmp_path / "out" / "mine"
    assert "mine: lower" in capsys.readouterr().out
    job = json.loads((tmp_path / "job.json").read_text())
    assert job["options"]["imgsz"] == [640, 480]
    assert job["command"] == (
        f"yolo26-et export --models yolo26n --name mine --base-path {tmp_path / 'out'} --random-weights "
        "--backend xnnpack --precision fp32 --imgsz 640 480"
    )
    assert json.loads((tmp_path / "out" / "report.json").read_text())["exit_status"] == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("DownloadError", DownloadError),
        ("ParityError", ParityError),
        ("nonsense", ExportError),
        ("first_line", ExportError),
        (None, ExportError),
    ],
)
def test_it_raises_what_the_command_prints(
    tmp_path: Path, stub: Stub, error: str | None, kind: type[Exception]
) -> None:
    stub(f"record('failed', stage='load', message='not found and could not be downloaded', error={error!r})")
    with pytest.raises(kind, match="yolo26n: failed at the stage 'load': not found and") as caught:
        export("yolo26n", base_path=tmp_path, backend="xnnpack", retries=0)
    assert type(caught.value) is kind


def test_an_interruption_is_one(tmp_path: Path, stub: Stub) -> None:
    stub("os.kill(os.getppid(), signal.SIGINT); time.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        export("yolo26n", base_path=tmp_path, backend="xnnpack", random_weights=True)


@pytest.mark.parametrize(
    ("model", "flags", "kind", "message"),
    [
        ("yolo26n-sge", {}, UnknownVariantError, "did you mean yolo26n-seg"),
        ("yolo26?", {}, UsageError, "expected one model, given a wildcard"),
        ("yolo26n", {"imgsz": 650}, OptionError, "nearest: --imgsz 640 or --imgsz 672"),
        ("yolo26n", {"imgsz": "big"}, OptionError, "expected one number"),
        ("yolo26n", {"batch": "2"}, OptionError, "--batch '2': expected int"),
        ("yolo26n", {"precision": "fp8"}, OptionError, "--precision fp8: expected one of"),
        ("yolo26n", {"base_path": "s3://bucket/x"}, UsageError, "a URL needs --ray"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, flags: dict[str, object], kind: type[Exception],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as caught:
        export(model, **{"backend": "xnnpack", **flags})  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_it_is_public() -> None:
    assert yolo26_executorch.export is export
    assert "export" in yolo26_executorch.__all__


@pytest.mark.slow
def test_it_works_from_standard_input(tmp_path: Path) -> None:
    """A real export, by a program that no other process could import again."""
    program = f"""
from yolo26_executorch import export
folder = export("yolo26n-cls", imgsz=224, random_weights=True, no_test=True, backend="xnnpack",
                base_path={str(tmp_path)!r})
print(f"folder: {{folder}}")
"""
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"folder: {tmp_path / 'yolo26n-cls'}"
    assert load_manifest(tmp_path / "yolo26n-cls").command.startswith("yolo26-et export --models yolo26n-cls")


@pytest.mark.parametrize("imgsz", [None, 640.0])
def test_a_size_that_is_none(imgsz: object) -> None:
    with pytest.raises(OptionError, match="expected a number, \\(height, width\\) or 'native'; try imgsz=640"):
        export("yolo26n", imgsz=imgsz)  # type: ignore[arg-type]


def test_a_place_that_is_a_file_is_told_without_its_causes(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()
    with pytest.raises(UsageError, match="cannot be written to \\(it is no folder\\)") as caught:
        export("yolo26n", random_weights=True, backend="xnnpack", base_path=place)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
