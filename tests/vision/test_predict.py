from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from shapes.dataset import scene
from support import SLOW, each_task, network, shapes_checkpoint
from support.stub_runner import BOXES, StubRunner, backend, folder_of_pictures, picture
from yolo26_executorch.errors import InputError, OptionError
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.checkpoints import Checkpoint
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.random_weights import spread
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.runtime import open_runner
from yolo26_executorch.runtime.eager import EagerRunner
from yolo26_executorch.vision.agreement import mask_iou
from yolo26_executorch.vision.api import YOLO26
from yolo26_executorch.vision.predict import make_predictor
from yolo26_executorch.vision.sources import open_source
from yolo26_executorch.vision.torchvision_shim import import_torchvision
from yolo26_executorch.vision.ultralytics_backend import RunnerBackend, pytorch_backend

RANKED = [task.name for task in TASKS.values() if task.ranked]


def predict(model: RunnerBackend, source: Any, **settings: Any) -> list[Any]:
    predictor = make_predictor(model, "predict", settings)
    return list(predictor(source=open_source(source, batch=predictor.args.batch)))


def eager(task: str, **options: Any) -> RunnerBackend:
    """Return the bundled checkpoint in PyTorch behind the backend."""
    (source,) = checkpoints.find_sources([str(shapes_checkpoint(task))])
    checkpoint = checkpoints.load(source, weights_dir=None, random=False, seed=0)
    model = ExportModel(checkpoint, ExportOptions(precision="fp32", **options))
    return RunnerBackend(
        EagerRunner(model), task=checkpoint.task, names=checkpoint.names, keypoint_shape=checkpoint.keypoint_shape
    )


def pictures() -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return drawn pictures, BGR uint8 (H, W, 3), of three shapes."""
    drawn = [np.ascontiguousarray(scene("val", index).image[..., ::-1]) for index in range(3)]
    square, wide, high = (cv2.resize(image, (480, 480)) for image in drawn)
    return {"square": square, "landscape": wide[100:400], "portrait": high[:, 90:390]}


def assert_agree(ours: Any, theirs: Any) -> None:
    """Compare two results: the contract's 0.5 px, same classes, 0.01 in confidence and masks' IoU of 0.99; of maps
    99.9 % of the pixels, or depths within 0.5 %."""
    assert ours.names == theirs.names and ours.orig_shape == theirs.orig_shape
    if theirs.probs is not None:
        assert ours.probs.top1 == theirs.probs.top1
        torch.testing.assert_close(ours.probs.data, theirs.probs.data, atol=0.01, rtol=0)
        return
    if theirs.semantic_mask is not None:
        classes, wanted = ours.semantic_mask.data, theirs.semantic_mask.data
        assert classes.shape == wanted.shape == theirs.orig_shape and len(wanted.unique()) > 2
        assert (classes == wanted).double().mean() >= 0.999
        return
    if theirs.depth is not None:
        assert ours.depth.data.shape == theirs.depth.data.shape == theirs.orig_shape
        assert theirs.depth.data.max() > 1.5 * theirs.depth.data.min()
        torch.testing.assert_close(ours.depth.data, theirs.depth.data, atol=0, rtol=0.005)
        return
    boxes, expected = (ours.boxes, theirs.boxes) if theirs.obb is None else (ours.obb, theirs.obb)
    assert len(expected) > 0
    assert boxes.cls.tolist() == expected.cls.tolist()
    torch.testing.assert_close(boxes.xyxy, expected.xyxy, atol=0.5, rtol=0)
    torch.testing.assert_close(boxes.conf, expected.conf, atol=0.01, rtol=0)
    if theirs.obb is not None:
        torch.testing.assert_close(boxes.xyxyxyxy, expected.xyxyxyxy, atol=0.5, rtol=0)
    if theirs.keypoints is not None:
        torch.testing.assert_close(ours.keypoints.data, theirs.keypoints.data, atol=0.5, rtol=0)
    if theirs.masks is not None:
        iou = mask_iou(ours.masks.data, theirs.masks.data)
        assert iou.min() >= 0.99 and iou.mean() >= 0.999


def filled_polygons(result: Any, file: Path) -> torch.Tensor:
    """Return the polygons that --save-txt writes, filled: bool (N, H, W)."""
    result.save_txt(file)
    filled = []
    for line in file.read_text().splitlines():
        points = np.array(line.split()[1:], np.float32).reshape(-1, 2) * result.orig_shape[::-1]
        filled.append(cv2.fillPoly(np.zeros(result.orig_shape, np.uint8), [points.round().astype(np.int32)], 1))
    return torch.from_numpy(np.stack(filled))


@pytest.fixture(scope="module")
def ultralytics_predict() -> Callable[..., Any]:
    """Ultralytics' own `predict` of the bundled checkpoints, with the head that needs no suppression."""
    from ultralytics import YOLO

    import_torchvision()
    models: dict[str, Any] = {}

    def run(task: str, image: Any, **settings: Any) -> Any:
        model = models.setdefault(task, YOLO(shapes_checkpoint(task)))
        # Since 8.4.190 the default is the other head with suppression.
        return model.predict(image, nms=False, verbose=False, **settings)[0]

    return run


