"""Verification of real artifacts, whole and damaged inside, and with eager PyTorch in the artifact's place."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from support import SLOW, damage, each_task, eager_artifact, make_manifest, publish, shapes_checkpoint
from yolo26_executorch import runtime
from yolo26_executorch.artifacts.manifest import CARD, MANIFEST, PROGRAM
from yolo26_executorch.artifacts.reading import load_manifest
from yolo26_executorch.errors import CheckpointError, IntegrityError, UsageError
from yolo26_executorch.exporter import smoke_test
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.preprocess import sample_images
from yolo26_executorch.parity import baseline
from yolo26_executorch.parity.verify import PictureFigures, VerifyReport, complete, find_pictures, verify
from yolo26_executorch.runtime.eager import EagerRunner

Exported = Callable[[str], Path]


def told(report: VerifyReport) -> dict[str, Any]:
    """The report as data, once it went through a file."""
    data: dict[str, Any] = json.loads(json.dumps(report.to_json(), allow_nan=False))
    return data


def save_noise(folder: Path, *names: str) -> list[Path]:
    """Write small pictures of smooth noise, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        cells = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((160, 120), Image.Resampling.BILINEAR).save(folder / name)
    return [folder / name for name in names]


# ---- real artifacts --------------------------------------------------------------------------------------------------


