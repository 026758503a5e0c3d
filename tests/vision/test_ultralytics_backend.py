from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support import random_model
from support.stub_runner import ANGLES, BOXES, CLASSES, CONFIDENCES, NAMES, StubRunner, backend
from yolo26_executorch.errors import ArtifactError, InputError
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.runtime.eager import EagerRunner
from yolo26_executorch.vision.ultralytics_backend import RunnerBackend

CORNERS = torch.cat([BOXES[:, :2] - BOXES[:, 2:] / 2, BOXES[:, :2] + BOXES[:, 2:] / 2], dim=1)
PICTURES = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))


def test_boxes_become_corners() -> None:
    rows = backend()(PICTURES)
    assert torch.equal(rows, torch.cat([CORNERS, CONFIDENCES[:, None], CLASSES[:, None]], dim=1)[None])


def test_rotated_boxes_keep_centre_and_size_and_have_their_angle_last() -> None:
    rows = backend("obb")(PICTURES)
    expected = torch.cat([BOXES, CONFIDENCES[:, None], CLASSES[:, None], ANGLES[:, None]], dim=1)
    assert torch.equal(rows, expected[None])


def test_keypoints_follow_the_class() -> None:
    rows = backend("pose")(PICTURES)
    assert rows.shape == (1, 3, 12)
    points = rows[..., 6:].view(1, 3, 2, 3)
    assert torch.equal(points[0, :, 0, :2], BOXES[:, :2]) and torch.equal(points[0, :, 1, :2], CORNERS[:, :2])


@pytest.mark.parametrize("without", [(), ("coefficients", "protos")], ids=["", "made before coefficients"])
def test_masks_come_back_as_they_were(without: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    from ultralytics.utils.ops import process_mask

    runner = StubRunner("segment", without=without)
    made = backend("segment", runner)
    made(PICTURES)
    said = [record.message for record in caplog.records]
    assert len(said) == bool(without)  # once, and no word where there is nothing to say
    assert all("masks of a quarter of the input's resolution only" in message for message in said)
    rows, protos = made(PICTURES)
    for chosen in ([0, 1, 2], [2, 0]):  # whichever rows a predictor keeps
        masks = process_mask(protos[0], rows[0, chosen, 6:], rows[0, chosen, :4], (320, 320))
        assert torch.equal(masks, runner(PICTURES)["masks"][0, chosen])


def test_coefficients_and_prototypes_are_passed_on_as_they_are() -> None:
    runner = StubRunner("segment")
    rows, protos = backend("segment", runner)(PICTURES)
    expected = runner(PICTURES)
    assert torch.equal(rows[..., 6:], expected["coefficients"])
    assert torch.equal(protos, expected["protos"])


@pytest.mark.parametrize(
    ("task", "needed"),
    [
        ("detect", ["detections"]),
        ("segment", ["detections", "coefficients", "protos"]),
        ("pose", ["detections", "keypoints"]),
        ("classify", ["probabilities"]),
    ],
)
def test_the_runner_is_asked_for_what_is_needed_alone_and_on_its_device(task: str, needed: list[str]) -> None:
    asked: list[Any] = []

    class Asked(StubRunner):
        def __call__(self, images: Any, **wanted: Any) -> dict[str, torch.Tensor]:
            asked.append(wanted)
            return super().__call__(images, **wanted)

    backend(task, Asked(task))(PICTURES)
    assert asked == [{"outputs": needed, "on_device": True}]


def test_probabilities_pass() -> None:
    assert torch.equal(backend("classify")(PICTURES), torch.tensor([[0.1, 0.7, 0.2]]))


@pytest.mark.parametrize("task", [task.name for task in TASKS.values() if task.ranked])
def test_both_output_formats_are_one_to_ultralytics(task: str) -> None:
    found = {}
    for outputs in ("named", "ultralytics"):
        model = random_model(f"yolo26n{TASKS[task].suffix}", outputs=outputs)
        made = RunnerBackend(
            EagerRunner(model), task=TASKS[task], names=model.names, keypoint_shape=model.keypoint_shape
        )
        given = made(random_input(model.input_spec, seed=1))
        found[outputs] = given if isinstance(given, list) else [given]
    for named, raw in zip(found["named"], found["ultralytics"], strict=True):  # rows, and for segment prototypes
        torch.testing.assert_close(named, raw, atol=1e-3, rtol=0)


def test_nothing_goes_over_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" stands for a GPU: what is on it can be computed with, and cannot be copied to the host."""

    class OnDevice(StubRunner):
        device = torch.device("meta")

        def __call__(self, images: Any, **wanted: Any) -> dict[str, torch.Tensor]:
            assert images.device == self.device
            assert wanted["on_device"]
            chosen = [spec for spec in self.outputs if spec.name in wanted["outputs"]]
            return {spec.name: torch.empty(spec.shape, device="meta") for spec in chosen}

    def refuse(self: torch.Tensor, *_: Any, **__: Any) -> None:
        raise AssertionError("a tensor goes to the host")

    for name in ("cpu", "numpy", "tolist", "item"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for task in ("detect", "segment", "pose", "obb", "classify"):
        made = backend(task, OnDevice(task, batch=2, input="uint8"))
        assert made.device == OnDevice.device
        given = made(torch.empty(3, 3, 320, 320, device="meta"))
        for tensor in given if isinstance(given, list) else [given]:
            assert (tensor.device, len(tensor)) == (OnDevice.device, 3)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_any_number_of_pictures_goes_through_a_static_batch(count: int) -> None:
    runner = StubRunner(batch=3)
    made = backend(runner=runner)
    pictures = torch.rand(count, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    assert made(pictures).shape == (count, 3, 6)
    assert [len(batch) for batch in runner.given] == [3] * -(-count // 3)
    given = torch.cat(runner.given)
    assert torch.equal(given[:count], pictures) and not given[count:].any()


def test_bytes_for_a_model_that_takes_bytes() -> None:
    runner = StubRunner(input="uint8")
    made = backend(runner=runner)
    assert made.imgsz == [320, 320]
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3 * 320 * 320 // 256).view(1, 3, 320, 320)
    made(pixels.float() / 255)
    assert torch.equal(runner.given[0], pixels.permute(0, 2, 3, 1))


def test_it_has_what_ultralytics_asks_of_a_model() -> None:
    made = backend("pose", StubRunner("pose", size=(320, 640), batch=2))
    assert (made.format, made.task, made.end2end, made.dynamic, made.fp16) == ("executorch", "pose", True, False, False)
    assert (made.imgsz, made.batch, made.stride, made.channels) == ([320, 640], 2, 32, 3)
    assert (made.names, made.kpt_shape, made.device) == (NAMES, (2, 3), torch.device("cpu"))
    assert made.metadata["batch"] == 2 and not made.training
    made.warmup(imgsz=(2, 3, 320, 640))


def test_ultralytics_arguments_for_pytorch_models_are_passed_over() -> None:
    assert torch.equal(backend()(PICTURES, augment=False, embed=None), backend()(PICTURES))


@pytest.mark.parametrize("pictures", [PICTURES * 255, PICTURES[..., :256], PICTURES[:, :1]])
def test_what_the_model_cannot_take_is_refused(pictures: torch.Tensor) -> None:
    with pytest.raises(InputError, match="expected images"):
        backend()(pictures)


def test_it_closes_its_runner() -> None:
    runner = StubRunner()
    backend(runner=runner).close()
    assert runner.closed


def test_no_artifact_no_backend(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact"):
        RunnerBackend.open(tmp_path)