@pytest.mark.parametrize("task", each_task("detect", "classify"))
def test_an_artifact_finds_what_ultralytics_finds(
    task: str, exported: Callable[[str], Path], ultralytics_predict: Callable[..., Any]
) -> None:
    with YOLO26(exported(task)) as model:
        for image in pictures().values():
            (ours,) = model.predict(image)
            assert_agree(ours, ultralytics_predict(task, image, imgsz=320, rect=False))


@pytest.mark.parametrize("task", each_task("segment", ranked=True))
def test_a_model_of_the_picture_s_own_shape_finds_what_ultralytics_finds(
    task: str, ultralytics_predict: Callable[..., Any]
) -> None:
    image = pictures()["landscape"]
    assert image.shape == (300, 480, 3)  # which Ultralytics scales to 320 x 512, the size that this model takes
    (ours,) = predict(eager(task, imgsz=(320, 512)), image)
    assert_agree(ours, ultralytics_predict(task, image, imgsz=512))


@pytest.mark.slow
@pytest.mark.parametrize("retina_masks", [False, True])
def test_masks_and_their_polygons_are_ultralytics_own(
    retina_masks: bool, exported: Callable[[str], Path], ultralytics_predict: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"retina_masks": retina_masks}
    with YOLO26(exported("segment")) as model:
        for name, image in pictures().items():
            (ours,) = model.predict(image, **settings)
            theirs = ultralytics_predict("segment", image, imgsz=320, rect=False, **settings)
            assert_agree(ours, theirs)
            assert ours.masks.data.shape[1:] == (image.shape[:2] if retina_masks else (320, 320))
            filled = [
                filled_polygons(result, tmp_path / f"{name}-{side}.txt") for side, result in enumerate((ours, theirs))
            ]
            iou = mask_iou(*filled)
            assert iou.min() >= 0.99 and iou.mean() >= 0.999


@pytest.mark.parametrize(
    ("task", "left_out", "names"),
    [
        ("segment", "masks", ["detections", "coefficients", "protos"]),
        pytest.param("semantic", "classes", ["logits"], marks=SLOW),
    ],
)
def test_what_is_not_computed_changes_nothing(
    task: str, left_out: str, names: list[str], exported: Callable[[str], Path]
) -> None:
    """The program's method without an output, which `predict` runs, gives what the whole one gives."""
    with open_runner(exported(task)) as runner:
        batch = random_input(runner.input, seed=1)
        every, some = runner(batch), runner(batch, outputs=names)
    assert left_out in every
    assert list(some) == names
    assert all(torch.equal(some[name], every[name]) for name in names)


def test_disagreement_is_seen(ultralytics_predict: Callable[..., Any]) -> None:
    image = pictures()["square"]
    model = eager("detect", imgsz=(320, 320))
    expected = ultralytics_predict("detect", image, imgsz=320, rect=False)
    (ours,) = predict(model, image)
    assert_agree(ours, expected)
    for column, change in ((0, 1.0), (4, -0.02), (5, 1.0)):
        (wrong,) = predict(model, image)
        data = wrong.boxes.data.clone()
        data[0, column] += change
        wrong.update(boxes=data)
        with pytest.raises(AssertionError):
            assert_agree(wrong, expected)


