"""Each task's model against itself, whole, disturbed within its tolerance, and damaged in every way we know of."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from support import product
from yolo26_executorch.errors import ParityError
from yolo26_executorch.models.checkpoints import Checkpoint, Source, load
from yolo26_executorch.models.export_model import Dense, ExportModel
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import OUTPUT_FORMATS, TASKS
from yolo26_executorch.models.variants import ALL_VARIANTS
from yolo26_executorch.parity.compare import compare
from yolo26_executorch.parity.records import ParityReport
from yolo26_executorch.parity.tolerances import MEASURES, TOLERANCES, Tolerance

Outputs = dict[str, Tensor]
PRECISIONS = list(TOLERANCES)
RANKED = [name for name, task in TASKS.items() if task.ranked]
SIZE = 320

# Test processes that each take every core only wait for one another.
torch.set_num_threads(1)


@dataclass(frozen=True)
class Case:
    """A model, an input's outputs, and the reference for them."""

    model: ExportModel
    images: Tensor
    outputs: Outputs
    reference: Dense | Tensor

    def judge(
        self, outputs: Outputs, precision: str = "fp32", tolerances: dict[str, Tolerance] | None = None
    ) -> ParityReport:
        return compare(
            self.model.task,
            self.model.output_specs,
            outputs,
            self.reference,
            precision=precision,
            keypoint_shape=self.model.keypoint_shape,
            tolerances=tolerances,
        )

    def outputs_of(self, dense: Dense) -> Outputs:
        """What the model would give if these were its predictions."""
        with patch.object(ExportModel, "dense", lambda *_: dense):
            return _named(self.model, self.images)


def _named(model: ExportModel, images: Tensor) -> Outputs:
    with torch.no_grad():
        return {spec.name: value for spec, value in zip(model.output_specs, model(images), strict=True)}


@functools.cache
def _checkpoint(task: str) -> Checkpoint:
    name = f"yolo26n{TASKS[task].suffix}"
    return load(Source(name, ALL_VARIANTS[name], None), weights_dir=None, random=True, seed=0)


@functools.cache
def _case(task: str, outputs: str = "named", batch: int = 1) -> Case:
    # Making a model fuses the network's layers for good.
    checkpoint = replace(_checkpoint(task), network=copy.deepcopy(_checkpoint(task).network))
    options = ExportOptions(precision="fp32", imgsz=(SIZE, SIZE), batch=batch, outputs=outputs)
    model = ExportModel(checkpoint, options)
    images = random_input(model.input_spec, seed=1)
    with torch.no_grad():
        reference = model.reference(images)
    return Case(model, images, _named(model, images), reference)


def case(task: str, outputs: str = "named", batch: int = 1) -> Case:
    """A case with tensors of its own, free to be damaged."""
    kept = _case(task, outputs, batch)
    return replace(kept, outputs={name: value.clone() for name, value in kept.outputs.items()})


def column(case_: Case, name: str) -> tuple[str, int]:
    """The output that has the column, and the column's index."""
    for spec in case_.model.output_specs:
        if name in spec.columns:
            return spec.name, spec.columns.index(name)
    raise KeyError(name)


# ---- accepted ----


@pytest.mark.parametrize(("task", "outputs", "batch"), product(TASKS, OUTPUT_FORMATS, [1, 2]))
def test_the_same_outputs_agree_wholly(task: str, outputs: str, batch: int) -> None:
    it = case(task, outputs, batch)
    report = it.judge(it.outputs)
    assert report.failures == ()
    assert report.passed
    report.require()
    assert report.agreement is not None
    assert report.agreement.rows == report.agreement.matched == report.agreement.classes_equal
    assert report.agreement.rows == batch * (300 if it.model.task.ranked else 1)
    assert report.agreement.min_mask_iou == (1 if task == "segment" else None)
    assert max(quantity.max for quantity in report.quantities) < 1e-4


