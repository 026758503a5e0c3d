from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from support import make_manifest, publish
from support.site import Site
from support.stub_runner import NAMES, StubRunner, backend, cut, folder_of_pictures, picture, video
from yolo26_executorch import cli
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import BUNDLED, read, sample_images
from yolo26_executorch.vision import ultralytics_backend


class Command:
    """The command over a stub: `command(words…)` returns status, standard output and the lines on standard error."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.base, self.capsys = base, capsys
        self.runner = StubRunner()
        self.task = "detect"
        for task in ("detect", "classify"):
            options = ExportOptions(imgsz=(320, 320))
            publish(base, make_manifest(task, "xnnpack", name=task, classes=NAMES, options=options))
        monkeypatch.setattr(
            ultralytics_backend.RunnerBackend,
            "open",
            lambda folder, runner, device=None: backend(folder.name, self.runner),
        )

    def __call__(self, *words: object, task: str = "detect") -> tuple[int, str, list[str]]:
        if task != self.task:
            self.runner, self.task = StubRunner(task), task
        status = cli.main(["predict", str(self.base / task), *map(str, words)])
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err.splitlines()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path / "exports", monkeypatch, capsys)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), picture())
    return path


TOTALS = re.compile(
    r"(?P<images>\d+) (images?|frames?): (?P<found>.+); ms each: preprocess [\d.]+, inference [\d.]+, "
    r"postprocess [\d.]+; [\d.]+ a second in all"
)


def untimed(status: int, out: str, err: list[str]) -> tuple[int, list[str], str]:
    """Return the lines without their times, and what was found in all, the only line on standard error."""
    (line,) = err
    totals = TOTALS.fullmatch(line)
    assert totals is not None, line
    lines = [re.fullmatch(r"(.+), \d+\.\d ms", line) for line in out.splitlines()]
    return status, [line[1] for line in lines if line is not None], f"{totals['images']}: {totals['found']}"


def test_a_line_for_an_image(command: Command, photo: Path) -> None:
    one = f"image 1/1 {photo}"
    assert untimed(*command(photo)) == (0, [f"{one}: 1 person, 1 bicycle"], "1: 1 bicycle, 1 person")
    assert untimed(*command(photo, "--conf", 0.95)) == (0, [f"{one}: (no detections)"], "1: nothing found")
    words = ("--conf", 0, "--max-det", 2, "--classes", "car", 0)
    assert untimed(*command(photo, *words)) == (0, [f"{one}: 1 person, 1 car"], "1: 1 car, 1 person")
    found = untimed(*command(photo, task="classify"))
    assert found == (0, [f"{one}: bicycle 0.70, car 0.20, person 0.10"], "1: 1 bicycle")
    assert command.runner.closed


def test_lines_say_which_of_how_many(command: Command, tmp_path: Path, photo: Path) -> None:
    clip, empty = video(tmp_path / "clip.mp4", 2), tmp_path / "empty.png"
    empty.touch()
    status, out, err = command(photo, photo, empty, clip)
    assert status == 1 and err[0] == f"yolo26-et: warning: {empty} was left out: the file is empty"
    assert untimed(status, out, err[1:]) == (
        1,
        [
            f"image 1/4 {photo}: 1 person, 1 bicycle",
            f"image 2/4 {photo}: 1 person, 1 bicycle",
            f"video 4/4 (frame 1/2) {clip}: 1 person, 1 bicycle",
            f"video 4/4 (frame 2/2) {clip}: 1 person, 1 bicycle",
        ],
        "4: 4 bicycles, 4 persons",
    )


def test_tracked_objects_have_their_numbers(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("lap")
    clip = video(tmp_path / "clip.mp4", 6)
    status, lines, found = untimed(*command(clip, "--track", "--tracker", "bytetrack.yaml"))
    assert status == 0 and lines[-1].endswith(": 1 person (#2), 1 bicycle (#1)")
    assert found == "6: 1 bicycle, 1 person"


def test_a_document_for_programs(command: Command, photo: Path) -> None:
    status, out, err = command(photo, "--json")
    (result,) = json.loads(out).pop("results")
    assert (status, err) == (0, [])
    assert json.loads(out) == {
        "artifact": str(command.base / "detect"),
        "name": "detect",
        "task": "detect",
        "results": [result],
        "unreadable": [],
        "unsaved": [],
    }
    assert (result["path"], result["height"], result["width"]) == (str(photo), 240, 320)
    best = result["objects"][0]
    assert (best["name"], best["class"]) == ("bicycle", 1) and best["confidence"] == pytest.approx(0.9)
    assert best["box"] == pytest.approx({"x1": 120, "y1": 70, "x2": 200, "y2": 130})


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_corrupt_picture_among_fifty(command: Command, tmp_path: Path, form: list[str]) -> None:
    folder = folder_of_pictures(tmp_path / "pictures", 49)
    bad = cut(folder / "07.jpg", folder / "07_bad.jpg")
    status, out, err = command(folder, *form)
    assert status == 1
    assert err[0] == f"yolo26-et: warning: {bad} was left out: it is damaged, or not what its ending .jpg says"
    assert len(err) == (1 if form else 2)
    if form:
        document = json.loads(out)
        assert len(document["results"]) == 49 and document["unreadable"] == [str(bad)]
    else:
        assert [line.split(":")[0].split()[2] for line in out.splitlines()] == [
            str(folder / f"{n:02}.jpg") for n in range(49)
        ]


def test_a_long_video_takes_no_more_memory(command: Command, tmp_path: Path) -> None:
    from ultralytics.engine.results import Results

    alive: list[int] = []

    class Counting(StubRunner):
        def __call__(self, images: Any, **wanted: Any) -> dict[str, torch.Tensor]:
            if len(self.given) % 33 == 0:
                alive.append(sum(type(thing) is Results for thing in gc.get_objects()))
            return super().__call__(images, **wanted)

    command.runner = Counting()
    clip = video(tmp_path / "clip.mp4", 100)
    status, out, err = command(clip, "--save", "--save-dir", tmp_path / "out")
    lines = out.splitlines()
    assert (status, len(lines), err[1:]) == (0, 100, [f"saved in {tmp_path / 'out'}"])
    assert lines[0].startswith(f"video 1/1 (frame 1/100) {clip}: 1 person, 1 bicycle, ")
    assert lines[-1].startswith(f"video 1/1 (frame 100/100) {clip}:")
    assert len(alive) == 4 and max(alive) <= 2
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "clip.avi"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 100


def test_frames_are_numbered_in_each_video(command: Command, tmp_path: Path, photo: Path) -> None:
    clips = [video(tmp_path / name, 4) for name in ("a.mp4", "b.mp4")]
    status, out, _ = command(*clips, photo, "--vid-stride", 2, "--json")
    found = [(Path(result["path"]).name, result.get("frame")) for result in json.loads(out)["results"]]
    assert status == 0
    assert found == [("a.mp4", 1), ("a.mp4", 2), ("b.mp4", 1), ("b.mp4", 2), ("photo.jpg", None)]


def test_results_are_drawn_and_saved(command: Command, photo: Path, tmp_path: Path) -> None:
    status, _, err = command(photo, "--save", "--save-txt", "--save-crop")
    saved = tmp_path / "runs" / "detect" / "predict"
    assert (status, err[1:]) == (0, [f"saved in {saved}"])
    assert {str(path.relative_to(saved)) for path in saved.rglob("*.*")} == {
        "photo.jpg",
        "labels/photo.txt",
        "crops/bicycle/photo.jpg",
        "crops/person/photo.jpg",
    }
    plain = tmp_path / "plain"
    command(photo, "--save", "--save-dir", plain, "--no-show-labels", "--no-show-conf", "--line-width", 1)
    first, second = (read(path / "photo.jpg") for path in (saved, plain))
    assert first.shape == second.shape == (240, 320, 3) and (first != second).any()


def test_what_is_shown_on_a_terminal(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Path
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    status, out, err = command(photo)
    assert status == 0 and out.startswith(f"image 1/1 {photo}: 1 person, 1 bicycle, ")
    assert "photo.jpg" in "".join(err) and "1 done" in "".join(err)


def test_without_a_source_the_photographs_are_taken(command: Command) -> None:
    status, out, err = command()
    assert status == 0
    assert [name in line for name, line in zip(BUNDLED, out.splitlines(), strict=True)] == [True, True]
    assert [name in line for name, line in zip(BUNDLED, err, strict=False)] == [True, True]


def test_ultralytics_is_quiet_before_anything_imports_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = []

    def found(word: str) -> Path:
        quiet.append(os.environ.get("YOLO_VERBOSE"))
        return sample_images()[BUNDLED.index(word)]

    monkeypatch.delenv("YOLO_VERBOSE")
    monkeypatch.setattr("yolo26_executorch.cli.predict.bundled", found)
    assert command("bus.jpg")[0] == 0
    assert quiet == ["false"]


def test_a_cuda_artifact_does_not_run_on_the_cpu_without_a_word(command: Command, photo: Path, tmp_path: Path) -> None:
    assert command(photo, "--device", "cpu")[0] == 0
    publish(tmp_path / "exports", make_manifest(name="gpu"))
    assert cli.main(["predict", str(tmp_path / "exports" / "gpu"), str(photo), "device=cpu"]) == 2
    assert "was exported for CUDA; `yolo26-et export … --backend xnnpack`" in command.capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nothing.jpg"], 2, "no file or folder at nothing.jpg; check the path"),
        (["photo.jpg", "nothing.jpg"], 2, "no file or folder at nothing.jpg"),
        (["*.gif"], 2, "no file fits *.gif"),
        (["photo.jpg", "https://example.com/a.jpg"], 2, "an address, camera or screen is a source by itself"),
        (["photo.jpg", "0"], 2, "0: an address, camera or screen"),
        (["photo.jpg", "--classes", "persn"], 2, "no class persn; did you mean person?"),
        (["photo.jpg", "--conf", "1.5"], 2, "--conf 1.5: expected a number from 0 to 1"),
        (["photo.jpg", "--conf", "nan"], 2, "--conf nan"),
        (["photo.jpg", "--max-det", "0"], 2, "--max-det 0: expected a number from 1 up"),
        (["photo.jpg", "--vid-stride", "-1"], 2, "--vid-stride -1"),
        (["photo.jpg", "--line-width", "0"], 2, "--line-width 0"),
        (["photo.jpg", "--save-dir", "out"], 2, "--save-dir: nothing is to be saved"),
        (["photo.jpg", "--save", "--save-dir", "photo.jpg"], 2, "photo.jpg cannot be written to (it is no folder)"),
        (["photo.jpg", "--tracker", "botsort.yaml"], 2, "--tracker needs --track"),
        (["photo.jpg", "--runner", "other"], 2, "'other'"),
        (["empty"], 1, "empty: no image or video is in this folder"),
        (["empty", "empty"], 1, "no image or video is in this folder"),
        (["photo.jpg", "--track", "--tracker", "nothing"], 2, "none of the trackers botsort.yaml, bytetrack.yaml"),
        (["photo.jpg", "--agnostic-nms"], 2, "agnostic_nms=True: the exported head ranks each class by itself"),
        (["photo.jpg", "--nms"], 2, "nms=True: the exported head is the end-to-end one"),
        (["photo.jpg", "--no-end2end"], 2, "end2end=False: the exported head is the end-to-end one"),
        (["photo.jpg", "--max-det", "1000"], 2, "max_det=1000: this model was exported with 300 rows"),
        (["photo.jpg", "--imgsz", "640"], 2, "imgsz=640: this model was exported for 320 x 320 pixels"),
        (["photo.jpg", "--embed", "[1, 2]"], 2, "embed=[1, 2]: it needs the PyTorch model"),
        (["photo.jpg", "--batch", "0"], 2, "batch=0: expected a number of images from 1 up"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_opened(
    words: list[str], status: int, message: str, command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(ultralytics_backend.RunnerBackend, "open", never)
    Path("empty").mkdir()
    given, out, err = command(*words)
    assert (given, out, len(err)) == (status, "", 1)
    assert message in err[0]


def test_settings_without_an_effect_are_told(command: Command, photo: Path) -> None:
    status, _, err = command(photo, "--iou", 0.5, "--epochs", 3, "--no-agnostic-nms", "--imgsz", 320)
    assert status == 0 and err[:-1] == [
        "yolo26-et: warning: epochs=3 has no effect: it is one of training, validation or export",
        "yolo26-et: warning: iou=0.5 has no effect: nothing is suppressed, since the end-to-end head finds each object "
        "once",
    ]


def test_results_that_cannot_be_saved_are_named(command: Command, tmp_path: Path) -> None:
    import numpy as np

    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((8, 66_000, 3), np.uint8))
    out = tmp_path / "out"
    status, _, err = command(tmp_path / "wide.png", "--save", "--save-dir", out)
    named = f"yolo26-et: warning: {out / 'wide.jpg'} could not be saved: a JPEG has at most 65535 pixels a side"
    assert status == 1 and err[0].startswith(named) and len(err) == 2
    status, document, err = command(tmp_path / "wide.png", "--save", "--save-dir", out, "--json")
    assert status == 1 and len(err) == 1 and json.loads(document)["unsaved"] == [str(out / "wide.jpg")]


def test_an_address_gives_json_alone_and_leaves_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    for name, width in (("a", 32), ("b", 64)):
        site[f"/{name}/image.jpg"] = (200, "image/jpeg", cv2.imencode(".jpg", picture(16, width))[1].tobytes())
    thread = threading.Thread(target=site.server.serve_forever)
    thread.start()
    before = {*tmp_path.rglob("*")}
    try:
        for name, width in (("a", 32), ("b", 64)):
            address = f"{site.address}/{name}/image.jpg"
            status, out, err = command(address, "--json")
            (result,) = json.loads(out)["results"]
            assert (status, result["path"], result["width"], err) == (0, address, width, [])
        assert command(f"{site.address}/c/image.jpg", "--json")[:2] == (1, "")
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()
    assert {*tmp_path.rglob("*")} == before


def test_standard_output_without_room_is_no_defect(command: Command, photo: Path) -> None:
    code = "import sys; from yolo26_executorch.cli import main; sys.exit(main(['list']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "yolo26-et: error: No space left on device\n")


def test_tracking_needs_its_package_and_objects(command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command(photo, "--track")[::2] == (
        2,
        ["yolo26-et: error: tracking needs the package lap, which is not installed: pip install 'lap>=0.5.12'"],
    )
    status, _, err = command(photo, "--track", task="classify")
    assert status == 2 and "finds no objects" in err[0]


def test_no_artifact_and_a_damaged_one(command: Command, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert cli.main(["predict", "nothing", str(photo)]) == 1
    err = command.capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "no artifact at nothing" in err[0]
    (command.base / "detect" / "model.pte").write_bytes(b"PROGRAM")
    status, _, err = command(photo)
    assert status == 1 and len(err) == 1 and "model.pte" in err[0]


def test_a_wrong_path_is_told_before_anything_heavy_is_imported(command: Command) -> None:
    code = (
        "import sys\nfrom yolo26_executorch.cli import main\n"
        f"assert main(['predict', {str(command.base / 'detect')!r}, 'nothing.jpg', '--save']) == 2\n"
        "assert not {'torch', 'executorch', 'ultralytics', 'numpy', 'cv2'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (command.base.parent / "runs").exists()


def test_a_real_artifact(exported: Callable[[str], Path], tmp_path: Path) -> None:
    from shapes.dataset import scene

    cv2.imwrite(str(tmp_path / "shapes.png"), scene("val", 0).image[..., ::-1])
    words = [str(exported("detect")), "shapes.png", "--save", "--save-dir", "out", "--json"]
    done = predict_and_name_modules(words, tmp_path)
    said, modules = done.stderr.splitlines()
    assert (done.returncode, said) == (0, f"saved in {tmp_path / 'out'}")
    (result,) = json.loads(done.stdout)["results"]
    assert result["objects"]
    assert (tmp_path / "out" / "shapes.jpg").is_file()
    # Those take longer to import than all the rest.
    slow = {"executorch.exir", "torch._dynamo", "torch._inductor", "torchvision", "sympy", "triton", "torchao"}
    assert not slow & {*modules.split()}
    assert "executorch.extension.pybindings._C" in modules.split()


def predict_and_name_modules(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, which names what it has imported in a last line on standard error."""
    code = (
        "import sys\nfrom yolo26_executorch.cli import main\n"
        "status = main(['predict', *sys.argv[1:]])\nprint(*sys.modules, file=sys.stderr)\nsys.exit(status)"
    )
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=folder)
