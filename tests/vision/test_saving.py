from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from support.stub_runner import StubRunner, backend, folder_of_pictures, picture, video
from yolo26_executorch.vision import saving
from yolo26_executorch.vision.predict import make_predictor
from yolo26_executorch.vision.saving import Saver, jpeg, safe_name
from yolo26_executorch.vision.sources import open_source


def predict(source: Any, folder: Path, *, names: dict[int, str] | None = None, **settings: Any) -> Any:
    """Predict with the stub, which finds a person and a bicycle in each image, and return the predictor."""
    model = backend()
    model.names = names or model.names
    predictor = make_predictor(model, "predict", {"save_dir": str(folder), **settings})
    list(predictor(source=open_source(source)))
    return predictor


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_have_ultralytics_names(tmp_path: Path) -> None:
    source = [folder_of_pictures(tmp_path / name, 1) for name in "ab"]
    out = tmp_path / "out"
    predictor = predict([*source, video(tmp_path / "clip.mp4", 2)], out, save=True, save_txt=True, save_frames=True)
    assert files(out) == {
        "00.jpg", "00-2.jpg", "clip.avi", "clip_frames/clip_1.jpg", "clip_frames/clip_2.jpg",
        "labels/00.txt", "labels/00-2.txt", "labels/clip_1.txt", "labels/clip_2.txt",
    }  # fmt: skip
    assert (predictor.unsaved, predictor.saver.saved) == ({}, 9)


def test_files_are_byte_for_byte_ultralytics(tmp_path: Path) -> None:
    from ultralytics.models.yolo.detect.predict import DetectionPredictor

    source = folder_of_pictures(tmp_path / "images", 2)
    settings: dict[str, Any] = {"save": True, "save_txt": True, "save_conf": True, "save_crop": True}
    predict(source, tmp_path / "ours", **settings)
    model = backend()
    theirs = DetectionPredictor(overrides={**settings, "save_dir": str(tmp_path / "theirs"), "imgsz": model.imgsz})
    theirs.callbacks["on_predict_end"].clear()
    theirs.model, theirs.device = model, model.device
    list(theirs(source=str(source)))
    assert files(tmp_path / "ours") == files(tmp_path / "theirs") and len(files(tmp_path / "ours")) == 8
    for name in files(tmp_path / "ours"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_labels_of_a_former_run_do_not_stay(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "images", 1)
    predict(source, tmp_path / "out", save_txt=True)
    predict(source, tmp_path / "out", save_txt=True)
    assert len((tmp_path / "out" / "labels" / "00.txt").read_text().splitlines()) == 2
    predict(source, tmp_path / "out", save_txt=True, conf=0.99)
    assert files(tmp_path / "out") == set()


def test_an_image_that_no_jpeg_holds_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((8, 66_000, 3), np.uint8))
    predictor = predict(tmp_path / "wide.png", tmp_path / "out", save=True, save_txt=True)
    assert [*predictor.unsaved] == [str(tmp_path / "out" / "wide.jpg")]
    why = "a JPEG has at most 65535 pixels a side, and the image is 66000 x 8"
    assert [*predictor.unsaved.values()] == [why]
    assert f"{tmp_path / 'out' / 'wide.jpg'} could not be saved: {why}" in caplog.text
    assert files(tmp_path / "out") == {"labels/wide.txt"}


def test_an_encoder_that_gives_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving.cv2, "imencode", lambda *_: (False, None))
    source = folder_of_pictures(tmp_path / "images", 1)
    predictor = predict(source, tmp_path / "out", save=True)
    assert "could not be encoded" in predictor.unsaved[str(tmp_path / "out" / "00.jpg")]
    assert files(tmp_path / "out") == set()