def test_masks_beside_their_place_are_seen(ultralytics_predict: Callable[..., Any]) -> None:
    image = pictures()["square"]
    expected = ultralytics_predict("segment", image, imgsz=320, rect=False)
    (ours,) = predict(eager("segment", imgsz=(320, 320)), image)
    assert_agree(ours, expected)
    ours.update(masks=ours.masks.data.roll(1, dims=2))
    with pytest.raises(AssertionError):
        assert_agree(ours, expected)


@pytest.mark.parametrize("task", TASKS)
def test_results_are_in_the_picture_s_pixels(task: str) -> None:
    (result,) = predict(backend(task), picture(240, 640))  # half the scale, and 100 px above it
    if result.probs is not None:
        assert result.probs.top1 == 1
        return
    if result.semantic_mask is not None:
        assert result.semantic_mask.data.shape == (240, 640)
        assert (result.semantic_mask.data[:118] == 1).all() and (result.semantic_mask.data[122:] == 0).all()
        return
    if result.depth is not None:  # the image is stretched
        torch.testing.assert_close(result.depth.data, torch.linspace(6, 2, 240)[:, None].expand(240, 640))
        return
    found = result.boxes if result.obb is None else result.obb
    assert found.conf.tolist() == pytest.approx([0.9, 0.5]) and found.cls.tolist() == [1, 0]
    centre = (BOXES[:2, :2] - torch.tensor([0.0, 100.0])) * 2
    torch.testing.assert_close(found.xywh[:, :2] if result.obb is None else found.xywhr[:, :2], centre)
    if result.keypoints is not None:
        torch.testing.assert_close(result.keypoints.xy[:, 0], centre)
    if result.masks is not None:
        upper = result.masks.data[0, 110:140, 120:200]
        assert upper.float().mean() > 0.9 and not result.masks.data[0, 145:].any()


@pytest.mark.parametrize(
    ("task", "name", "change"),
    [
        ("semantic", "semantic_mask", lambda values: values.roll(1, dims=1)),
        ("depth", "depth", lambda values: values * 1.006),
    ],
)
def test_maps_beside_their_place_are_seen(
    task: str, name: str, change: Callable[[Any], Any], ultralytics_predict: Callable[..., Any]
) -> None:
    for image in pictures().values():
        expected = ultralytics_predict(task, image, imgsz=320, rect=False)
        (ours,) = predict(eager(task, imgsz=(320, 320)), image)
        assert_agree(ours, expected)
        ours.update(**{name: change(getattr(ours, name).data)})
        with pytest.raises(AssertionError):
            assert_agree(ours, expected)


@SLOW
def test_one_class_is_in_a_map_or_not() -> None:
    """As Ultralytics has it: logits above 0 are inside, and 1 is what is."""
    import_torchvision()
    made = network("yolo26n-sem.yaml", {0: "road"})
    spread(made, TASKS["semantic"], 0)
    checkpoint = Checkpoint(made, TASKS["semantic"], {0: "road"}, None, "user", "best.pt", "a" * 64, None)
    theirs = pytorch_backend(replace(checkpoint, network=deepcopy(made)), imgsz=(320, 320), batch=1, device="cpu")
    model = ExportModel(checkpoint, ExportOptions(precision="fp32", imgsz=(320, 320)))
    ours = RunnerBackend(EagerRunner(model), task=TASKS["semantic"], names=checkpoint.names, keypoint_shape=None)
    image = pictures()["landscape"]
    given, wanted = (predict(one, image)[0].semantic_mask.data for one in (ours, theirs))
    assert wanted.unique().tolist() == [0, 1] and given.shape == image.shape[:2]
    assert (given == wanted).double().mean() >= 0.999


def test_ultralytics_settings_do_what_they_say(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "pictures", 2)
    counts = {
        (("conf", 0.01),): 3,
        (("conf", 0.6),): 1,
        (("max_det", 1),): 1,
        (("classes", (0, 2)), ("conf", 0.01)): 2,
    }
    for settings, count in counts.items():
        assert [len(result) for result in predict(backend(), str(source), **dict(settings))] == [count, count]
    saved = tmp_path / "saved"
    predict(backend(), str(source), save=True, save_txt=True, save_conf=True, save_crop=True, save_dir=str(saved))
    assert sorted(path.name for path in saved.glob("*.jpg")) == ["00.jpg", "01.jpg"]
    first, second = (saved / "labels" / "00.txt").read_text().splitlines()
    assert len(first.split()) == 6 and first.startswith("1 ") and second.startswith("0 ")
    assert {path.parent.name for path in (saved / "crops").rglob("*.jpg")} == {"person", "bicycle"}


