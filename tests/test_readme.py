"""README's commands and snippets are run, in its order and in one folder; its tables are compared with the code.

A comment `<!-- needs: … -->` before a block says what keeps it from being run; its commands are parsed all the same.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support import PATIENCE_S, ROOT
from support.pages import SCRIPT, Step, is_said, literals, parse, steps
from yolo26_executorch import cli
from yolo26_executorch.errors import UsageError
from yolo26_executorch.models.tasks import GUIDE_TASKS as TASKS

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
NEEDS = ("setup", "network", "checkpoint", "artifact", "gpu")

# One worker runs them all, so that the walk is done once.
pytestmark = pytest.mark.xdist_group("readme")


def matches(shown: str, printed: str) -> bool:
    """Whether output is as README shows it: `…` stands for anything, spacing and the length of rules do not count."""

    def plain(text: str) -> str:
        return " ".join(re.sub("─+", "─", text).split())

    pieces = [re.escape(plain(piece)) for piece in shown.split("…")]
    return re.fullmatch(r"\s*.*?\s*".join(pieces), plain(printed), re.DOTALL) is not None


STEPS = [*steps(TEXT)]
COMMANDS = [step for step in STEPS if step.language == "console"]
RUN = [step for step in STEPS if step.language in ("console", "python") and not step.needs]


def label(step: Step) -> str:
    return f"line {step.line}"


# --- Commands and snippets --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that README is read in, with what a checkout has that its commands name."""
    made = tmp_path_factory.mktemp("readme")
    for name in ("weights", "tools"):
        (made / name).symlink_to(ROOT / name)
    return made


@pytest.fixture(scope="module")
def walk(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Step, subprocess.CompletedProcess[str]]:
    """Run everything that can be run here, from top to bottom."""
    programs = tmp_path_factory.mktemp("bin")
    for name, words in (("yolo26-et", [sys.executable, "-m", "yolo26_executorch"]), ("python", [sys.executable])):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (programs / name).chmod(0o755)
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
    assert step.language == "console" or done.stdout


@pytest.mark.slow
def test_the_demo_finds_the_shapes_in_a_picture(
    folder: Path, walk: dict[Step, subprocess.CompletedProcess[str]]
) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    assert run("tools/draw.py", "scene", "demo/drawn/scene.jpg") == "demo/drawn/scene.jpg\n"
    where = ("demo/drawn/scene.jpg", "--save", "--save-dir", "demo/found")
    found = run("-m", "yolo26_executorch", "predict", "exports/yolo26n-shapes", *where)
    assert len(re.findall("triangle|arrow|house|dome|drop|heart", found)) >= 3
    assert (folder / "demo/found/scene.jpg").stat().st_size > 10_000


def test_blocks_say_what_they_need_in_known_words() -> None:
    assert {step.needs for step in STEPS} <= {None, *NEEDS}
    assert len(re.findall("^<!-- needs: ", TEXT, re.MULTILINE)) == len(
        re.findall(r"^<!-- needs: \w+ -->\n```", TEXT, re.MULTILINE)
    )
    assert {step.language for step in STEPS} == {"console", "python", "text"}
    assert RUN


@pytest.mark.parametrize("step", COMMANDS, ids=label)
def test_every_command_is_one_that_exists(step: Step) -> None:
    if parse(step.code) is None and step not in RUN:
        program, *words = shlex.split(step.code)
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert (program == "make" and words[0] in targets) or step.code == "pip install ."
        assert step.needs == "setup"


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


# --- Links and tables -------------------------------------------------------------------------------------------------


def rows(heading: str) -> list[list[str]]:
    """Return the cells of a table, found by its first heading; without the headings."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table
    lines = table[1].splitlines()
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_links_resolve() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall("^#+ (.*)$", TEXT, re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists()
        assert not anchor or anchor in anchors


def test_the_flags_are_those_of_the_command() -> None:
    parser = next(
        action.choices["export"]
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )  # fmt: skip
    actions = {action.option_strings[-1]: action for action in parser._actions if action.dest not in ("help", "named")}
    told = {flag: row for row in rows("flag") for flag in re.findall(r"--[a-z-]+", row[0])}
    assert told.keys() == actions.keys()
    for flag, action in actions.items():
        if action.choices:
            assert f"`{flag} {'|'.join(map(str, action.choices))}`" in told[flag][0]
        if action.default not in (None, False, []):
            default = action.default[0] if isinstance(action.default, list) else str(action.default)
            assert default in told[flag][2]


def test_the_outputs_are_those_of_the_tasks() -> None:
    sizes = {"K": "300", "H4": "H/4", "W4": "W/4", "EXTRA": "32", "KEYPOINTS": "17", "VALUES": "3", "CLASSES": "1000"}
    told, task = [], ""
    for first, output, form, entries in rows("task"):
        task = first or task
        told.append((task, output.strip("`"), form))
        row = next(row for row in TASKS[task].named if row.name == output.strip("`"))
        assert all(column in entries for column in row.columns) or "as above" in entries
    assert told == [
        (task.name, row.name, f"{row.dtype} ({', '.join(sizes.get(str(dim), str(dim)) for dim in row.dims)})")
        for task in TASKS.values()
        for row in task.named
    ]


def test_the_tolerances_are_those_of_the_test() -> None:
    from yolo26_executorch.parity.tolerances import TOLERANCES

    told = rows("quantity")
    for names, *limits in told:
        for name in re.findall("`(.*?)`", names):
            for precisions, limit in zip((("fp32",), ("tf32", "fp16"), ("bf16",)), limits, strict=True):
                numbers = [float(number) for number in re.findall(r"[\d.]+", limit)]
                for precision in precisions:
                    tolerance = TOLERANCES[precision][name]
                    assert numbers == [tolerance.absolute, tolerance.relative][: len(numbers)], (name, precision)
                    assert len(numbers) == 2 or not tolerance.relative


def test_the_messages_are_those_of_the_code() -> None:
    texts = literals((ROOT / "src").rglob("*.py"))
    messages = [message for row in rows("what you see") for message in re.findall("`(.*?)`", row[0])]
    assert len(messages) > 10
    assert [message for message in messages if not is_said(message, texts)] == []


def test_the_version_is_the_package_s() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search('^version = "(.*)"', project, re.MULTILINE)
    assert version
    assert f"\n## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()
