from __future__ import annotations

import pytest

from yolo26_executorch.errors import UnknownVariantError
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.models.variants import SIZES, VARIANTS, find_variants


def names(*patterns: str) -> list[str]:
    return [variant.name for variant in find_variants(patterns)]


def test_there_are_25_each_size_of_each_task() -> None:
    assert len(VARIANTS) == 25
    assert {(variant.size, variant.task.name) for variant in VARIANTS.values()} == {
        (size, task) for size in SIZES for task in TASKS
    }
    assert all(name == variant.name for name, variant in VARIANTS.items())


def test_names_are_ultralytics_own() -> None:
    from ultralytics.nn.tasks import guess_model_task, yaml_model_load
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    for variant in VARIANTS.values():
        assert variant.checkpoint in GITHUB_ASSETS_NAMES
        config = yaml_model_load(variant.config)
        assert config["scale"] == variant.size
        assert guess_model_task(config) == variant.task.name
        assert config["head"][-1][2] == variant.task.head


def test_names_are_found_in_the_order_given_and_once() -> None:
    assert names("yolo26x", "yolo26n-seg", "yolo26x") == ["yolo26x", "yolo26n-seg"]
    assert find_variants(["yolo26n-obb"]) == [VARIANTS["yolo26n-obb"]]


def test_wildcards() -> None:
    assert names("yolo26?-seg") == [f"yolo26{size}-seg" for size in SIZES]
    assert names("yolo26?") == [f"yolo26{size}" for size in SIZES]
    assert names("yolo26[nx]-cls", "*n-cls") == ["yolo26n-cls", "yolo26x-cls"]
    assert names("*") == list(VARIANTS)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("yolo26n-sge", "did you mean yolo26n-seg"),
        ("yolov26n", "yolo26n"),
        ("YOLO26N", "names look like yolo26n"),
        ("resnet50", "names look like yolo26n, yolo26s-seg, yolo26x-cls"),
        ("", "names look like"),
        ("yolo26y-*", "`yolo26-et list` shows all 25"),
    ],
)
def test_a_name_that_fits_nothing_is_refused_with_near_ones(given: str, near: str) -> None:
    with pytest.raises(UnknownVariantError) as caught:
        find_variants(["yolo26n", given])
    assert repr(given) in str(caught.value)
    assert near in str(caught.value)
    assert caught.value.exit_status == 2