def test_each_crop_that_cannot_be_saved_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "jpeg_of_crop", full)
    predictor = predict(picture(), tmp_path / "out", names={0: "a", 1: "a"}, save_crop=True)
    crops = tmp_path / "out" / "crops" / "a"
    assert predictor.unsaved == dict.fromkeys(
        (str(crops / "image0.jpg"), str(crops / "image0-2.jpg")), "No space left on device"
    )


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file grows beyond 30 000 bytes: what a full disk does to it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_on_the_disk_is_named_and_absent(tmp_path: Path, small_files: None) -> None:
    image = picture(480, 640)  # noise, of which a JPEG is large
    settings: dict[str, Any] = {"save": True, "save_txt": True, "save_crop": True}
    predictor = predict([image, image[:40, :40]], tmp_path / "out", **settings)
    assert str(tmp_path / "out" / "image0.jpg") in predictor.unsaved
    assert set(predictor.unsaved.values()) == {"File too large"}
    left = files(tmp_path / "out")
    assert {"image1.jpg", "labels/image0.txt", "labels/image1.txt"} <= left and "image0.jpg" not in left
    assert not any(name.endswith(".part") for name in left)


def test_a_video_that_is_cut_is_named(tmp_path: Path, small_files: None) -> None:
    clip = tmp_path / "clip.mp4"
    with_room = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (with_room, with_room))
    video(clip, 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, with_room))
    predictor = predict(clip, tmp_path / "out", save=True)
    assert [*predictor.unsaved] == [str(tmp_path / "out" / "clip.avi")] and predictor.saver.saved == 0
    assert "of 30 frames are in it" in predictor.unsaved[str(tmp_path / "out" / "clip.avi")]


def test_a_video_that_cannot_be_started_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_VIDEO", (".avi", "XXXX"))
    predictor = predict(video(tmp_path / "clip.mp4", 2), tmp_path / "out", save=True)
    assert "could not be started" in predictor.unsaved[str(tmp_path / "out" / "clip.avi")]


def test_a_video_is_whole_where_the_reader_stops_early(tmp_path: Path) -> None:
    model = backend()
    predictor = make_predictor(model, "predict", {"save": True, "save_dir": str(tmp_path / "out")})
    results = predictor(source=open_source(video(tmp_path / "clip.mp4", 9)), stream=True)
    for _ in range(4):
        next(results)
    results.close()
    assert predictor.unsaved == {}
    assert cv2.VideoCapture(str(tmp_path / "out" / "clip.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 4


@pytest.mark.parametrize(
    "name", ["x" * 300, "../../x", "/etc/x", "..", ".", "a\x00b", "a\nb", "é" * 200, "\ud800", " "]
)
def test_class_names_are_folders_inside(name: str, tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "images", 1)
    out = tmp_path / "deep" / "er" / "out"
    predictor = predict(source, out, names={0: name, 1: f"{name}?"}, save_crop=True, save_txt=True)
    assert predictor.unsaved == {}
    assert len({*out.glob("crops/*/00.jpg")}) == 2
    assert files(tmp_path) == files(out.parent.parent.parent)
    assert {path.parts[0] for path in map(Path, files(tmp_path))} == {"deep", "images"}


def test_long_names_of_images_are_shortened(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("x" * 250 + ".png", "x" * 249 + "y.png"):
        cv2.imwrite(str(folder / name), picture())
    predictor = predict(folder, tmp_path / "out", save=True, save_txt=True, save_crop=True)
    assert predictor.unsaved == {}
    assert len({*(tmp_path / "out").glob("x*.jpg")}) == 2


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    saver = Saver(tmp_path.joinpath(*["x" * 250] * 20), SimpleNamespace(save=True, save_txt=False, save_crop=False))
    result: Any = SimpleNamespace(path="a.jpg")
    saver.write(result, picture(), mode="image", frame=None, fps=30, key=0)
    assert [*saver.unsaved.values()] == ["File name too long"]


def test_names_are_kept_where_they_are_plain() -> None:
    for name in ("person", "traffic light", ".hidden", "名前", "a.b", "x" * 255):
        assert safe_name(name) == name
    assert safe_name("a/b") != safe_name("a_b") == "a_b"
    assert len(safe_name("x" * 300, ".jpg")) == 255
    assert safe_name("x" * 300) != safe_name("x" * 301)


def test_a_jpeg_is_ultralytics(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), picture())
    assert jpeg(picture()) == (tmp_path / "a.jpg").read_bytes()


def test_nothing_is_saved_unasked(tmp_path: Path) -> None:
    runner = StubRunner()
    predictor = make_predictor(backend(runner=runner), "predict", {"save_dir": str(tmp_path / "out")})
    list(predictor(source=open_source(picture())))
    assert runner.given and not (tmp_path / "out").exists()
