"""The model that is exported against Ultralytics' own end-to-end forward pass of the same network."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from support import network, random_checkpoint, random_model
from yolo26_executorch.models.checkpoints import Checkpoint
from yolo26_executorch.models.export_model import ExportModel, aten_topk, float32_precision
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import GUIDE_TASKS, OUTPUT_FORMATS, TASKS
from yolo26_executorch.parity.compare import compare

RANKED = [name for name, task in TASKS.items() if task.ranked]
SIZE = 320


def name_of(task: str) -> str:
    return f"yolo26n{TASKS[task].suffix}"


def named(model: ExportModel, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(zip([spec.name for spec in model.output_specs], model(images), strict=True))


def ultralytics(task: str, images: Tensor) -> tuple[Tensor, ...]:
    """What Ultralytics' model emits in export mode, its end-to-end head on."""
    net: Any = random_checkpoint(name_of(task)).network
    if TASKS[task].ranked:
        net.model[-1].end2end = True
    net.fuse(verbose=False)
    net.model[-1].export = True
    with torch.no_grad():
        out = net.eval()(images)
    return out if isinstance(out, tuple) else (out,)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.cat([random_input(random_model("yolo26n").input_spec, seed) for seed in (1, 2)])


# ---- what the outputs are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", GUIDE_TASKS)
def test_ultralytics_outputs_are_ultralytics(task: str, images: Tensor) -> None:
    model = random_model(name_of(task), outputs="ultralytics", imgsz=(SIZE, SIZE), batch=2)
    given = named(model, images)
    for output, expected in zip(given.values(), ultralytics(task, images), strict=True):
        assert torch.equal(output, expected)


@pytest.mark.parametrize("task", RANKED)
def test_named_boxes_are_ultralytics_as_centre_and_size(task: str, images: Tensor) -> None:
    rows = ultralytics(task, images)[0]
    detections = named(random_model(name_of(task), batch=2), images)["detections"]
    confidence, label = rows[..., 4:5], rows[..., 5:6]
    if TASKS[task].rotated:
        assert torch.equal(detections, torch.cat([rows[..., :4], rows[..., 6:], confidence, label], -1))
        return
    corners = torch.cat(
        [detections[..., :2] - detections[..., 2:4] / 2, detections[..., :2] + detections[..., 2:4] / 2], -1
    )
    torch.testing.assert_close(corners, rows[..., :4], atol=1e-4, rtol=0)
    assert torch.equal(detections[..., 4:], torch.cat([confidence, label], -1))


