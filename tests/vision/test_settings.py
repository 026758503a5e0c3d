from __future__ import annotations

from typing import Any

import pytest

from yolo26_executorch.errors import OptionError
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.vision.settings import _OUTPUTS, HONOURED, IDLE, REFUSED, SWITCHES, check_settings


def check(given: dict[str, Any], task: str = "detect", **options: Any) -> list[str]:
    return check_settings(given, task=TASKS[task], size=(320, 640), rows=300, **options)


def test_every_setting_of_ultralytics_has_its_answer() -> None:
    from ultralytics.cfg import CFG_BOOL_KEYS, DEFAULT_CFG_DICT

    answers = [HONOURED, REFUSED.keys(), IDLE.keys()]
    former = {
        "save_dir", "augmentations", "boxes", "hide_labels", "hide_conf", "line_thickness", "half", "int8", "end2end",
        "label_smoothing", "save_hybrid", "crop_fraction", "keras",
    }  # fmt: skip
    assert set().union(*answers) == DEFAULT_CFG_DICT.keys() | former
    assert sum(map(len, answers)) == len(set().union(*answers))  # one answer each
    assert CFG_BOOL_KEYS <= SWITCHES
    assert set().union(*answers) >= SWITCHES


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_results_is_refused_with_the_reason(name: str) -> None:
    why, harmless = REFUSED[name]
    value = name != "end2end"  # which asks for another head where it is false
    with pytest.raises(OptionError, match=f"{name}={value}: {why}; leave it out"):
        check({name: value})
    for same in harmless:
        assert check({name: same}) == []
    assert check({"task": "detect", "mode": "track"}, mode="track") == []


@pytest.mark.parametrize("name", IDLE)
def test_what_has_no_effect_is_said(name: str) -> None:
    assert check({name: 0.5}) == [f"{name}=0.5 has no effect: {IDLE[name]}"]
    assert check({name: None}) == []
    assert (check({name: False}) == []) == (name in SWITCHES)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("classify", ["conf", "classes", "max_det", "retina_masks", "save_crop", "show_boxes", "line_width"]),
        ("detect", ["retina_masks"]),
        ("segment", []),
    ],
)
def test_a_task_without_what_a_setting_is_about(task: str, names: list[str]) -> None:
    given = {
        "conf": 0.5, "classes": [0], "max_det": 5, "retina_masks": True, "save_crop": True, "show_boxes": False,
        "line_width": 2, "save": True,
    }  # fmt: skip
    assert [note.split("=")[0] for note in check(given, task)] == names


def test_every_output_that_a_setting_is_about_is_of_some_task() -> None:
    outputs = {row.name for task in TASKS.values() for row in task.named}
    for names in _OUTPUTS.values():
        assert names[0] in outputs


def test_settings_that_need_another() -> None:
    assert check({"save_frames": True, "save": True, "save_conf": True, "save_txt": True}) == []
    assert check({"save_frames": True}) == ["save_frames=True has no effect without save=True"]
    assert check({"save_conf": True, "save": True}) == ["save_conf=True has no effect without save_txt=True"]
    assert check({"save_conf": False}) == []
    assert check({"tracker": "botsort.yaml"}) == ["tracker=botsort.yaml has no effect without tracking"]
    assert check({"tracker": "botsort.yaml"}, mode="track") == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"konf": 0.5}, "konf=0.5: there is no such setting; did you mean conf?"),
        ({"xyz": 1}, "xyz=1: there is no such setting; see"),
        ({"max_det": 1000}, "max_det=1000: this model was exported with 300 rows"),
        ({"imgsz": 640}, "imgsz=640: this model was exported for 320 x 640 pixels"),
        ({"imgsz": "large"}, "imgsz=large: this model"),
        ({"imgsz": (640, 320)}, "exported for 320 x 640"),
        ({"batch": 0}, "batch=0: expected a number of images from 1 up"),
        ({"batch": -1}, "batch=-1"),
        ({"batch": 0.5}, "batch=0.5"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        check(given)
    assert message in str(caught.value)


def test_what_the_model_can_is_taken() -> None:
    assert check({"max_det": 300, "imgsz": [320, 640], "batch": 4}) == []