def test_every_quantity_of_a_task_is_told() -> None:
    told = {
        (task, outputs): {quantity.name for quantity in _told(task, outputs).quantities}
        for task in TASKS
        for outputs in OUTPUT_FORMATS
    }
    rows = {"box_px", "score"}
    assert told == {
        ("detect", "named"): rows,
        ("detect", "ultralytics"): rows,
        ("segment", "named"): rows | {"mask_iou", "full_mask_iou", "coefficient", "proto"},
        ("segment", "ultralytics"): rows | {"full_mask_iou", "coefficient", "proto"},
        ("pose", "named"): rows | {"keypoint_px", "visibility"},
        ("pose", "ultralytics"): rows | {"keypoint_px", "visibility"},
        ("obb", "named"): rows | {"angle_rad"},
        ("obb", "ultralytics"): rows | {"angle_rad"},
        ("classify", "named"): {"probability", "probability_sum"},
        ("classify", "ultralytics"): {"probability", "probability_sum"},
        ("semantic", "named"): {"logit", "class_pixels"},
        ("semantic", "ultralytics"): {"logit"},
        ("depth", "named"): {"depth"},
        ("depth", "ultralytics"): {"depth"},
    }


def _told(task: str, outputs: str) -> ParityReport:
    it = case(task, outputs)
    return it.judge(it.outputs)


def disturbed(dense: Dense, case_: Case, precision: str, share: float, seed: int) -> Dense:
    """Predictions off by up to a share of the precision's tolerances."""
    generator = torch.Generator().manual_seed(seed)
    boxes = dense.boxes if case_.model.task.rotated else _centred(dense.boxes)

    def moved(name: str, values: Tensor) -> Tensor:
        flat = values.flatten(0, 1)
        limit = TOLERANCES[precision][name].of(MEASURES[name].scale(flat, boxes.flatten(0, 1))).view_as(values)
        return values + (torch.rand(values.shape, generator=generator) * 2 - 1) * share * limit

    extra = dense.extra.clone()
    kinds = case_.model.task.extra
    if kinds:
        period = len(kinds)
        for kind in dict.fromkeys(kinds):
            columns = [i for i in range(extra.shape[-1]) if kinds[i % period] == kind]
            extra[..., columns] = moved(kind, extra[..., columns])
    return Dense(moved("box_px", dense.boxes), moved("score", dense.scores), extra, dense.protos)


def _centred(corners: Tensor) -> Tensor:
    return torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1)