def test_masks_are_those_of_process_mask(images: Tensor) -> None:
    from ultralytics.utils.ops import process_mask

    rows, protos = ultralytics("segment", images)
    masks = named(random_model("yolo26n-seg", batch=2), images)["masks"]
    assert (masks.shape, masks.dtype) == ((2, 300, SIZE // 4, SIZE // 4), torch.uint8)
    for image in range(2):
        expected = process_mask(protos[image], rows[image, :, 6:], rows[image, :, :4], (SIZE, SIZE), upsample=False)
        # Both sum 32 products in an order of their own: a pixel on the edge may fall either way.
        assert int((masks[image] != expected).sum()) <= 5
        assert 0.02 < float(masks[image].float().mean()) < 0.98


def test_coefficients_and_protos_make_ultralytics_masks_at_full_resolution(images: Tensor) -> None:
    """And are the very values of Ultralytics' raw outputs, so that masks of any resolution are its own."""
    from ultralytics.utils.ops import process_mask

    rows, protos = ultralytics("segment", images)
    outputs = named(random_model("yolo26n-seg", batch=2), images)
    assert list(outputs) == ["detections", "masks", "coefficients", "protos"]
    assert torch.equal(outputs["coefficients"], rows[..., 6:]) and torch.equal(outputs["protos"], protos)
    boxes = outputs["detections"][..., :4]
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    for image in range(2):
        masks = [
            process_mask(prototypes, coefficients, box, (SIZE, SIZE), upsample=True)
            for prototypes, coefficients, box in (
                (protos[image], rows[image, :, 6:], rows[image, :, :4]),
                (outputs["protos"][image], outputs["coefficients"][image], corners[image]),
            )
        ]
        assert masks[0].shape == (300, SIZE, SIZE)
        assert float((masks[0] != masks[1]).float().mean()) < 1e-4
        coarse = torch.nn.functional.interpolate(outputs["masks"][image][:, None].float(), scale_factor=4)[:, 0]
        assert float((masks[0] != coarse).float().mean()) > 1e-4, "enlarged masks would have been as good"


def test_masks_are_cropped_to_boxes_of_any_shape() -> None:
    model = random_model("yolo26n-seg", imgsz=(320, 416))
    picture = random_input(model.input_spec, seed=3)
    outputs = named(model, picture)
    for box, mask in zip(outputs["detections"][0], outputs["masks"][0], strict=True):
        x, y, w, h = (box[:4] / 4).tolist()
        rows, columns = mask.nonzero(as_tuple=True)
        if len(rows):
            assert x - w / 2 - 1e-3 <= columns.min() and columns.max() < x + w / 2 + 1e-3
            assert y - h / 2 - 1e-3 <= rows.min() and rows.max() < y + h / 2 + 1e-3


def test_keypoints_are_ultralytics_apart(images: Tensor) -> None:
    rows = ultralytics("pose", images)[0]
    keypoints = named(random_model("yolo26n-pose", batch=2), images)["keypoints"]
    assert torch.equal(keypoints, rows[..., 6:].view(2, 300, 17, 3))
    assert bool(((keypoints[..., 2] >= 0) & (keypoints[..., 2] <= 1)).all())


def test_probabilities_are_ultralytics_and_sum_to_one() -> None:
    model = random_model("yolo26n-cls")
    picture = random_input(model.input_spec, seed=1)
    (probabilities,) = named(model, picture).values()
    assert torch.equal(probabilities, ultralytics("classify", picture)[0])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1), atol=1e-5, rtol=0)


def test_class_maps_are_what_ultralytics_makes_of_the_logits(images: Tensor) -> None:
    """Logits as they come from the head; and the map that an export with the reduction inside gives."""
    net: Any = random_checkpoint("yolo26n-sem").network
    net.eval().fuse(verbose=False)
    head = net.model[-1]
    given = named(random_model("yolo26n-sem", batch=2), images)
    with torch.no_grad():
        assert torch.equal(given["logits"], net(images))
        head.export, head.format = True, "onnx"
        expected = net(images)
    assert (given["classes"].dtype, given["classes"].shape) == (torch.uint8, (2, SIZE, SIZE))
    assert torch.equal(given["classes"], expected)
    assert len(expected.unique()) > 5


def test_one_class_is_inside_where_its_logit_is_above_zero() -> None:
    net = network("yolo26n-sem.yaml", {0: "road"}).eval()
    checkpoint = Checkpoint(net, TASKS["semantic"], {0: "road"}, None, "user", "best.pt", "a" * 64, None)
    model = ExportModel(checkpoint, ExportOptions(precision="fp32", imgsz=(SIZE, SIZE)))
    given = named(model, random_input(model.input_spec, seed=1))
    full = torch.nn.functional.interpolate(given["logits"], scale_factor=8, mode="bilinear")
    assert torch.equal(given["classes"], (full[:, 0] > 0).to(torch.uint8))


def test_depths_are_ultralytics(images: Tensor) -> None:
    (expected,) = ultralytics("depth", images)
    depth = named(random_model("yolo26n-depth", batch=2), images)["depth"]
    assert depth.shape == (2, 1, SIZE, SIZE)
    torch.testing.assert_close(depth, expected, atol=1e-4, rtol=1e-5)
    assert float(depth.max() / depth.min()) > 1.2


@pytest.mark.parametrize("outputs", OUTPUT_FORMATS)
@pytest.mark.parametrize("task", TASKS)
def test_outputs_are_what_their_specs_say(task: str, outputs: str) -> None:
    model = random_model(name_of(task), outputs=outputs, imgsz=(320, 352))
    given = named(model, random_input(model.input_spec, seed=1))
    for spec in model.output_specs:
        assert (tuple(given[spec.name].shape), str(given[spec.name].dtype)) == (spec.shape, f"torch.{spec.dtype}")
        assert len(spec.columns) in (0, spec.shape[-1]) or outputs == "ultralytics"