def test_a_place_is_made_for_saved_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("predict", "predict-2"):
        predict(backend(), picture(), save=True)
        assert list((tmp_path / "runs" / "detect" / folder).glob("*.jpg"))


def test_a_folder_goes_through_in_the_model_s_batches(tmp_path: Path) -> None:
    source = str(folder_of_pictures(tmp_path / "pictures", 5))
    runner = StubRunner(batch=2)
    results = predict(backend(runner=runner), source)
    assert len(results) == 5 and len(runner.given) == 3
    one_by_one = StubRunner()
    expected = predict(backend(runner=one_by_one), source)
    given, wanted = torch.cat(runner.given), torch.cat(one_by_one.given)
    assert torch.equal(given[:5], wanted) and not given[5:].any()
    assert [result.path for result in results] == [result.path for result in expected]


def test_a_rectangular_model_gets_rectangles() -> None:
    runner = StubRunner(size=(320, 640))
    image = np.full((240, 640, 3), 255, np.uint8)
    predict(backend(runner=runner), image)
    (given,) = runner.given
    assert given.shape == (1, 3, 320, 640)
    assert (given[:, :, 40:280] == 1).all() and (given[:, :, :39] == 114 / 255).all()


def test_arrays_are_bgr_and_pillow_pictures_rgb() -> None:
    from PIL import Image

    red = np.zeros((320, 320, 3), np.uint8)
    red[..., 2] = 255
    runner = StubRunner()
    predict(backend(runner=runner), [red, Image.fromarray(red[..., ::-1].copy())])
    for given in runner.given:
        assert (given[0, 0] == 1).all() and not given[0, 1:].any()


def test_a_tensor_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected images of shape \(1, 3, 320, 320\), given \(1, 3, 320, 352\)"):
        predict(backend(), torch.zeros(1, 3, 320, 352))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"imgsz": 640}, "imgsz=640: this model was exported for 320 x 320 pixels"),
        ({"nonsense": 1}, "nonsense=1: there is no such setting"),
        ({"conf": "much"}, "conf"),
        ({"conf": 1.5}, "conf"),
        ({"device": "cuda:0"}, "device=cuda:0: a model runs where it was opened"),
        ({"device": "nonsense"}, "device=nonsense: a model runs where it was opened"),
        ({"max_det": 4}, "max_det=4: this model was exported with 3 rows"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        make_predictor(backend(), "predict", settings)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or caught.value.__context__ is None)


def test_settings_that_an_exported_model_agrees_with_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    for settings in ({"imgsz": 320}, {"imgsz": [320, 320]}, {"nms": False}, {"end2end": True}, {"device": "cpu"}):
        assert len(predict(backend(), picture(), **settings)[0]) == 2
    assert not caplog.records


def test_settings_without_an_effect_are_taken_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert len(predict(backend(), picture(), iou=0.1, retina_masks=True)[0]) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "iou=0.1 has no effect: nothing is suppressed, since the end-to-end head finds each object once",
        "retina_masks=True has no effect: a detect model has no masks",
    ]


def test_a_place_that_cannot_be_written_to_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="file"):
        make_predictor(backend(), "predict", {"save": True, "save_dir": str(tmp_path / "file" / "out")})


def test_ultralytics_log_has_its_words(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.utils import LOGGER

    monkeypatch.setattr(LOGGER, "propagate", True)
    level = LOGGER.level
    LOGGER.setLevel("INFO")
    try:
        predict(backend(), [picture()], verbose=True)
    finally:
        LOGGER.setLevel(level)
    assert any("320x320 1 person, 1 bicycle" in record.getMessage() for record in caplog.records)


def test_nothing_is_told_to_anybody() -> None:
    assert not make_predictor(backend(), "predict", {}).callbacks["on_predict_end"]