@pytest.mark.parametrize(("task", "outputs", "precision"), product(RANKED, OUTPUT_FORMATS, PRECISIONS))
def test_errors_within_tolerance_are_accepted(task: str, outputs: str, precision: str) -> None:
    """Ranks change where scores nearly tie, the last rank too, and boxes end on other pixels of the masks."""
    it = case(task, outputs)
    assert isinstance(it.reference, Dense)
    for seed in range(3):
        # Corners off by half the tolerance move centre and size by no more than the tolerance.
        theirs = disturbed(it.reference, it, precision, 0.45, seed)
        if task == "segment":
            # Coefficients at the edge of their own tolerance make masks that are beyond that of masks.
            theirs = replace(theirs, extra=it.reference.extra)
        report = it.judge(it.outputs_of(theirs), precision)
        assert report.failures == ()
        assert report.agreement is not None
        assert report.agreement.matched == 300
        assert report.agreement.near_ties > 0
        assert report.largest is not None
        assert 0.2 < report.largest.ratio <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_probabilities_within_tolerance_are_accepted(precision: str) -> None:
    it = case("classify")
    given = it.outputs["probabilities"]
    limit = TOLERANCES[precision]["probability"].of(given * (1 - given))
    noise = torch.rand(given.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    noise = noise * limit
    noise -= noise.sum() * limit / limit.sum()
    report = it.judge({"probabilities": given + noise}, precision)
    assert report.failures == ()


def test_exact_ties_may_stand_in_any_order() -> None:
    it = case("detect")
    assert isinstance(it.reference, Dense)
    tied = replace(it.reference, scores=(it.reference.scores * 20).round() / 20)
    it = replace(it, reference=tied)
    shuffled = torch.randperm(tied.boxes.shape[1], generator=torch.Generator().manual_seed(0))
    theirs = Dense(tied.boxes[:, shuffled], tied.scores[:, shuffled], tied.extra[:, shuffled], None)
    report = it.judge(it.outputs_of(theirs))
    assert report.failures == ()
    assert report.agreement is not None
    assert report.agreement.near_ties > 100


# ---- refused ----


def swap(first: str, second: str) -> Callable[[Case], None]:
    def damage(it: Case) -> None:
        name, i = column(it, first)
        _, j = column(it, second)
        it.outputs[name][..., [i, j]] = it.outputs[name][..., [j, i]]

    return damage


def add(name: str, amount: float) -> Callable[[Case], None]:
    def damage(it: Case) -> None:
        output, index = column(it, name)
        it.outputs[output][..., index] += amount

    return damage


def rows(move: Callable[[Tensor], Tensor]) -> Callable[[Case], None]:
    """Move all outputs' rows together; `move` takes and gives row numbers."""

    def damage(it: Case) -> None:
        order = move(torch.arange(300))
        for name, value in it.outputs.items():
            if name != "protos":
                it.outputs[name] = value[:, order]

    return damage


def duplicate(row: int, of: int) -> Callable[[Case], None]:
    def move(order: Tensor) -> Tensor:
        order[row] = of
        return order

    return rows(move)


def lose_the_best(it: Case) -> None:
    """Without the best row, and so with one more at the end, all in order."""
    assert isinstance(it.reference, Dense)
    dense = replace(it.reference, scores=it.reference.scores.contiguous().clone())
    dense.scores.view(-1)[dense.scores.argmax()] = 0
    it.outputs.update(it.outputs_of(dense))


def wrong_class(it: Case) -> None:
    output, index = column(it, "class_id")
    classes = len(it.model.names)
    it.outputs[output][..., index] = (it.outputs[output][..., index] + 1) % max(classes, 2)


def poison(value: float) -> Callable[[Case], None]:
    def damage(it: Case) -> None:
        next(iter(it.outputs.values()))[0, 7 % len(it.outputs), 0] = value

    return damage


ROW_DAMAGE: dict[str, Callable[[Case], None]] = {
    "unsorted": rows(lambda order: order.roll(1)),
    "reversed": rows(lambda order: order.flip(0)),
    "the best row twice, the second lost": duplicate(1, of=0),
    "the second row twice, the best lost": duplicate(0, of=1),
    "the last row is the one before": duplicate(299, of=298),
    "all rows are the best": rows(lambda order: order * 0),
    "the best is lost": lose_the_best,
    "classes off by one": wrong_class,
    "a class that does not exist": add("class_id", 1000),
    "half a class": add("class_id", 0.5),
    "scores off": add("confidence", 0.01),
    "NaN": poison(float("nan")),
    "infinite": poison(float("inf")),
}


@pytest.mark.parametrize(("task", "outputs", "damage"), product(RANKED, OUTPUT_FORMATS, ROW_DAMAGE))
def test_damaged_rankings_are_refused(task: str, outputs: str, damage: str) -> None:
    it = case(task, outputs)
    ROW_DAMAGE[damage](it)
    report = it.judge(it.outputs)
    assert not report.passed
    with pytest.raises(ParityError):
        report.require()


COLUMN_DAMAGE = [
    *((task, "named", pair) for task in RANKED for pair in [("x", "y"), ("w", "h"), ("x", "w"), ("confidence", "h")]),
    *((task, "ultralytics", pair) for task in ("detect", "segment", "pose") for pair in [("x1", "x2"), ("x1", "y1")]),
    *((task, outputs, ("confidence", "class_id")) for task in RANKED for outputs in OUTPUT_FORMATS),
    *(("obb", outputs, pair) for outputs in OUTPUT_FORMATS for pair in [("angle", "confidence"), ("angle", "h")]),
    ("pose", "named", ("visibility", "y")),
]


@pytest.mark.parametrize(("task", "outputs", "pair"), COLUMN_DAMAGE)
def test_swapped_columns_are_refused(task: str, outputs: str, pair: tuple[str, str]) -> None:
    it = case(task, outputs)
    if pair == ("visibility", "y"):
        it.outputs["keypoints"] = it.outputs["keypoints"][..., [0, 2, 1]]
    else:
        swap(*pair)(it)
    assert not it.judge(it.outputs).passed


@pytest.mark.parametrize(
    ("task", "outputs", "axis", "precision"), product(RANKED, OUTPUT_FORMATS, range(4), PRECISIONS)
)
def test_shifted_boxes_are_refused(task: str, outputs: str, axis: int, precision: str) -> None:
    """In float32 a pixel shows on every box; in coarser precisions a shift shows on the smallest ones first."""
    it = case(task, outputs)
    assert isinstance(it.reference, Dense)
    boxes = it.reference.boxes if it.model.task.rotated else _centred(it.reference.boxes)
    ranked = it.reference.scores[0].flatten().topk(300).indices // it.reference.scores.shape[-1]
    limits = TOLERANCES[precision]["box_px"].of(MEASURES["box_px"].scale(boxes[0], boxes[0]))[ranked]
    shift = 1.0 if precision == "fp32" else 2 * float(limits.min())
    next(iter(it.outputs.values()))[..., axis] += shift
    report = it.judge(it.outputs, precision)
    assert any(failure.startswith("box_px") for failure in report.failures)
    box = next(quantity for quantity in report.quantities if quantity.name == "box_px")
    assert box.max >= 0.49 * shift


@pytest.mark.parametrize("outputs", OUTPUT_FORMATS)
def test_shifted_keypoints_are_refused(outputs: str) -> None:
    it = case("pose", outputs)
    if outputs == "named":
        it.outputs["keypoints"][..., 1] += 1
    else:
        it.outputs["predictions"][..., 7::3] += 1
    report = it.judge(it.outputs)
    # Boxes and scores alone tell where each row comes from, so the figure is the shift itself.
    keypoint = next(quantity for quantity in report.quantities if quantity.name == "keypoint_px")
    assert not keypoint.passed
    assert 0.99 < keypoint.max < 1.01
    assert 0.49 < keypoint.mean < 0.51


def test_one_shifted_keypoint_of_one_row_is_refused() -> None:
    it = case("pose")
    it.outputs["keypoints"][0, 123, 4, 0] += 1
    report = it.judge(it.outputs)
    assert "1 of 300 rows match no prediction" in report.failures[0]
    assert report.failures[-1].startswith("keypoint_px is off by up to 1 px")


def test_wrong_visibility_is_refused() -> None:
    it = case("pose")
    it.outputs["keypoints"][..., 2] += 0.01
    assert not it.judge(it.outputs).passed


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("outputs", OUTPUT_FORMATS)
def test_negated_angles_are_refused(outputs: str, precision: str) -> None:
    it = case("obb", outputs)
    name, index = column(it, "angle")
    it.outputs[name][..., index] *= -1
    report = it.judge(it.outputs, precision)
    assert any(failure.startswith("angle_rad") for failure in report.failures)


def uncropped(it: Case) -> None:
    """Masks of the same logits, but over the whole picture."""
    assert isinstance(it.reference, Dense)
    everywhere = replace(it.reference, boxes=torch.tensor([-1e4, -1e4, 1e4, 1e4]).expand_as(it.reference.boxes))
    it.outputs["masks"] = it.outputs_of(everywhere)["masks"]


MASK_DAMAGE: dict[str, Callable[[Case], object]] = {
    "not cropped": uncropped,
    "a row lower": lambda it: it.outputs.update(masks=it.outputs["masks"].roll(1, 2)),
    "a column further": lambda it: it.outputs.update(masks=it.outputs["masks"].roll(1, 3)),
    "empty": lambda it: it.outputs["masks"].zero_(),
    "full": lambda it: it.outputs["masks"].fill_(1),
    "inverted": lambda it: it.outputs.update(masks=1 - it.outputs["masks"]),
    "transposed": lambda it: it.outputs.update(masks=it.outputs["masks"].transpose(2, 3)),
    "of other rows": lambda it: it.outputs.update(masks=it.outputs["masks"].roll(1, 1)),
    "255 for 1": lambda it: it.outputs["masks"].mul_(255),
}


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("damage", list(MASK_DAMAGE))
def test_damaged_masks_are_refused(damage: str, precision: str) -> None:
    it = case("segment")
    MASK_DAMAGE[damage](it)
    report = it.judge(it.outputs, precision)
    assert len(report.failures) == 1
    assert "mask" in report.failures[0]


def test_a_few_pixels_of_a_mask_may_differ() -> None:
    it = case("segment")
    mask = it.outputs["masks"][0, 0]
    filled = mask.view(-1).nonzero().flatten()
    mask.view(-1)[filled[:5]] = 0
    report = it.judge(it.outputs)
    assert report.passed
    assert report.agreement is not None
    assert report.agreement.min_mask_iou is not None
    assert report.agreement.min_mask_iou < 1
    assert report.agreement.mask_pixels_differing is not None
    assert report.agreement.mask_pixels_differing > 0
    mask.view(-1)[filled] = 0
    assert not it.judge(it.outputs).passed


@pytest.mark.parametrize("damage", ["scaled", "shifted", "other channels", "coefficients negated", "no coefficients"])
def test_damaged_prototypes_and_coefficients_are_refused(damage: str) -> None:
    it = case("segment", "ultralytics")
    protos, predictions = it.outputs["protos"], it.outputs["predictions"]
    match damage:
        case "scaled":
            protos *= 1.01
        case "shifted":
            it.outputs["protos"] = protos.roll(1, -1)
        case "other channels":
            it.outputs["protos"] = protos.roll(1, 1)
        case "coefficients negated":
            predictions[..., 6:] *= -1
        case "no coefficients":
            predictions[..., 6:] = 0
    assert not it.judge(it.outputs).passed


@pytest.mark.parametrize("damage", ["scaled", "shifted", "other channels", "coefficients negated", "no coefficients"])
def test_damaged_named_prototypes_and_coefficients_are_refused(damage: str) -> None:
    """Though the masks beside them are right."""
    it = case("segment")
    protos, coefficients = it.outputs["protos"], it.outputs["coefficients"]
    match damage:
        case "scaled":
            protos *= 1.01
        case "shifted":
            it.outputs["protos"] = protos.roll(1, -1)
        case "other channels":
            it.outputs["protos"] = protos.roll(1, 1)
        case "coefficients negated":
            coefficients *= -1
        case "no coefficients":
            coefficients.zero_()
    assert not it.judge(it.outputs).passed


def test_prototypes_of_the_right_signs_and_wrong_sizes_are_seen_at_full_resolution() -> None:
    it = case("segment")
    boxes = it.outputs["detections"][0, :, :4]
    it.outputs["coefficients"][0] = torch.eye(32)[torch.arange(300) % 32]
    assert isinstance(it.reference, Dense)
    reference = replace(it.reference, extra=it.reference.extra.clone())
    anchors = ((_centred(reference.boxes[0])[:, None] - boxes[None]).abs().amax(-1)).argmin(0)
    reference.extra[0, anchors] = it.outputs["coefficients"][0]
    it = replace(it, reference=reference, outputs=it.outputs_of(reference))
    assert it.judge(it.outputs).passed
    it.outputs["protos"] = it.outputs["protos"].sign() * it.outputs["protos"].abs().max()
    failures = [failure.split()[0] for failure in it.judge(it.outputs).failures]
    assert failures == ["full_mask_iou", "proto"]


def test_artifacts_made_before_coefficients_were_outputs_are_compared_by_their_masks() -> None:
    it = case("segment")
    assert isinstance(it.reference, Dense)
    specs = it.model.output_specs[:2]
    given = {spec.name: it.outputs[spec.name] for spec in specs}
    report = compare(it.model.task, specs, given, it.reference, precision="fp32")
    assert report.passed and {quantity.name for quantity in report.quantities} == {"box_px", "score", "mask_iou"}
    negated = replace(it.reference, extra=-it.reference.extra)
    (failure,) = compare(it.model.task, specs, given, negated, precision="fp32").failures
    assert failure.startswith("mask_iou")


MAP_DAMAGE: dict[str, tuple[str, str, Callable[[Tensor], Tensor], set[str]]] = {
    "classes a pixel lower": ("semantic", "classes", lambda value: value.roll(8, 1), {"class_pixels"}),
    "classes of another image": ("semantic", "classes", lambda value: value.flip(0), {"class_pixels"}),
    "classes upsampled from their own map": (
        "semantic", "classes", lambda value: value[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2),
        {"class_pixels"},
    ),
    "logits scaled": ("semantic", "logits", lambda value: value * 1.01, {"logit"}),
    "logits of other classes": ("semantic", "logits", lambda value: value.roll(1, 1), {"logit"}),
    "depths a percent too far": ("depth", "depth", lambda value: value * 1.01, {"depth"}),
    "depths mirrored": ("depth", "depth", lambda value: value.flip(-1), {"depth"}),
    "logarithms of depths": ("depth", "depth", lambda value: value.log(), {"depth"}),
}  # fmt: skip
"""By damage: task, output, what is done to it, and the quantities that must fail."""


@pytest.mark.parametrize("damage", list(MAP_DAMAGE))
def test_damaged_maps_are_refused(damage: str) -> None:
    task, output, change, quantities = MAP_DAMAGE[damage]
    it = case(task, batch=2)
    it.outputs[output] = change(it.outputs[output])
    report = it.judge(it.outputs)
    assert {failure.split()[0] for failure in report.failures} == quantities
    assert report.agreement is not None and report.agreement.matched < report.agreement.rows == 2


PROBABILITY_DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "permuted": lambda p: p.roll(1, 1),
    "the first two swapped": lambda p: _swap_best(p),
    "not summing to 1": lambda p: p * 0.99,
    "uniform": lambda p: torch.full_like(p, 1 / p.shape[1]),
    "logits": lambda p: p.log(),
    "softmax twice": lambda p: p.softmax(1),
    "of another picture": lambda p: p.flip(0),
    "NaN": lambda p: p.masked_fill(p == p.max(), float("nan")),
}


