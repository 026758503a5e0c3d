from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from support.site import Site
from support.stub_runner import cut, folder_of_pictures, picture, video
from yolo26_executorch.errors import InputError, UsageError
from yolo26_executorch.vision import sources
from yolo26_executorch.vision.sources import Files, checked, is_stream, name_of, open_source


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    served = Site()
    thread = threading.Thread(target=served.server.serve_forever)
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()
    gc.collect()
    assert not [*(tmp_path / "tmp").iterdir()], "something was left of what was fetched"
    assert not [*(tmp_path / "here").iterdir()], "something was left in the working folder"


def png(value: int) -> bytes:
    data: bytes = cv2.imencode(".png", np.full((8, 8, 3), value, np.uint8))[1].tobytes()
    return data


def values(source: Any, **options: Any) -> list[int]:
    """Return the upper left value of each image."""
    loader = open_source(source, **options)
    found = [int(image[0, 0, 0]) for _, images, _ in loader for image in images]
    loader.close()
    return found


def test_an_address_gives_what_is_there_and_leaves_nothing(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site["/a/image.png"] = (200, "image/png", png(10))
    site["/b/image.png"] = (200, "image/png", png(20))
    assert values(f"{site.address}/a/image.png") == [10]
    assert values(f"{site.address}/b/image.png") == [20]
    assert site.asked == ["/a/image.png", "/b/image.png"]
    site["/a/image.png"] = (200, "image/png", png(30))
    assert values(f"{site.address}/a/image.png") == [30]
    assert capfd.readouterr() == ("", "")


def test_an_address_without_an_ending_is_what_the_server_says(site: Site, tmp_path: Path) -> None:
    site["/image?id=1"] = (200, "image/png", png(10))
    site["/clip"] = (200, "video/mp4", video(tmp_path / "clip.mp4", 3).read_bytes())
    site["/live"] = (200, "multipart/x-mixed-replace; boundary=x", b"")
    assert values(f"{site.address}/image?id=1") == [10]
    assert len(values(f"{site.address}/clip")) == 3
    assert is_stream(f"{site.address}/live")


def test_the_result_is_named_by_its_address(site: Site) -> None:
    site["/a/image.png"] = (200, "image/png", png(10))
    address = f"{site.address}/a/image.png"
    files = open_source(address)
    ((paths, _, _),) = files
    files.close()
    assert paths == [address]
    assert name_of(f"{site.address}/a/my%20image.png?key=a/b.jpg") == "my image"
    assert name_of("/folder/image.tar.png") == "image.tar"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (None, "the server answers 404 Not Found"),
        ((500, "image/png", b""), "the server answers 500"),
        ((200, "text/html; charset=utf-8", b"<html>"), "the server sent text/html, which is no image or video"),
    ],
)
def test_an_address_with_nothing_is_told(site: Site, page: Any, message: str) -> None:
    if page is not None:
        site["/image.png"] = page
    with pytest.raises(InputError, match=message) as caught:
        open_source(f"{site.address}/image.png")
    assert str(caught.value).startswith(f"{site.address}/image.png: ")


def test_a_server_that_is_not_there() -> None:
    for path in ("/image.png", "/image"):
        with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/image.*: the server does not answer"):
            open_source(f"http://127.0.0.1:9{path}")


def test_a_disk_without_room_for_what_is_fetched(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site["/image.png"] = (200, "image/png", png(10))
    monkeypatch.setattr(Path, "open", lambda *_, **__: open("/dev/full", "wb", 0))  # noqa: PTH123, SIM115
    with pytest.raises(InputError, match="could not be stored: No space left on device"):
        open_source(f"{site.address}/image.png")


def test_a_list_with_addresses(site: Site, tmp_path: Path) -> None:
    site["/a/image.png"] = (200, "image/png", png(10))
    bad = f"{site.address}/nothing.png"
    (tmp_path / "local.png").write_bytes(png(20))
    source = [f"{site.address}/a/image.png", bad, str(tmp_path / "local.png")]
    files = Files(source)
    assert [int(images[0][0, 0, 0]) for _, images, _ in files] == [10, 20]
    files.close()
    assert files.problems == {bad: "the server answers 404 Not Found"}


def test_unreadable_files_are_left_out_and_named(tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "mixed", 4)
    cut(folder / "01.jpg", folder / "01_cut.jpg")
    (folder / "02_empty.png").touch()
    (folder / "notes.txt").write_text("no image")
    clip = video(folder / "clip.mp4", 6)
    cut(clip, folder / "a_cut.mp4")
    for batch in (1, 3, 8):
        files = Files(str(folder), batch=batch, vid_stride=2)
        read = [Path(path).name for paths, _, _ in files for path in paths]
        assert read == ["00.jpg", "01.jpg", "02.jpg", "03.jpg", "clip.mp4", "clip.mp4", "clip.mp4"]
        assert {Path(path).name: why for path, why in files.problems.items()} == {
            "01_cut.jpg": "it is damaged, or not what its ending .jpg says",
            "02_empty.png": "the file is empty",
            "a_cut.mp4": "it is damaged, or not what its ending .mp4 says",
        }
        assert files.unreadable == [*files.problems]
        assert files.done == files.nf == 8


def test_no_batch_has_both_images_and_frames(tmp_path: Path) -> None:
    clips = [video(tmp_path / f"{name}.mp4", 3) for name in "ab"]
    cv2.imwrite(str(tmp_path / "c.png"), picture())
    loader = Files([clips[0], clips[1], tmp_path / "c.png"], batch=2)
    batches = [([Path(path).stem for path in paths], loader.mode) for paths, _, _ in loader]
    expected = [(["a", "a"], "video"), (["a"], "video"), (["b", "b"], "video"), (["b"], "video"), (["c"], "image")]
    assert batches == expected


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_with_a_bad_line_runs_the_good_ones(name: str, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "images", 3)
    cut(folder / "01.jpg", folder / "02.jpg")
    source = tmp_path / name
    lines = ["source"] if name.endswith("csv") else []
    source.write_text("\n".join([*lines, f"{folder}/00.jpg", "", "images/01.jpg", f"{folder}/02.jpg", "nothing.jpg"]))
    files = Files(source)
    assert [Path(path).name for paths, _, _ in files for path in paths] == ["00.jpg", "01.jpg"]
    assert files.problems == {
        str(tmp_path / "nothing.jpg"): "no such file",
        str(folder / "02.jpg"): "it is damaged, or not what its ending .jpg says",
    }


def test_a_python_list_keeps_its_order_and_names_what_is_bad(tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "images", 3)
    bad = cut(folder / "00.jpg", tmp_path / "cut.jpg")
    source = [folder / "02.jpg", str(bad), picture(), "nothing.jpg", Image.new("RGB", (9, 9)), str(folder / "00.jpg")]
    for batch in (1, 2, 16):
        files = Files(source, batch=batch)
        read = [Path(path).name for paths, _, _ in files for path in paths]
        assert read == ["02.jpg", "image2.jpg", "image4.jpg", "00.jpg"]
        assert [Path(path).name for path in files.unreadable] == ["nothing.jpg", "cut.jpg"]


def test_two_images_of_one_name_are_two(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(10))
    first = Image.open(tmp_path / "a.png")
    first.load()
    (tmp_path / "a.png").write_bytes(png(20))
    assert values([first, Image.open(tmp_path / "a.png")]) == [10, 20]


def test_a_long_list_holds_one_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(10))
    read: list[str] = []
    monkeypatch.setattr(sources, "imread", lambda path: read.append(str(path)) or np.zeros((4, 4, 3), np.uint8))
    files = iter(open_source([str(tmp_path / "a.png")] * 500, batch=4))
    for count in range(1, 4):
        paths, images, _ = next(files)
        assert len(paths) == len(images) == 4 and len(read) == 4 * count


