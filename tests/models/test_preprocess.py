from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support import PATIENCE_S
from yolo26_executorch.errors import InputError
from yolo26_executorch.models import preprocess
from yolo26_executorch.models.tasks import CLASSIFY, DETECT, TASKS, TensorSpec

FLOAT = TensorSpec("images", (2, 3, 64, 96), "float32", "")
BYTES = TensorSpec("images", (2, 64, 96, 3), "uint8", "")


def gradient(height: int, width: int) -> preprocess.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, np.full_like(rows, 7)], -1).astype(np.uint8)


def test_the_size_of_pictures_is_read_from_either_format() -> None:
    assert preprocess.size_of(FLOAT) == preprocess.size_of(BYTES) == (64, 96)


def test_the_usual_endings_are_pictures() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp"} <= preprocess.suffixes()
    assert not {"", ".txt", ".pt", ".mp4"} & preprocess.suffixes()


# ---- reading ----


def test_pictures_are_read_as_rgb(tmp_path: Path) -> None:
    expected = gradient(20, 30)
    Image.fromarray(expected).save(tmp_path / "a.png")
    given = preprocess.read(tmp_path / "a.png")
    assert given.dtype == np.uint8
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(gradient(20, 30)).convert(mode).save(path)
    assert preprocess.read(path).shape == (20, 30, 3)


