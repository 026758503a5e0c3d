"""The C++ example is built against ExecuTorch's wheel as its README says, run, and compared with our Python runner."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import executorch
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from shapes.dataset import scene
from support import PATIENCE_S, ROOT, load_tool
from support.pages import Step, parse, steps
from yolo26_executorch import load_manifest, open_runner
from yolo26_executorch.models.preprocess import fit, to_input
from yolo26_executorch.models.tasks import GUIDE_TASKS as TASKS
from yolo26_executorch.models.tasks import Task

README = ROOT / "examples" / "cpp" / "README.md"
STEPS = [*steps(README.read_text(encoding="utf-8"))]
CONFIDENCE = 0.25
"""What the program prints from."""

# Programs that pip installed come first: a distribution's CMake may be too old.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

# One worker does it all, so that the program is built once.
pytestmark = [pytest.mark.xdist_group("cpp"), pytest.mark.slow]


def tool(*names: str) -> str:
    """Return the first of these programs that is there; skip the test where none is."""
    found = next((path for name in names if (path := shutil.which(name, path=PATH))), None)
    return found or pytest.skip(f"needs {' or '.join(names)}")


def console(command: str, folder: Path) -> str:
    """Run one of README's commands and return what it prints."""
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(start: str) -> list[Step]:
    return [step for step in STEPS if step.language == "console" and step.code.startswith(start)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which README's commands have built the program."""
    tool("c++", "g++", "clang++")
    tool("ninja")
    version = subprocess.run([tool("cmake"), "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (3, 28):
        pytest.skip(f"needs CMake 3.28, this is {version.splitlines()[0]}")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "examples").symlink_to(ROOT / "examples")
    for step in commands("cmake"):
        console(step.code, folder)
    return folder


def run(folder: Path, *words: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "build" / "cpp" / "yolo26", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def ppm(path: Path, picture: NDArray[np.uint8]) -> Path:
    Image.fromarray(picture).save(path)
    return path


def rows(printed: str, columns: int) -> list[list[str]]:
    """Return the cells printed for one picture, below its name and the headings; a class's name may have spaces."""
    return [line.split(maxsplit=columns) for line in printed.splitlines()[2:]]


def expected(outputs: Mapping[str, torch.Tensor], task: Task) -> NDArray[np.float32]:
    """Return the figures that the program prints of a model's outputs: a row each, the class last."""
    if task.ranked:
        detections = outputs["detections"][0].numpy()
        return detections[detections[:, -2] >= CONFIDENCE]
    probabilities = outputs["probabilities"][0].numpy()
    best = np.argsort(-probabilities, kind="stable")[:5]
    return np.stack([probabilities[best], best.astype(np.float32)], 1)


@pytest.mark.parametrize("task", TASKS)
def test_it_prints_what_our_runner_gives(
    task: str, folder: Path, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact = exported(task)
    manifest = load_manifest(artifact)
    with open_runner(artifact) as runner:
        for index in range(8):  # the first picture with anything that is sure enough
            picture = fit(scene("val", index).image, manifest.options.size, TASKS[task])
            wanted = expected(runner(to_input(picture[None], runner.input)), TASKS[task])
            if len(wanted):
                break
    assert len(wanted)
    done = run(folder, artifact, ppm(tmp_path / "picture.ppm", picture))
    assert done.returncode == 0, done.stderr
    cells = rows(done.stdout, wanted.shape[1])
    assert [row[-1] for row in cells] == [manifest.classes[int(index)] for index in wanted[:, -1]]
    found = np.array([row[:-1] for row in cells], dtype=np.float32)
    np.testing.assert_array_equal(found[:, -1], wanted[:, -1])
    np.testing.assert_allclose(found[:, -2], wanted[:, -2], atol=1e-4)
    np.testing.assert_allclose(found[:, :-2], wanted[:, :-2], atol=0.01)


@pytest.fixture
def place(folder: Path, exported: Callable[[str], Path], tmp_path: Path) -> Path:
    """Return a folder with the program where README has it, and a copy of an artifact that a test may change."""
    shutil.copytree(exported("detect"), tmp_path / "exports" / "yolo26n-shapes")
    (tmp_path / "build").symlink_to(folder / "build")
    return tmp_path


def test_readme_works_as_shown(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    [data] = commands("python tools/draw.py dataset")
    assert load_tool("draw").main(shlex.split(data.code)[2:]) == 0
    [export] = commands("yolo26-et")  # the fixture has made the same
    assert parse(export.code)
    [snippet] = [step for step in STEPS if step.language == "python"]
    exec(compile(snippet.code, str(README), "exec"), {})  # noqa: S102
    [shown] = commands("build/")
    printed = console(shown.code, place)
    shown_text = shown.shown.removesuffix("…\n")
    told = rows(shown_text, 6)
    assert shown_text.splitlines()[:2] == printed.splitlines()[:2]
    found = rows(printed, 6)[: len(told)]
    assert [row[-2:] for row in found] == [row[-2:] for row in told]
    # Processors differ in the order of their sums.
    np.testing.assert_allclose(*(np.array([row[:-2] for row in one], np.float32) for one in (found, told)), atol=0.02)


def test_it_needs_no_python_and_no_wheel_where_it_is_deployed(place: Path) -> None:
    libraries = re.findall(r"`(lib\w+\.so)`", README.read_text(encoding="utf-8"))
    assert len(libraries) == 4
    [wheel] = executorch.__path__
    target = place / "deployed"
    target.mkdir()
    for file in (place / "build" / "cpp" / "yolo26", *(Path(wheel) / "lib" / name for name in libraries)):
        shutil.copy(file, target)
    loader = subprocess.run(
        [target / "yolo26"], env={"LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True, check=True
    )
    found = dict(re.findall(r"(lib(?:executorch|python|torch)\S*) => (\S+)", loader.stdout))
    assert found == {name: str(target / name) for name in libraries}


def edit(place: Path, **changes: str) -> None:
    path = place / "exports" / "yolo26n-shapes" / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["options"] |= changes
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")


def blank(place: Path, side: int = 320) -> Path:
    return ppm(place / "blank.ppm", np.full((side, side, 3), 114, np.uint8))


def test_a_blank_picture_has_nothing(place: Path) -> None:
    done = run(place, place / "exports" / "yolo26n-shapes", blank(place))
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2


def test_class_names_are_read_whatever_they_hold(place: Path) -> None:
    path = place / "exports" / "yolo26n-shapes" / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    names = {index: f'"{{a}}, \\ ü {name}' for index, name in data["classes"].items()}
    path.write_text(json.dumps({**data, "classes": names}, indent=2, ensure_ascii=False), encoding="utf-8")
    size = load_manifest(path.parent).options.size
    picture = ppm(place / "picture.ppm", fit(scene("val", 0).image, size, TASKS["detect"]))
    cells = rows(run(place, path.parent, picture).stdout, 6)
    assert cells
    assert all(row[-1] == names[row[-2]] for row in cells)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda place: shutil.rmtree(place / "exports"), "cannot read "),
        (lambda place: edit(place, outputs="ultralytics"), "made with --outputs named and --io host"),
        (lambda place: edit(place, io="device"), "made with --outputs named and --io host"),
        (lambda place: (place / "exports/yolo26n-shapes/manifest.json").write_text("{"), "names no classes"),
        (
            lambda place: (place / "exports/yolo26n-shapes/model.pte").write_bytes(b"p" * 4096),
            "cannot load the program",
        ),
        (lambda place: blank(place, 640), "takes pictures of 320 × 320 pixels, given 640 × 640"),
        (lambda place: (place / "blank.ppm").write_bytes(b"P6 320 320 255\n" + bytes(100)), "is cut off"),
        (lambda place: (place / "blank.ppm").write_bytes(b"\xff\xd8\xff"), "is no binary PPM picture"),
        (lambda place: (place / "blank.ppm").write_bytes(b"P6 99999 99999 255\n"), "is no binary PPM picture"),
        (lambda place: (place / "blank.ppm").unlink(), "is no binary PPM picture"),
    ],
)
def test_a_mistake_is_told_in_words(damage: Callable[[Path], object], said: str, place: Path) -> None:
    picture = blank(place)
    damage(place)
    done = run(place, place / "exports" / "yolo26n-shapes", picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr.splitlines()[-1]


def test_as_many_pictures_as_the_batch_are_wanted(place: Path) -> None:
    picture = blank(place)
    done = run(place, place / "exports" / "yolo26n-shapes", picture, picture)
    assert done.returncode == 1
    assert "takes a batch of 1, number of pictures given: 2" in done.stderr
    assert run(place).returncode == 2
