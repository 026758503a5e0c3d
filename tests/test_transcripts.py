"""docs/ultralytics.md: what is typed there is run, in its order and in one folder, and prints what is shown.

Exports are made up: a stand-in for the worker puts the artifact of the bundled checkpoint where it belongs.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support import PATIENCE_S, ROOT, load_tool, shapes_checkpoint
from support.pages import Step, matches, steps
from support.stub_worker import PREAMBLE
from yolo26_executorch import cli
from yolo26_executorch.exporter import scheduler

STEPS = [*steps((ROOT / "docs" / "ultralytics.md").read_text(encoding="utf-8"))]
COMMANDS = [step for step in STEPS if step.language == "console"]
SNIPPETS = [step for step in STEPS if step.language == "python"]
[TOLD] = [step for step in STEPS if step.language == "text"]
WORKER = """
import shutil
made = json.loads(pathlib.Path(sys.argv[1]).read_text())
target = pathlib.Path(job["base_path"]) / name
shutil.copytree(made["record"]["folder"], target, dirs_exist_ok=True)
for event in made["events"]:
    say(**event)
say(event="record", record={**made["record"], "name": name, "folder": str(target)})
"""


def refused(step: Step) -> bool:
    return "yolo26-et: error: " in step.shown


@pytest.fixture(scope="module")
def folder(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of somebody who has trained a model, and has exported it once."""
    made = tmp_path_factory.mktemp("user")
    (made / "runs/detect/train/weights").mkdir(parents=True)
    for name in ("best.pt", "runs/detect/train/weights/best.pt"):
        (made / name).symlink_to(shapes_checkpoint("detect"))
    shutil.copytree(exported("detect"), made / "yolo26_cuda_exports" / "train-best")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def typed(
    here: Path, exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[int, str]]:
    """Return a function that runs a command line and returns its status and what a terminal would show."""
    worker = tmp_path / "worker.py"
    worker.write_text(PREAMBLE + WORKER)
    record = exported("detect").parent / "detect.json"
    monkeypatch.setattr(scheduler, "WORKER", (sys.executable, "-S", str(worker), str(record)))

    def run(line: str) -> tuple[int, str]:
        seen = io.StringIO()
        with contextlib.redirect_stdout(seen), contextlib.redirect_stderr(seen):
            status = cli.main(shlex.split(line)[1:])
        return status, seen.getvalue()

    return run


def label(step: Step) -> str:
    return f"line {step.line}"


@pytest.mark.parametrize("step", [step for step in COMMANDS if refused(step)], ids=label)
def test_what_is_refused_is_told_as_shown(step: Step, typed: Callable[[str], tuple[int, str]]) -> None:
    status, seen = typed(step.code)
    assert status == 2
    assert matches(step.shown, seen), seen


@pytest.mark.slow
def test_what_is_typed_prints_what_is_shown(typed: Callable[[str], tuple[int, str]], here: Path) -> None:
    pytest.importorskip("lap")
    if torch.cuda.is_available():
        pytest.skip("the page shows a machine without a GPU")
    load_tool("draw").main(["dataset", "detect", "shapes", "--train", "0", "--val", "4"])
    for step in COMMANDS:
        if refused(step):
            continue
        status, seen = typed(step.code)
        assert status == 0, f"{step.code}\n{seen}"
        assert matches(step.shown, seen), f"{step.code}\n{seen}"
        assert "Traceback" not in seen
    assert (here / "seen/bus.jpg").exists()


@pytest.mark.slow
def test_the_snippets_print_what_is_shown(here: Path) -> None:
    printed = []
    for step in SNIPPETS:
        words = [sys.executable, "-c", step.code]
        done = subprocess.run(words, cwd=here, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "detect, 6 classes, input 320x320" in printed[0]
    assert (here / "bus-found.jpg").exists()
    assert printed[1] == TOLD.code


def test_the_page_shows_each_thing_that_people_type() -> None:
    """The list of what must be understood."""
    text = "\n".join(step.code for step in COMMANDS)
    for habit in (
        r"export \S+best\.pt", "export yolo26n", "model=", "source=", "data=", "imgsz=", "half=True", "device=",
        "conf=", "iou=", "format=executorch", "format=onnx", "--imgsz 320,320", "et track ", "et benchmark ",
        "et exprot",
        r"predict best\.pt bus\.jpg", "--export", "zidane", "--help",
    ):  # fmt: skip
        assert re.search(habit, text), habit