def _swap_best(probabilities: Tensor) -> Tensor:
    best, second = probabilities[0].topk(2).indices.tolist()
    swapped = probabilities.clone()
    swapped[0, [best, second]] = probabilities[0, [second, best]]
    return swapped


@pytest.mark.parametrize("damage", list(PROBABILITY_DAMAGE))
def test_damaged_probabilities_are_refused(damage: str) -> None:
    it = case("classify", batch=2)
    report = it.judge({"probabilities": PROBABILITY_DAMAGE[damage](it.outputs["probabilities"])})
    assert not report.passed


def test_what_swapped_probabilities_mean_is_said() -> None:
    it = case("classify")
    report = it.judge({"probabilities": _swap_best(it.outputs["probabilities"])})
    assert any("top-1" in failure for failure in report.failures)
    assert report.agreement is not None
    assert (report.agreement.matched, report.agreement.classes_equal, report.agreement.near_ties) == (1, 0, 1)


def test_pictures_of_a_batch_are_not_mixed_up() -> None:
    it = case("detect", batch=2)
    it.outputs["detections"] = it.outputs["detections"].flip(0)
    report = it.judge(it.outputs)
    assert {failure.split(":")[0] for failure in report.failures} >= {"image 0", "image 1"}


# ---- names, shapes, dtypes ----


