"""README's commands and snippets are run, in its order and in one folder, as somebody with a `best.pt` would.

A comment `<!-- needs: setup -->` before a block keeps it from being run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support import PATIENCE_S, ROOT, shapes_checkpoint
from support.pages import SCRIPT, Step, links, matches, parse, slugs, steps
from yolo26_executorch.errors import UsageError

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BEST = Path("runs/detect/train/weights/best.pt")

# One worker runs them all, so that the walk is done once.
pytestmark = pytest.mark.xdist_group("readme")

STEPS = [*steps(TEXT)]
COMMANDS = [step for step in STEPS if step.language == "console"]
RUN = [step for step in STEPS if not step.needs]


def label(step: Step) -> str:
    return f"line {step.line}"


# --- Commands and snippets --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that README is read in: that of a training which has left its best.pt."""
    made = tmp_path_factory.mktemp("readme")
    (made / BEST).parent.mkdir(parents=True)
    (made / BEST).symlink_to(shapes_checkpoint("detect"))
    return made


@pytest.fixture(scope="module")
def walk(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Step, subprocess.CompletedProcess[str]]:
    """Run everything that can be run here, from top to bottom."""
    programs = tmp_path_factory.mktemp("bin")
    command = programs / "yolo26-et"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m yolo26_executorch "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {"PATH": os.pathsep.join([str(programs), os.environ["PATH"]])}
    done = {}
    for step in RUN:
        words = ["sh", "-c", step.code] if step.language == "console" else [sys.executable, "-c", step.code]
        done[step] = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    return done


@pytest.mark.slow
@pytest.mark.parametrize("step", RUN, ids=label)
def test_it_works_as_shown(step: Step, walk: dict[Step, subprocess.CompletedProcess[str]]) -> None:
    done = walk[step]
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not step.shown or matches(step.shown, done.stdout), done.stdout
    assert done.stdout


@pytest.mark.slow
def test_the_picture_is_the_one_that_the_demo_draws(
    folder: Path, walk: dict[Step, subprocess.CompletedProcess[str]]
) -> None:
    import cv2
    import numpy as np

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    assert run(str(ROOT / "tools/draw.py"), "scene", "demo/drawn/scene.jpg") == "demo/drawn/scene.jpg\n"
    [artifact] = (folder / "yolo26_cuda_exports").glob("*/manifest.json")  # as `make demo` exports it
    where = ("demo/drawn/scene.jpg", "--save", "--save-dir", "demo/found")
    found = run("-m", "yolo26_executorch", "predict", str(artifact.parent), *where)
    assert len(re.findall("triangle|arrow|house|dome|drop|heart", found)) >= 3
    drawn, plain, shown = (
        cv2.imread(str(path)).astype(np.float32)
        for path in (folder / "demo/found/scene.jpg", folder / "demo/drawn/scene.jpg", ROOT / "docs/demo.jpg")
    )
    # Another backend's confidences differ in a letter or two, boxes that are not drawn in everything.
    difference = np.abs(drawn - shown).mean()
    assert difference < 1 < np.abs(plain - shown).mean()
    assert (ROOT / "docs/demo.jpg").stat().st_size <= 200_000


def test_blocks_say_what_they_need_in_known_words() -> None:
    assert {step.needs for step in STEPS} == {None, "setup"}
    assert len(re.findall("^<!-- needs: ", TEXT, re.MULTILINE)) == len(
        re.findall(r"^<!-- needs: \w+ -->\n```", TEXT, re.MULTILINE)
    )
    assert {step.language for step in RUN} == {"console", "python"}


@pytest.mark.parametrize("step", COMMANDS, ids=label)
def test_every_command_is_one_that_exists(step: Step) -> None:
    if step.needs == "setup":
        assert step.code in (
            "git clone ADDRESS yolo26-executorch", "cd yolo26-executorch", "pip install .", "pip install uv",
            "uv pip install --torch-backend cpu .",
        )  # fmt: skip
    else:
        assert parse(step.code)


@pytest.mark.parametrize(
    "command",
    [
        "yolo26-et export --modles yolo26n",
        "yolo26-et export --models yolo27n",
        "yolo26-et export --imgsz 600",
        "yolo26-et export --backend xnnpack --precision fp16",
        f"python {SCRIPT} --fast",
        "yolo26-et exprot",
    ],
)
def test_a_wrong_command_would_be_found(command: str) -> None:
    with pytest.raises(UsageError):
        parse(command)


@pytest.mark.parametrize(
    ("shown", "good"),
    [
        ("a 1\nb 2\n", True),
        ("a  1\n…\n", True),
        ("…\nb 2\n", True),
        ("a 1\n…\nb 2\n", True),
        ("a 1\n", False),
        ("a 2\n…\n", False),
        ("…\nb\n", False),
    ],
)
def test_output_is_compared(shown: str, good: bool) -> None:
    assert matches(shown, "\na 1\nb 2\n") is good


# --- The page ---------------------------------------------------------------------------------------------------------


def test_it_is_read_in_minutes_and_holds_no_figure_typed_by_hand() -> None:
    assert len(TEXT.splitlines()) <= 200
    before, _, rest = TEXT.partition("<!-- results:begin -->")
    generated, _, after = rest.partition("<!-- results:end -->")
    figure = re.compile(r"[\d.]+ (?:ms|times|MB|GB|fps)\b|[\d.]+ ?×|\d+ tests")
    assert figure.search(generated)
    assert figure.findall(before + after) == []


def test_what_stands_for_a_file_s_words_is_run_with_one() -> None:
    assert str(BEST) in "".join(step.code for step in RUN)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*re.findall("`make ([a-z-]+)`", TEXT)} <= {*targets}


PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md"), *ROOT.glob("[!.]*/README.md")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.name != "README.md" or [*links(text)]
    for target, anchor in links(text):
        file = (page.parent / target).resolve() if target else page
        assert file.exists() and file.is_relative_to(ROOT), target
        assert not anchor or anchor in slugs(file.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_the_version_is_the_package_s() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search('^version = "(.*)"', project, re.MULTILINE)
    assert version
    assert f"\n## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()