def both_refuse(folder: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Check that `verify` and the test after an export refuse an artifact; returns what `verify` says."""
    monkeypatch.setattr(smoke_test, "TIMED_RUNS", 3)
    report = verify(folder, checkpoint=shapes_checkpoint(task))
    figures = smoke_test.run(folder, checkpoint=shapes_checkpoint(task))
    assert (report.passed, figures["passed"]) == (False, False)
    assert told(report)["passed"] is False
    assert [failure for failure in figures["failures"] if failure in report.failures]
    return report.failures


@pytest.mark.parametrize("task", each_task("detect", "classify"))
def test_an_artifact_passes(exported: Exported, task: str) -> None:
    seen: list[tuple[int, int, str]] = []
    report = verify(exported(task), checkpoint=shapes_checkpoint(task), progress=lambda *now: seen.append(now))
    assert report.failures == ()
    assert report.passed
    names = ["bus.jpg", "zidane.jpg", "random 1", "random 2"]
    assert seen == [(number, 4, name) for number, name in enumerate(names, 1)]
    assert [picture.name for picture in report.pictures] == names
    assert (report.task, report.backend, report.precision, report.runner) == (task, "xnnpack", "fp32", "executorch")
    figures = report.figures["eager fp32"]
    assert figures.agreement is not None and figures.agreement.rows == figures.agreement.matched
    assert {quantity.name for quantity in figures.quantities} == {
        "detect": {"box_px", "score"},
        "segment": {"box_px", "score", "mask_iou", "full_mask_iou", "coefficient", "proto"},
        "obb": {"box_px", "score", "angle_rad"},
        "pose": {"box_px", "score", "keypoint_px", "visibility"}, "classify": {"probability", "probability_sum"},
        "semantic": {"logit", "class_pixels"}, "depth": {"depth"},
    }[task]  # fmt: skip
    for quantity in figures.quantities:
        parts = [one for picture in report.pictures for one in picture.reports["eager fp32"].quantities]
        parts = [one for one in parts if one.name == quantity.name]
        assert quantity.max == max(one.max for one in parts)
        assert quantity.ratio == max(one.ratio for one in parts) <= 1
        assert quantity.values == sum(one.values for one in parts)
        assert figures.worst[quantity.name].picture in names
    assert figures.confident.matched == figures.confident.objects
    told(report)


@pytest.mark.parametrize("task", each_task("classify"))
def test_damaged_weights_are_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    folder = damage.damaged(exported(task), tmp_path, damage.flip_weight_bits)
    failures = both_refuse(folder, task, monkeypatch)
    assert any("times its tolerance" in failure for failure in failures)


@pytest.mark.parametrize("task", ["detect", *[pytest.param(task, marks=SLOW) for task in ("obb", "pose")]])
def test_swapped_columns_are_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    folder = damage.damaged(exported(task), tmp_path, damage.swap_columns)
    failures = both_refuse(folder, task, monkeypatch)
    assert any("rows have no class" in failure for failure in failures)


@pytest.mark.parametrize("task", ["detect", pytest.param("segment", marks=SLOW)])
def test_a_dropped_sort_is_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """All that it gives is right, but for the order."""
    folder = damage.damaged(exported(task), tmp_path, damage.drop_sort)
    failures = both_refuse(folder, task, monkeypatch)
    assert all("rows are not sorted by confidence" in failure for failure in failures)


@SLOW
def test_shifted_keypoints_are_refused(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = damage.damaged(exported("pose"), tmp_path, damage.shift_keypoints)
    failures = both_refuse(folder, "pose", monkeypatch)
    assert any("keypoint_px is off by up to 1 px" in failure for failure in failures)
    assert not any("box_px" in failure or "score" in failure for failure in failures)


def test_files_that_changed_are_refused_before_anything_is_loaded(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported("classify"), folder)
    damage.flip_weight_bits(folder / PROGRAM)
    monkeypatch.setattr("yolo26_executorch.models.checkpoints.find_checkpoint", lambda *_: pytest.fail("loaded"))
    with pytest.raises(IntegrityError, match=r"model\.pte was changed"):
        verify(folder, checkpoint=shapes_checkpoint("classify"))


def test_another_checkpoint_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="SHA-256") as raised:
        verify(exported("classify"), checkpoint=shapes_checkpoint("detect"))
    assert "\n" not in str(raised.value)
    assert verify(exported("classify"), sample_images()[:1], weights_dir=shapes_checkpoint("classify").parent).passed


# ---- the model in the artifact's place -------------------------------------------------------------------------------


def shifted(of: Callable[[Tensor], Tensor], by: float = 0.5) -> Callable[[ExportModel], None]:
    """Damage the confidences of the pictures that a function of the batch says, bool (B,)."""

    def damage_it(model: ExportModel) -> None:
        forward = model.forward

        def wrong(images: Tensor) -> tuple[Tensor, ...]:
            first, *others = forward(images)
            return (first * (1 + by * of(images).float().view(-1, *[1] * (first.dim() - 1))), *others)

        model.forward = wrong  # type: ignore[method-assign]

    return damage_it


def test_random_weights_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify")
    report = verify(folder)
    assert report.passed
    assert told(report)["checkpoint"] == {"origin": "random", "file": None, "sha256": None, "seed": 0, "folder": None}
    with pytest.raises(CheckpointError, match="random weights"):
        verify(folder, checkpoint=shapes_checkpoint("classify"))
    manifest = load_manifest(folder)
    other = replace(manifest, checkpoint=replace(manifest.checkpoint, seed=1))
    (folder / MANIFEST).write_text(json.dumps(other.to_json()))
    assert not verify(folder).passed


def test_unreadable_pictures_are_named_and_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify")
    paths = save_noise(tmp_path / "photos", "a.png", "c.jpg")
    (tmp_path / "photos" / "b.jpg").write_bytes(paths[1].read_bytes()[:500])
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    seen: list[tuple[int, int, str]] = []
    report = verify(folder, tmp_path / "photos", progress=lambda *now: seen.append(now))
    assert [(picture.name, picture.path, picture.passed) for picture in report.pictures] == [
        (path.name, str(path), True) for path in paths
    ]
    [unreadable] = report.unreadable
    assert unreadable.name == "b.jpg"
    assert unreadable.reason.startswith(f"{tmp_path / 'photos' / 'b.jpg'} cannot be read as an image")
    assert (report.failed, report.passed) == ((), False)
    assert seen == [(1, 3, "a.png"), (2, 3, "b.jpg"), (3, 3, "c.jpg")]
    report = verify(folder, [tmp_path / "photos" / "b.jpg"])
    assert (report.pictures, len(report.unreadable), report.passed) == ((), 1, False)
    assert told(report)["figures"] == {}


def test_the_picture_and_the_object_that_are_off_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, zidane = sample_images()
    folder, model = eager_artifact(
        tmp_path, monkeypatch, "detect", shifted(lambda images: images[:, 0, 0, 0] != images[:, 1, 0, 0])
    )
    noise = save_noise(tmp_path / "photos", "noise.png")[0]
    Image.open(noise).resize((320, 320)).save(noise)  # the only one that has no grey edge
    report = verify(folder, [bus, noise, zidane])
    assert [picture.name for picture in report.failed] == ["noise.png"]
    assert all(failure.startswith("noise.png, against eager fp32: ") for failure in report.failures)
    figures = report.figures["eager fp32"]
    worst = figures.worst["score"]
    assert worst.picture == "noise.png"
    assert worst.label is not None and worst.name == model.names[worst.label]
    assert worst.confidence is not None and worst.box is not None
    # Confident objects are told apart, a picture's own and all together.
    counts = [picture.confident["eager fp32"] for picture in report.pictures]
    assert figures.confident.objects == sum(count.objects for count in counts)
    assert counts[0].objects == counts[0].matched > 0


@pytest.mark.slow
def test_pictures_fill_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pictures, two at a time: each is compared once, with its own answer."""
    second = shifted(lambda images: torch.arange(len(images)) == 1)
    folder, _ = eager_artifact(tmp_path, monkeypatch, "segment", second, batch=2, input="uint8")
    save_noise(tmp_path / "photos", "a.png", "b.png", "c.png")
    report = verify(folder, tmp_path / "photos")
    assert [(picture.name, picture.passed) for picture in report.pictures] == [
        ("a.png", True), ("b.png", False), ("c.png", True)
    ]  # fmt: skip
    agreements = [picture.reports["eager fp32"].agreement for picture in report.pictures]
    assert [agreement and agreement.rows for agreement in agreements] == [300, 300, 300]


def test_a_reduced_precision_is_compared_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, by PyTorch's own half precision on the CPU."""
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify", backend="cuda", precision="bf16")
    monkeypatch.setattr(baseline, "device_of", lambda manifest: "cpu")
    report = verify(folder)
    assert report.passed
    assert list(report.figures) == ["eager bf16", "eager fp32"]
    exact, rounded = (report.figures[name].quantities[0] for name in report.figures)
    assert exact.max == 0 < rounded.max


@pytest.mark.slow
def test_nothing_but_figures_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = eager_artifact(tmp_path, monkeypatch, "classify")
    outputs: list[weakref.ref[Tensor]] = []

    class Watched(EagerRunner):
        def __call__(self, images: Any, **wanted: Any) -> dict[str, Tensor]:
            given = super().__call__(images, **wanted)
            outputs.append(weakref.ref(given["probabilities"]))
            return given

    alive: list[int] = []

    def count(done: int, total: int, name: str) -> None:
        gc.collect()
        alive.append(sum(output() is not None for output in outputs))

    monkeypatch.setattr(runtime, "open_runner", lambda folder, runner, device=None: Watched(model))
    save_noise(tmp_path / "photos", *(f"{number}.png" for number in range(8)))
    report = verify(folder, tmp_path / "photos", progress=count)
    assert len(outputs) == len(report.pictures) == 8
    assert max(alive) <= 1
    assert not [one for picture in report.pictures for one in picture.reports.values() if one.items or one.errors]


# ---- which pictures --------------------------------------------------------------------------------------------------


def test_pictures_of_the_same_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = eager_artifact(tmp_path, monkeypatch, "classify")
    paths = [path for name in ("one", "two") for path in save_noise(tmp_path / name, "a.png")]
    report = verify(folder, [tmp_path / "one", tmp_path / "two" / "a.png"])
    assert [picture.name for picture in report.pictures] == [str(path) for path in paths]


def test_folders_and_files_are_taken_in_order_and_once(tmp_path: Path) -> None:
    a, b, c = (*save_noise(tmp_path / "one", "b.PNG", "a.jpg"), *save_noise(tmp_path / "two", "c.jpg"))
    (tmp_path / "one" / "sub").mkdir()
    (tmp_path / "one" / "._a.jpg").touch()
    assert find_pictures([c, tmp_path / "one", b, str(tmp_path / "two")]) == [c, b, a]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "no picture or folder at .*none"),
        (["empty"], r"no pictures in .*empty; name a folder"),
        (["above"], r"no pictures in .*above; did you mean .*above/below\?"),
        ([], "no pictures were named"),
    ],
)
def test_places_without_pictures_are_refused(tmp_path: Path, words: Sequence[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    save_noise(tmp_path / "above" / "below", "a.png")
    with pytest.raises(UsageError, match=message):
        verify(tmp_path / "no artifact either", [tmp_path / word for word in words])


# ---- completing the test of an export for a GPU that was not there ---------------------------------------------------


def lacking(tmp_path: Path, *architectures: str) -> tuple[Path, VerifyReport]:
    """An artifact that has not run on these, and a report of a verification that passed."""
    folder = publish(tmp_path, make_manifest(test={"passed": True, "runner": "reference", "not_run": [*architectures]}))
    picture = PictureFigures("bus.jpg", None, {}, {})
    manifest = load_manifest(folder)
    report = VerifyReport(
        str(folder), manifest.name, manifest.task, "cuda", "fp16", "aoti", "NVIDIA A10", manifest.checkpoint, {},
        (picture, picture), (),
    )  # fmt: skip
    return folder, report


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 6))