def test_a_missing_output_is_refused() -> None:
    it = case("segment")
    report = it.judge({"detections": it.outputs["detections"]})
    assert report.failures == ("outputs are detections; expected detections, masks, coefficients, protos",)
    assert report.agreement is not None
    assert it.judge({}).failures == ("outputs are none; expected detections, masks, coefficients, protos",)


def test_a_wrong_name_an_extra_output_and_another_order_are_refused() -> None:
    it = case("pose")
    one, two = it.outputs.values()
    for outputs in (
        {"boxes": one, "keypoints": two},
        {"detections": one, "keypoints": two, "more": two},
        {"keypoints": two, "detections": one},
    ):
        assert len(it.judge(outputs).failures) == 1


@pytest.mark.parametrize("task", TASKS)
def test_wrong_shapes_are_refused(task: str) -> None:
    for name, value in case(task).outputs.items():
        for wrong in (value[:, :-1], value[..., :-1], value[0], value[None], value.transpose(-1, -2)[..., :5]):
            it = case(task)
            it.outputs[name] = wrong
            failures = it.judge(it.outputs).failures
            assert len(failures) == 1
            assert failures[0].startswith(f"{name} has shape {tuple(wrong.shape)}; expected {tuple(value.shape)}")


@pytest.mark.parametrize("task", TASKS)
def test_wrong_dtypes_are_refused(task: str) -> None:
    for name, value in case(task).outputs.items():
        for wrong in (torch.float64, torch.bool, torch.int64):
            it = case(task)
            it.outputs[name] = value.to(wrong)
            expected = str(value.dtype).removeprefix("torch.")
            given = str(wrong).removeprefix("torch.")
            assert f"{name} is {given}; expected {expected}" in it.judge(it.outputs).failures