@pytest.mark.parametrize("task", RANKED)
def test_rows_are_sorted_by_confidence(task: str, images: Tensor) -> None:
    detections = named(random_model(name_of(task), batch=2), images)["detections"]
    confidence, label = detections[..., -2], detections[..., -1]
    assert bool((confidence.diff() <= 0).all())
    assert bool(((confidence >= 0) & (confidence <= 1)).all())
    assert bool((label == label.round()).all())


# ---- what goes in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_bytes_give_what_the_same_pictures_in_0_to_1_give(task: str) -> None:
    model, of_bytes = random_model(name_of(task)), random_model(name_of(task), input="uint8")
    assert (of_bytes.input_spec.dtype, of_bytes.input_spec.shape[-1]) == ("uint8", 3)
    pixels = random_input(of_bytes.input_spec, seed=1)
    given = named(of_bytes, pixels)
    # Not made contiguous: then the same kernels are chosen.
    for name, expected in named(model, pixels.permute(0, 3, 1, 2).float() / 255).items():
        assert torch.equal(given[name], expected)


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_is_its_pictures_one_by_one(task: str) -> None:
    single, double = random_model(name_of(task)), random_model(name_of(task), batch=2)
    batch = torch.cat([random_input(single.input_spec, seed) for seed in (1, 2)])
    with torch.no_grad():
        for image in range(2):
            picture = batch[image : image + 1]
            if not single.task.ranked:
                one, both = single.reference(picture), double.reference(batch)
                assert isinstance(one, Tensor) and isinstance(both, Tensor)
                torch.testing.assert_close(both[image], one[0], atol=1e-4, rtol=1e-4)
                continue
            expected, both = single.dense(picture), double.dense(batch)
            # Other kernels may be chosen for another batch: they round differently.
            torch.testing.assert_close(both.boxes[image], expected.boxes[0], atol=2e-3, rtol=0)
            torch.testing.assert_close(both.scores[image], expected.scores[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(both.extra[image], expected.extra[0], atol=2e-3, rtol=0)
            report = compare(
                single.task, single.output_specs, {k: v[image : image + 1] for k, v in named(double, batch).items()},
                expected, precision="fp32", keypoint_shape=single.keypoint_shape,
            )  # fmt: skip
            assert report.failures == ()


@pytest.mark.parametrize(
    ("task", "precision"),
    [
        ("detect", "fp16"),
        ("segment", "bf16"),
        ("pose", "fp16"),
        ("obb", "bf16"),
        ("classify", "fp16"),
        ("semantic", "fp16"),
        ("depth", "bf16"),
    ],
)
def test_half_precision_gives_float32_near_float32(task: str, precision: str) -> None:
    model = random_model(name_of(task), backend="cuda", precision=precision)
    exact = random_model(name_of(task))
    picture = random_input(exact.input_spec, seed=1)
    with torch.no_grad():
        reference = exact.reference(picture)
    outputs = named(model, picture)
    assert {output.dtype for output in outputs.values()} <= {torch.float32, torch.uint8}
    report = compare(
        model.task, model.output_specs, outputs, reference, precision=precision, keypoint_shape=model.keypoint_shape
    )
    assert report.failures == ()


# ---- other classes and keypoints -------------------------------------------------------------------------------------


def own(config: str, task: str, classes: int, keypoint_shape: tuple[int, int] | None = None) -> ExportModel:
    names = {index: f"thing {index}" for index in range(classes)}
    changes = {"kpt_shape": list(keypoint_shape)} if keypoint_shape else {}
    net = network(config, names, **changes).eval()
    checkpoint = Checkpoint(net, TASKS[task], names, keypoint_shape, "user", "best.pt", "a" * 64, None)
    return ExportModel(checkpoint, ExportOptions(precision="fp32", imgsz=(SIZE, SIZE)))


@pytest.mark.parametrize(
    ("task", "config", "classes", "keypoint_shape", "shapes"),
    [
        ("detect", "yolo26n.yaml", 1, None, [(1, 300, 6)]),
        ("segment", "yolo26n-seg.yaml", 3, None, [(1, 300, 6), (1, 300, 80, 80), (1, 300, 32), (1, 32, 80, 80)]),
        ("pose", "yolo26n-pose.yaml", 3, (4, 2), [(1, 300, 6), (1, 300, 4, 2)]),
        ("pose", "yolo26n-pose.yaml", 1, (1, 3), [(1, 300, 6), (1, 300, 1, 3)]),
        ("obb", "yolo26n-obb.yaml", 2, None, [(1, 300, 7)]),
        ("classify", "yolo26n-cls.yaml", 2, None, [(1, 2)]),
        ("semantic", "yolo26n-sem.yaml", 3, None, [(1, 320, 320), (1, 3, 40, 40)]),
        ("depth", "yolo26n-depth.yaml", 1, None, [(1, 1, 320, 320)]),
    ],
)
def test_shapes_follow_the_checkpoint(
    task: str, config: str, classes: int, keypoint_shape: tuple[int, int] | None, shapes: list[tuple[int, ...]]
) -> None:
    model = own(config, task, classes, keypoint_shape)
    outputs = named(model, random_input(model.input_spec, seed=1))
    assert [tuple(output.shape) for output in outputs.values()] == shapes
    assert [spec.shape for spec in model.output_specs] == shapes
    if model.task.ranked:
        assert float(outputs["detections"][..., -1].max()) < classes
    if keypoint_shape:
        assert model.output_specs[1].columns == ("x", "y", "visibility")[: keypoint_shape[1]]


# ---- the rest --------------------------------------------------------------------------------------------------------


def test_the_end_to_end_head_is_on_whatever_the_checkpoint_says() -> None:
    checkpoint = random_checkpoint("yolo26n")
    net: Any = checkpoint.network
    net.model[-1].end2end = False
    options = ExportOptions(precision="fp32", imgsz=(SIZE, SIZE))
    model, expected = ExportModel(checkpoint, options), random_model("yolo26n")
    picture = random_input(model.input_spec, seed=1)
    assert torch.equal(named(model, picture)["detections"], named(expected, picture)["detections"])


def test_anchors_are_constants_of_the_graph() -> None:
    model = random_model("yolo26n")
    with torch.no_grad():
        graph = torch.export.export(model, (model.example_input,)).graph
    targets = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert not [name for name in targets if "arange" in name or "meshgrid" in name]


def test_making_a_model_leaves_no_gradients_and_no_second_head() -> None:
    model = random_model("yolo26n-pose")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.head.cv2 is None
    assert not model.training


def test_topk_is_pytorchs_own_until_it_is_rewritten() -> None:
    values, indices = aten_topk(torch.tensor([[1.0, 3.0, 2.0]]), 2)
    assert (values.tolist(), indices.tolist()) == ([[3.0, 2.0]], [[1, 2]])


def test_float32_precision_is_put_back() -> None:
    backends: Any = torch.backends

    def flags() -> tuple[bool, bool, str]:
        # Reading the old flags raises where the new ones disagree with them.
        return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.fp32_precision

    before = flags()
    for precision, expected in (("ieee", (False, False, "none")), ("tf32", (True, True, "tf32"))):
        with pytest.raises(KeyError), float32_precision(precision):
            assert flags() == expected
            raise KeyError
        assert flags() == before


def test_a_model_does_not_share_its_checkpoints_fate() -> None:
    """Two models of one checkpoint's copies are independent; the support's copies rely on it."""
    first = random_checkpoint("yolo26n-cls")
    second = replace(first, network=copy.deepcopy(first.network))
    options = ExportOptions(precision="fp32", imgsz=(224, 224))
    a, b = ExportModel(first, options), ExportModel(second, options)
    picture = random_input(a.input_spec, seed=1)
    assert torch.equal(a(picture)[0], b(picture)[0])
