"""The table of tasks against the contract."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import yolo26_executorch
from yolo26_executorch.models.tasks import GUIDE_TASKS, OUTPUT_FORMATS, TASKS, OutputRow, TensorSpec, ultralytics_class
from yolo26_executorch.system.plain import from_plain, to_plain

BATCH, HEIGHT, WIDTH = 2, 640, 480
SIZES = {
    "B": BATCH, "K": 300, "H": HEIGHT, "W": WIDTH, "H4": HEIGHT // 4, "W4": WIDTH // 4, "H8": HEIGHT // 8,
    "W8": WIDTH // 8, "EXTRA": 32, "RAW": 38, "KEYPOINTS": 17, "VALUES": 3,
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
    "semantic": [("classes", "int32", (2, 640, 480), ()), ("logits", "float32", (2, 1000, 80, 60), ())],
    "depth": [("depth", "float32", (2, 1, 640, 480), ())],
}


@pytest.mark.parametrize("task", TASKS)
def test_named_outputs_are_the_contracts(task: str) -> None:
    specs = TASKS[task].output_specs("named", SIZES)
    assert [(spec.name, spec.dtype, spec.shape, spec.columns) for spec in specs] == NAMED[task]


@pytest.mark.parametrize(("classes", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "int32")])
def test_maps_of_few_classes_are_bytes(classes: int, dtype: str) -> None:
    assert TASKS["semantic"].output_specs("named", {**SIZES, "CLASSES": classes})[0].dtype == dtype


def test_what_is_made_from_other_outputs_has_them_beside_it() -> None:
    made = {row.name: row.made_from for task in TASKS.values() for row in task.named if row.made_from}
    assert made == {"masks": ("coefficients", "protos"), "classes": ("logits",)}


def test_native_sizes_and_datasets() -> None:
    assert {name: task.native for name, task in TASKS.items()} == {
        "detect": (640, 640), "segment": (640, 640), "pose": (640, 640), "obb": (1024, 1024), "classify": (224, 224),
        "semantic": (1024, 2048), "depth": (640, 640),
    }  # fmt: skip
    assert [name for name, task in TASKS.items() if not task.ranked] == ["classify", "semantic", "depth"]
    assert list(GUIDE_TASKS) == ["detect", "segment", "pose", "obb", "classify"] == list(TASKS)[:5]
    assert [name for name, task in TASKS.items() if task.rotated] == ["obb"]


def test_heads_tell_tasks_apart() -> None:
    assert len({task.head for task in TASKS.values()}) == len({task.suffix for task in TASKS.values()}) == 7


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
            assert from_plain(json.loads(json.dumps(to_plain(spec))), TensorSpec) == spec
    with pytest.raises(ValueError, match="shape: missing"):
        from_plain({"name": "x"}, TensorSpec)


def test_an_unknown_format_or_symbol_is_no_silent_default() -> None:
    with pytest.raises(KeyError):
        TASKS["detect"].output_specs("raw", SIZES)
    with pytest.raises(KeyError):
        OutputRow("x", ("B", "DEPTH"), "float32", "").bind(SIZES)


# ---- nothing else asks which task it has ----

SOURCES = Path(yolo26_executorch.__file__).parent
ROWS = {name.upper() for name in TASKS}


def by_task(text: str) -> Iterator[int]:
    """Yield the lines that tell tasks apart: dictionaries keyed by their names, comparisons and cases with one."""
    for node in ast.walk(ast.parse(text)):
        asked: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            asked = [*node.keys] if sum(_names_a_task(key) for key in node.keys) > 1 else []
        elif isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        yield from (part.lineno for part in asked if part is not None and _names_a_task(part))
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("tasks"):
            yield from (node.lineno for alias in node.names if alias.name in ROWS)


def _names_a_task(part: ast.expr | None) -> bool:
    return isinstance(part, ast.Constant) and part.value in TASKS


def test_what_differs_by_task_stands_in_the_table_alone() -> None:
    files = [path for path in SOURCES.rglob("*.py") if path != SOURCES / "models" / "tasks.py"]
    assert len(files) > 80
    found = [f"{path.relative_to(SOURCES)}:{line}" for path in files for line in by_task(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        'KINDS = {"detect": 1, "pose": 2}',
        'if task.name == "segment":\n    pass',
        'ranked = "classify" != name',
        'match task:\n    case "obb":\n        pass',
        "from ..models.tasks import DETECT",
        "def late():\n    from .tasks import TASKS, CLASSIFY",
    ],
)
def test_asking_for_a_task_is_found(text: str) -> None:
    assert list(by_task(text))


@pytest.mark.parametrize("task", TASKS)
def test_ultralytics_classes_are_there(task: str) -> None:
    from ultralytics.nn import modules
    from ultralytics.nn import tasks as ultralytics_tasks

    row = TASKS[task]
    for kind, place in (("Predictor", row.predictor), ("Validator", row.validator)):
        assert ultralytics_class(place).__name__.endswith(kind)
    assert hasattr(ultralytics_tasks, row.model_class) and hasattr(modules.head, row.head)