def test_all_failures_are_collected() -> None:
    it = case("segment")
    it.outputs["detections"][..., 0] += 1
    it.outputs["detections"][0, 0, 1] = float("nan")
    it.outputs["masks"] = it.outputs["masks"].float()
    report = it.judge(it.outputs)
    words = "\n".join(report.failures)
    assert "detections: 1 of 1800 values are NaN or infinite" in words
    assert "masks is float32; expected uint8" in words
    assert "box_px is off by up to 1 px" in words
    with pytest.raises(ParityError) as caught:
        report.require()
    assert "\n" not in str(caught.value)
    assert f"and {len(report.failures) - 1} more" in str(caught.value)


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_a_reference_that_holds_no_numbers_is_no_reference(task: str) -> None:
    it = case(task)
    if isinstance(it.reference, Dense):
        broken: Dense | Tensor = replace(it.reference, scores=it.reference.scores * float("nan"))
    else:
        broken = it.reference * float("inf")
    report = replace(it, reference=broken).judge(it.outputs)
    assert len(report.failures) == 1
    assert "nothing to compare with" in report.failures[0]


# ---- the report ----


def test_figures_are_what_was_done() -> None:
    it = case("detect")
    it.outputs["detections"][..., 0] += 1
    report = it.judge(it.outputs)
    box = report.largest
    assert box is not None
    assert (box.name, box.unit, box.values, box.passed) == ("box_px", "px", 1200, False)
    assert box.max == pytest.approx(1, abs=1e-3)
    assert box.p99 == pytest.approx(1, abs=1e-3)
    assert box.mean == pytest.approx(0.25, abs=1e-3)
    assert (box.absolute, box.relative) == (0.02, 1e-4)
    # The smallest tolerance that would have passed does pass, and less does not.
    assert 0.9 < box.smallest_tolerance < 1
    enough = Tolerance(box.smallest_tolerance * 1.001, box.relative)
    too_little = Tolerance(box.smallest_tolerance * 0.999, box.relative)
    assert it.judge(it.outputs, tolerances={"box_px": enough}).passed
    assert not it.judge(it.outputs, tolerances={"box_px": too_little}).passed


