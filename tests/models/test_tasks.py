"""The table of tasks against the contract."""

from __future__ import annotations

import pytest

from yolo26_executorch.models.tasks import OUTPUT_FORMATS, TASKS, OutputRow, TensorSpec

BATCH, HEIGHT, WIDTH = 2, 640, 480
SIZES = {
    "B": BATCH, "K": 300, "H4": HEIGHT // 4, "W4": WIDTH // 4, "EXTRA": 32, "RAW": 38, "KEYPOINTS": 17, "VALUES": 3,
    "CLASSES": 1000,
}  # fmt: skip
BOX = ("x", "y", "w", "h")
NAMED = {
    "detect": [("detections", "float32", (2, 300, 6), (*BOX, "confidence", "class_id"))],
    "segment": [
        ("detections", "float32", (2, 300, 6), (*BOX, "confidence", "class_id")),
        ("masks", "uint8", (2, 300, 160, 120), ()),
        ("coefficients", "float32", (2, 300, 32), ()),
        ("protos", "float32", (2, 32, 160, 120), ()),
    ],
    "pose": [
        ("detections", "float32", (2, 300, 6), (*BOX, "confidence", "class_id")),
        ("keypoints", "float32", (2, 300, 17, 3), ("x", "y", "visibility")),
    ],
    "obb": [("detections", "float32", (2, 300, 7), (*BOX, "angle", "confidence", "class_id"))],
    "classify": [("probabilities", "float32", (2, 1000), ())],
}


@pytest.mark.parametrize("task", TASKS)
def test_named_outputs_are_the_contracts(task: str) -> None:
    specs = TASKS[task].output_specs("named", SIZES)
    assert [(spec.name, spec.dtype, spec.shape, spec.columns) for spec in specs] == NAMED[task]


def test_native_sizes_and_datasets() -> None:
    assert {name: task.native_imgsz for name, task in TASKS.items()} == {
        "detect": 640, "segment": 640, "pose": 640, "obb": 1024, "classify": 224
    }  # fmt: skip
    assert [name for name, task in TASKS.items() if not task.ranked] == ["classify"]
    assert [name for name, task in TASKS.items() if task.rotated] == ["obb"]


def test_heads_tell_tasks_apart() -> None:
    assert len({task.head for task in TASKS.values()}) == len({task.suffix for task in TASKS.values()}) == 5


@pytest.mark.parametrize("outputs", OUTPUT_FORMATS)
@pytest.mark.parametrize("task", TASKS)
def test_every_column_has_a_unit(task: str, outputs: str) -> None:
    for spec in TASKS[task].output_specs(outputs, SIZES):
        assert len(spec.units) == (len(spec.columns) or 1)
        assert len(spec.columns) in (0, spec.shape[-1]) or spec.name == "predictions"


def test_keypoints_of_two_values_have_no_visibility() -> None:
    keypoints = TASKS["pose"].output_specs("named", {**SIZES, "KEYPOINTS": 4, "VALUES": 2})[1]
    assert (keypoints.shape, keypoints.columns, keypoints.units) == ((2, 300, 4, 2), ("x", "y"), ("px", "px"))


def test_a_spec_survives_json() -> None:
    for task in TASKS.values():
        for spec in task.output_specs("named", SIZES):
            assert TensorSpec.from_json(spec.to_json()) == spec
    with pytest.raises(KeyError):
        TensorSpec.from_json({"name": "x"})


def test_an_unknown_format_or_symbol_is_no_silent_default() -> None:
    with pytest.raises(KeyError):
        TASKS["detect"].output_specs("raw", SIZES)
    with pytest.raises(KeyError):
        OutputRow("x", ("B", "DEPTH"), "float32", "").bind(SIZES)
