"""The pages of docs/: their commands are run or parsed, their messages and names looked up, the site built.

Exports are parsed only: the fixture `exported` makes the artifact that the pages' first export would. What needs a
network, a GPU, a camera, a cluster or minutes is parsed, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import yolo26_executorch
from support import PATIENCE_S, ROOT, load_tool
from support.pages import Step, is_said, links, literals, matches, parse, rows, slugs, steps
from yolo26_executorch import cli
from yolo26_executorch.models.tasks import TASKS

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NEEDS = (None, "setup", "network", "gpu", "camera", "cluster", "time")
SETUP = ("pip install .", "pip install uv", "uv pip install --torch-backend cpu .")
DATASET = "python tools/draw.py dataset "
ALL_STEPS = [
    (page.stem, step)
    for page in PAGES
    if page.stem != "ultralytics"  # which test_transcripts.py runs
    for step in steps(page.read_text(encoding="utf-8"))
]
STEPS = [(page, step) for page, step in ALL_STEPS if step.language == "console"]
# The order of the site's navigation is that of a reader.
ORDER = re.findall(r": ([\w-]+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
RUN = sorted(
    (
        (page, step)
        for page, step in ALL_STEPS
        if step.language in ("console", "python") and not step.needs and not step.code.startswith("yolo26-et export")
    ),
    key=lambda one: ORDER.index(one[0]),
)

needs_mkdocs = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings_handlers")),
    reason="needs mkdocs-material and mkdocstrings: pip install '.[docs]'",
)


def label(one: tuple[str, Step]) -> str:
    return f"{one[0]}, line {one[1].line}"


# --- Commands ---------------------------------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_looked_at() -> None:
    assert {step.language for _, step in ALL_STEPS} == {"console", "python", "text", "mermaid"}
    assert {step.needs for _, step in STEPS} <= {*NEEDS}
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(re.findall("^<!-- needs: ", text, re.MULTILINE)) == len(
        re.findall(r"^<!-- needs: \w+ -->\n```", text, re.MULTILINE)
    )


@pytest.mark.parametrize("one", STEPS, ids=label)
def test_every_command_is_one_that_exists(one: tuple[str, Step]) -> None:
    assert (
        parse(one[1].code) or one[1].code.startswith(DATASET) or (one[1].needs, one[1].code in SETUP) == ("setup", True)
    )


def test_every_command_of_the_program_is_shown() -> None:
    shown = {shlex.split(step.code)[1] for _, step in STEPS if step.code.startswith("yolo26-et ")}
    assert shown - {"--version"} == {*cli.COMMANDS}


@pytest.mark.slow
def test_they_work_in_the_order_of_reading(
    exported: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(exported("detect"), tmp_path / "exports" / "yolo26n-shapes")
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(ROOT / "tools"), *sys.path])
    assert {step.language for _, step in RUN} == {"console", "python"}
    for page, step in RUN:
        if step.language == "python":
            status, out, err = run_script(tmp_path, step.code)
        else:
            words = shlex.split(step.code)
            status = load_tool("draw").main(words[2:]) if step.code.startswith(DATASET) else cli.main(words[1:])
            out, err = capsys.readouterr()
        assert status == 0, f"{page}, line {step.line}: {step.code}\n{err}"
        assert "Traceback" not in err
        assert out
        assert not step.shown or matches(step.shown, out), f"{page}, line {step.line}: {step.code}\n{out}"
    assert len([*(tmp_path / "seen").iterdir()]) == 8
    assert (tmp_path / "exports" / "report.html").exists()


def run_script(folder: Path, code: str) -> tuple[int, str, str]:
    """Run a snippet as a file of its own, which processes that it starts can import."""
    script = folder / "snippet.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script.name], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.returncode, done.stdout, done.stderr


# --- Tables, messages, names, what is not measured --------------------------------------------------------------------


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def test_the_flags_are_those_of_the_command() -> None:
    actions = {
        action.option_strings[-1]: action
        for action in cli._parser(("export",)).commands["export"]._actions
        if action.dest not in ("help", "named")
    }
    told = {flag: row for row in rows(page("workflow"), "flag") for flag in re.findall(r"--[a-z-]+", row[0])}
    assert told.keys() == actions.keys()
    for flag, action in actions.items():
        if action.choices:
            assert f"`{flag} {'|'.join(map(str, action.choices))}`" in told[flag][0]
        if action.default not in (None, False, []):
            default = action.default[0] if isinstance(action.default, list) else str(action.default)
            assert default in told[flag][2]


def test_the_outputs_are_those_of_the_tasks() -> None:
    sizes = {
        "K": "300", "H4": "H/4", "W4": "W/4", "H8": "H/8", "W8": "W/8", "EXTRA": "32", "KEYPOINTS": "17", "VALUES": "3",
        "CLASSES": "1000",
    }  # fmt: skip
    told, task = [], ""
    for first, output, form, entries in rows(page("artifact"), "task"):
        task = first or task
        told.append((task, output.strip("`"), form))
        row = next(row for row in TASKS[task].named if row.name == output.strip("`"))
        assert all(column in entries for column in row.columns) or "as above" in entries
    assert told == [
        (
            task.name, row.name,
            f"{row.dtype.replace('class index', 'uint8')} "
            f"({', '.join(sizes.get(str(dim), str(dim)) for dim in row.dims)})",
        )
        for task in TASKS.values()
        for row in task.named
    ]  # fmt: skip


def test_the_tolerances_are_those_of_the_test() -> None:
    from yolo26_executorch.parity.tolerances import TOLERANCES

    for names, *limits in rows(page("performance"), "quantity"):
        for name in re.findall("`(.*?)`", names):
            for precisions, limit in zip((("fp32",), ("tf32", "fp16"), ("bf16",)), limits, strict=True):
                numbers = [float(number) for number in re.findall(r"[\d.]+", limit)]
                for precision in precisions:
                    tolerance = TOLERANCES[precision][name]
                    assert numbers == [tolerance.absolute, tolerance.relative][: len(numbers)], (name, precision)
                    assert len(numbers) == 2 or not tolerance.relative


def test_the_messages_are_those_of_the_code() -> None:
    cells = [row[0] for row in rows(page("troubleshooting"), "what you see")]
    messages = [message for cell in cells for message in re.findall("`(.*?)`", cell)]
    program = (ROOT / "examples" / "cpp" / "main.cpp").read_text(encoding="utf-8")
    texts = [*literals((ROOT / "src").rglob("*.py")), *re.findall(r'"((?:[^"\\\n]|\\.)*)"', program)]
    assert len(messages) > 30
    assert [message for message in messages if not is_said(message, texts)] == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("no artifact at …: it has no …; did you mean", True),
        ("… is damaged: …; copy or export it again", True),
        ("it has no …; no artifact at …", False),  # the pieces in another order
        ("no artifact at …; copy or export it again", False),  # of two messages
        ("…", False),
    ],
)
def test_the_pieces_of_a_message_stand_in_one_text_in_their_order(message: str, said: bool) -> None:
    texts = ["no artifact at …: it has no …; did you mean that?", "… is damaged: …; copy or export it again"]
    assert is_said(message, texts) is said


def test_the_page_on_python_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    told = re.findall(r"^::: yolo26_executorch\.(\w+)$", text, re.MULTILINE)
    errors = {name for name in yolo26_executorch.__all__ if name.endswith("Error")}
    assert len(told) == len({*told})
    assert {*told} == {"errors", *yolo26_executorch.__all__} - errors


def test_what_is_said_to_be_unmeasured_is() -> None:
    files = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results").glob("*.json")]
    assert {data["gpu"] for data in files} == {"NVIDIA H100 80GB HBM3", "NVIDIA H200"}
    assert {row["subject"] for data in files if data["kind"] == "bench" for row in data["records"]} == {
        "artifact",
        "compile",
        "eager",
        "onnxruntime",
    }
    assert [data["gpu"] for data in files if data["kind"] == "by hand"] == ["NVIDIA H200"]
    options = [run["options"] for data in files for run in data["runs"]]
    assert options
    assert all(one["backend"] == "cuda" for one in options)
    variants = [record["variant"] for data in files if data["kind"] == "accuracy" for record in data["records"]]
    assert variants and not any(variants)  # none of the published models


# --- Links and the site -----------------------------------------------------------------------------------------------


def test_links_resolve() -> None:
    """On a forge, where the pages are read as they are."""
    found = [(page, *link) for page in PAGES for link in links(page.read_text(encoding="utf-8"))]
    assert found
    for page, target, anchor in found:
        file = (page.parent / target).resolve() if target else page
        assert file.is_file() or (not anchor and file.is_dir()), f"{page.name}: {target}"
        assert file.is_relative_to(ROOT)
        assert not anchor or anchor in slugs(file.read_text(encoding="utf-8")), f"{page.name}: {target}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    assert sorted(ORDER) == [page.stem for page in PAGES]


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what the site is made of, which a test may change."""
    for name in ("mkdocs.yml", "README.md", "docs", "examples", "results", "src"):
        source, target = ROOT / name, tmp_path / name
        with contextlib.suppress(NotADirectoryError):
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            continue
        shutil.copy(source, target)
    return tmp_path


@needs_mkdocs
def test_the_site_is_whole(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {page.stem: page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html")}
    assert {*ORDER} <= {*pages}
    assert "find_package" in pages["cpp"]
    assert 'id="yolo26_executorch.YOLO26.predict"' in pages["api"]
    assert "auto|cuda|xnnpack" in pages["workflow"]
    results = [*(ROOT / "results").glob("*.json")]
    assert len(results) > 3
    for data in results:
        assert f'href="files/results/{data.name}"' in pages["results"]
        assert (tmp_path / "files" / "results" / data.name).read_bytes() == data.read_bytes()
    # Nothing is fetched from elsewhere.
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', "".join(pages.values())) == []


@pytest.mark.slow
@needs_mkdocs
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("docs/workflow.md", "performance.md#accuracy", "performance.md#precision"),
        ("examples/cpp/README.md", "(main.cpp)", "(program.cpp)"),
        ("docs/results.md", "(../results/h100-80gb-fp16.json)", "(../results/none.json)"),
    ],
)
def test_a_broken_link_fails_the_build(file: str, old: str, new: str, copy: Path, tmp_path: Path) -> None:
    path = copy / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert build(copy, tmp_path / "site").returncode == 1