@pytest.mark.parametrize("outputs", OUTPUT_FORMATS)
@pytest.mark.parametrize("task", TASKS)
def test_every_row_is_told_beside_its_prediction(task: str, outputs: str) -> None:
    it = case(task, outputs, batch=2)
    report = it.judge(it.outputs)
    count = 300 if it.model.task.ranked else 1
    assert [(item.image, item.row) for item in report.items] == [(i, row) for i in range(2) for row in range(count)]
    assert all(item.matched and item.class_equal for item in report.items)
    for quantity in report.quantities:
        assert len(report.errors[quantity.name]) == quantity.values
        assert float(report.errors[quantity.name].max()) == quantity.max
        if quantity.name != "proto":
            assert max(item.errors[quantity.name] for item in report.items) == quantity.max
            assert max(item.ratios[quantity.name] for item in report.items) == pytest.approx(quantity.ratio)
    assert all((item.box is None) is not it.model.task.ranked for item in report.items)
    assert all((item.mask_iou is None) is (task != "segment") for item in report.items)


def test_an_object_that_is_lost_is_told_once() -> None:
    """The best prediction's row says something else, and another's numbers are none."""
    it = case("detect")
    whole = it.judge(it.outputs).items
    it.outputs["detections"][0, 0, :4] += 500
    it.outputs["detections"][0, 1] = torch.nan
    items = it.judge(it.outputs).items
    assert [item.row for item in items[:300]] == list(range(300))
    assert (items[0].matched, items[1].matched, items[1].label, items[1].row_confidence) == (False, False, None, None)
    assert all(item.row is None and not item.matched and not item.errors for item in items[300:])
    sure = [(item.label, item.confidence, item.box) for item in items if item.confidence is not None]
    assert len(sure) == len(set(sure))
    assert {(item.label, item.confidence, item.box) for item in whole[:2]} <= set(sure)


@pytest.mark.parametrize("task", TASKS)
def test_the_report_is_plain_data(task: str) -> None:
    it = case(task)
    next(value for value in it.outputs.values() if value.is_floating_point()).view(-1)[3] = float("nan")
    report = it.judge(it.outputs)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["passed"] is False
    assert data["failures"] == list(report.failures)
    assert data["agreement"]["rows"] == (300 if it.model.task.ranked else 1)
    assert {"name", "unit", "max", "mean", "p99", "absolute", "smallest_tolerance", "passed"} <= set(
        data["quantities"][0]
    )


def test_outputs_on_autograd_are_taken() -> None:
    it = case("classify")
    assert it.judge({"probabilities": it.outputs["probabilities"].requires_grad_()}).passed