def test_pictures_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(gradient(20, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert preprocess.read(tmp_path / "a.jpg").shape == (30, 20, 3)


def test_a_format_whose_package_is_missing_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    for ending, command in (("HEIC", "pip install pi-heif"), ("avif", r"pip install -U 'pillow>=11\.3'")):
        with pytest.raises(InputError, match=command):
            preprocess.read(tmp_path / f"a.{ending}")


def test_unreadable_pictures_are_refused_in_one_line(tmp_path: Path) -> None:
    whole, cut, text = tmp_path / "whole.jpg", tmp_path / "cut.jpg", tmp_path / "text.jpg"
    Image.fromarray(gradient(200, 300)).save(whole)
    cut.write_bytes(whole.read_bytes()[:-500])
    text.write_text("no picture")
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(deep)
    for path, words in [
        (tmp_path / "none.jpg", "no image at"),
        (tmp_path, "cannot be read"),
        (cut, "cannot be read"),
        (text, "cannot be read"),
        (deep, "more than 8 bits"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            preprocess.read(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_the_samples_are_there() -> None:
    paths = preprocess.sample_images()
    assert [path.name for path in paths] == ["bus.jpg", "zidane.jpg"]
    assert [preprocess.read(path).shape for path in paths] == [(1080, 810, 3), (720, 1280, 3)]


# ---- fitting ----


def test_letterbox_keeps_the_aspect_and_pads_with_grey() -> None:
    image = np.full((100, 200, 3), 200, dtype=np.uint8)
    fitted, scale, (left, top) = preprocess.letterbox(image, (320, 320))
    assert fitted.shape == (320, 320, 3)
    assert fitted.dtype == np.uint8
    assert (scale, left, top) == (1.6, 0, 80)
    assert (fitted[:80] == 114).all()
    assert (fitted[240:] == 114).all()
    assert (fitted[80:240] == 200).all()


@pytest.mark.parametrize("shape", [(480, 640), (641, 479), (30, 1000), (320, 640), (7, 5)])
@pytest.mark.parametrize("size", [(320, 320), (320, 640), (640, 352)])
def test_places_lead_back_into_the_picture(shape: tuple[int, int], size: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), dtype=np.uint8)
    image[shape[0] // 2 :, shape[1] // 2 :] = 255
    fitted, scale, (left, top) = preprocess.letterbox(image, size)
    assert fitted.shape == (*size, 3)
    rows, columns = np.nonzero(fitted[..., 0] > 185)
    assert (rows.min() - top) / scale == pytest.approx(shape[0] // 2, abs=1 + 1 / scale)
    assert (columns.min() - left) / scale == pytest.approx(shape[1] // 2, abs=1 + 1 / scale)


def test_the_middle_is_cut_out() -> None:
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    image[:, 60:140] = 255
    cropped = preprocess.center_crop(image, (50, 50))
    assert cropped.shape == (50, 50, 3)
    assert cropped.dtype == np.uint8
    # Half the size: the middle 100 columns are kept, of which 10 on each side are black.
    assert (cropped[:, 6:44] == 255).all()
    assert (cropped[:, [0, 1, 2, 3, 46, 47, 48, 49]] == 0).all()
    assert preprocess.center_crop(image.transpose(1, 0, 2), (50, 50)).shape == (50, 50, 3)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = gradient(224, 224)
    np.testing.assert_array_equal(preprocess.center_crop(image, (224, 224)), image)
    np.testing.assert_array_equal(preprocess.letterbox(image, (224, 224))[0], image)


def test_sizes_that_are_not_square_are_scaled_each_way() -> None:
    assert preprocess.center_crop(gradient(100, 100), (320, 640)).shape == (320, 640, 3)


def test_odd_pictures_fill_the_crop() -> None:
    for shape in [(225, 224), (333, 500), (500, 333), (3, 1000)]:
        assert (preprocess.center_crop(np.full((*shape, 3), 9, dtype=np.uint8), (224, 224)) == 9).all()


def test_each_task_is_fitted_its_own_way() -> None:
    image = np.full((100, 200, 3), 200, dtype=np.uint8)
    assert (preprocess.fit(image, (320, 320), DETECT) == 114).any()
    assert not (preprocess.fit(image, (320, 320), CLASSIFY) == 114).any()
    for task in TASKS.values():
        assert preprocess.fit(image, (320, 352), task).shape == (320, 352, 3)


# ---- inputs ----


def test_float_inputs_are_planes_from_0_to_1() -> None:
    images = np.stack([gradient(64, 96), np.full((64, 96, 3), 255, dtype=np.uint8)])
    given = preprocess.to_input(images, FLOAT)
    assert (given.shape, given.dtype) == ((2, 3, 64, 96), torch.float32)
    assert given.is_contiguous()
    assert float(given.max()) == 1
    assert float(given[0, 1, 5, 48]) == pytest.approx(images[0, 5, 48, 1] / 255)


def test_byte_inputs_stay_as_they_are() -> None:
    images = np.stack([gradient(64, 96)] * 2)
    # A mirrored view: its strides are negative, which no runtime takes.
    given = preprocess.to_input(images[:, :, ::-1], BYTES)
    assert given.is_contiguous()
    np.testing.assert_array_equal(given.numpy(), images[:, :, ::-1])


@pytest.mark.parametrize("spec", [FLOAT, BYTES])
def test_wrong_pictures_are_refused(spec: TensorSpec) -> None:
    right: Any = np.zeros((2, 64, 96, 3), dtype=np.uint8)
    for wrong in (right[:1], right[:, :32], right[..., :1], right.transpose(0, 3, 1, 2), right.astype(np.float32)):
        with pytest.raises(InputError, match=r"expected images as uint8 \(2, 64, 96, 3\)"):
            preprocess.to_input(wrong, spec)


@pytest.mark.parametrize("spec", [FLOAT, BYTES])
def test_made_up_inputs_follow_the_seed(spec: TensorSpec) -> None:
    one, again, other = (preprocess.random_input(spec, seed) for seed in (1, 1, 2))
    assert (tuple(one.shape), one.dtype) == (spec.shape, getattr(torch, spec.dtype))
    assert one.is_contiguous()
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_made_up_inputs_are_the_same_in_both_formats() -> None:
    floats, bytes_ = preprocess.random_input(FLOAT, 3), preprocess.random_input(BYTES, 3)
    assert torch.equal(floats, bytes_.permute(0, 3, 1, 2).float() / 255)


def test_made_up_inputs_have_contrast_in_every_scale() -> None:
    given = preprocess.random_input(TensorSpec("images", (1, 3, 640, 640), "float32", ""), 0)
    assert (float(given.min()), float(given.max())) == (0, 1)
    for side in (1, 8, 40):
        assert float(torch.nn.functional.avg_pool2d(given, side).std()) > 0.05


def test_the_generator_of_others_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    preprocess.random_input(FLOAT, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_torchvision_stays_out() -> None:
    code = (
        "import sys; from yolo26_executorch.models import preprocess as p, tasks;"
        "i = p.read(p.sample_images()[0]); [p.fit(i, (320, 320), t) for t in tasks.TASKS.values()];"
        "sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)


def test_depth_models_see_the_whole_image_stretched() -> None:
    image = np.zeros((100, 300, 3), dtype=np.uint8)
    image[:, 150:] = 255
    fitted = preprocess.fit_stretched(image, (320, 480))
    assert fitted.shape == (320, 480, 3)
    assert (fitted[:, :230] == 0).all() and (fitted[:, 250:] == 255).all()


@pytest.mark.parametrize(
    ("task", "names", "known"),
    [
        ("detect", ["person", "bicycle"], True),
        ("detect", ["triangle", "bush", "businessman"], False),
        ("classify", ["tench", "school bus"], True),
        ("classify", ["minibus"], True),
        ("obb", ["plane", "large vehicle"], False),
        ("semantic", ["road", "Person"], True),
        ("depth", ["depth"], True),
    ],
)
def test_who_knows_what_is_on_the_photographs(task: str, names: list[str], known: bool) -> None:
    assert preprocess.shows_on_samples(TASKS[task], names) is known