def test_how_much_is_done_counts_frames(tmp_path: Path) -> None:
    files = Files(str(video(tmp_path / "clip.mp4", 4)))
    assert [files.done for _ in files] == pytest.approx([0.25, 0.5, 0.75, 1])


def test_a_camera_that_is_missing_is_told() -> None:
    with pytest.raises(InputError, match=r"77 cannot be used as a source: .*is a camera connected"):
        open_source(77)
    with pytest.raises(InputError, match=r"rtsp://127\.0\.0\.1:9/x cannot .*check the address"):
        open_source("rtsp://127.0.0.1:9/x")


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install mss"):
        open_source("screen 1")
    (tmp_path / "a.heic").write_bytes(b"heic")
    files = Files(tmp_path / "a.heic")
    assert [*files] == []
    assert "pip install pi-heif" in files.problems[str(tmp_path / "a.heic")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing/here.jpg", "nothing/here.jpg: no such file"),
        ("*.nothing", r"\*.nothing: no image or video fits the pattern"),
        ("src", "src: no image or video is in this folder .*'src/\\*\\*/\\*.jpg'"),
        ("no-ending", r"no-ending: its name has no ending; it must have one of an image \(avif, .*mp4"),
        ("notes.doc", r"notes.doc: its ending .doc is not one of an image .*rename it"),
        (["nothing.jpg"], "nothing.jpg: no such file"),
        (["nothing.jpg", "b.jpg"], r"nothing.jpg: no such file \(and 1 more\)"),
        ([], "an empty list"),
        (None, "a NoneType cannot be used as a source: Unsupported image type"),
        ({}, "a dict cannot be used"),
        ([torch.zeros(3, 32, 32)], "a Tensor cannot be used as an image"),
        (np.zeros((0, 4, 3), np.uint8), r"an array of shape \(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"an array of shape \(1, 4, 4, 3\)"),
        (torch.zeros(1, 3, 30, 30), "divisible by stride 32"),
    ],
)
def test_what_is_no_source_is_refused(source: Any, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "no-ending").write_bytes(png(1))
    (tmp_path / "notes.doc").write_bytes(png(1))
    with pytest.raises(InputError, match=message) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)


def test_arrays_are_taken_where_their_values_are_an_images() -> None:
    image = np.array([[[0, 100, 255]]])
    for kind in ("uint8", "int64", "float32", "float64"):
        found = checked(image.astype(kind))
        assert found.dtype == np.uint8 and found.tolist() == image.tolist()
    assert values(np.full((4, 4, 3), 0x1234, np.uint16)) == [0x12]
    assert values(np.full((4, 4), 7, np.uint8)) == [7]
    assert values(np.zeros((4, 4, 3))) == [0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4, 3), 0.5), r"float64 in 0..1 cannot be told from a black image: give \(image \* 255\)"),
        (np.full((4, 4, 3), 0.5, np.float32), "float32 in 0..1"),
        (np.full((4, 4, 3), np.nan), "holds NaN"),
        (np.full((4, 4, 3), -1.0), r"in -1..-1 is no image: expected uint8, 0..255"),
        (np.full((4, 4, 3), 256), "in 256..256 is no image"),
        (np.ones((4, 4, 3), bool), "an array of bool"),
        (Image.new("F", (4, 4)), "mode F"),
    ],
)
def test_arrays_of_other_values_are_refused(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source([image])


def test_a_photograph_that_ultralytics_ships_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [name] = Files("bus.jpg").files
    assert Path(name).is_file() and not Path(name).is_relative_to(tmp_path)
    cv2.imwrite("bus.jpg", picture())
    assert Files("bus.jpg").files == [str(tmp_path / "bus.jpg")]