def test_what_had_not_run_is_written_down_once_it_has(tmp_path: Path, ampere: None) -> None:
    folder, report = lacking(tmp_path, "8.6", "9.0")
    before = {name: record for name, record in load_manifest(folder).files.items() if name != CARD}
    assert complete(folder, report) == "8.6"
    test = load_manifest(folder).test
    assert test is not None
    assert (test["passed"], test["not_run"]) == (True, ["9.0"])
    [run] = test["run_on"]
    assert (run["architecture"], run["device"], run["runner"], run["pictures"]) == ("8.6", "NVIDIA A10", "aoti", 2)
    written = (folder / CARD).read_text()
    assert "Run on compute capability 8.6 (NVIDIA A10)" in written
    assert "**Not run** on GPUs of compute capability 9.0:" in written
    assert {name: record for name, record in load_manifest(folder).files.items() if name != CARD} == before
    assert complete(folder, report) is None


def test_the_last_one_completes_the_test(tmp_path: Path, ampere: None) -> None:
    folder, report = lacking(tmp_path, "8.6")
    assert complete(folder, report) == "8.6"
    assert "not_run" not in (load_manifest(folder).test or {})
    assert "Not run" not in (folder / CARD).read_text()


def test_a_failure_and_other_gpus_complete_nothing(
    tmp_path: Path, ampere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, report = lacking(tmp_path, "8.6")
    assert complete(folder, replace(report, pictures=())) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    assert complete(folder, report) is None
    assert (load_manifest(folder).test or {})["not_run"] == ["8.6"]
