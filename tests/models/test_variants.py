from __future__ import annotations

import re

import pytest

from yolo26_executorch.errors import UnknownVariantError
from yolo26_executorch.models.tasks import GUIDE_TASKS
from yolo26_executorch.models.variants import ALL_VARIANTS, SIZES, VARIANTS, find_variants


def names(*patterns: str) -> list[str]:
    return [variant.name for variant in find_variants(patterns)]


def test_the_guides_25_are_each_size_of_each_of_its_tasks() -> None:
    assert len(VARIANTS) == 25
    assert {(variant.size, variant.task.name) for variant in VARIANTS.values()} == {
        (size, task) for size in SIZES for task in GUIDE_TASKS
    }
    assert all(name == variant.name for name, variant in ALL_VARIANTS.items())
    assert list(ALL_VARIANTS)[:25] == list(VARIANTS)


def test_every_yolo26_that_ultralytics_publishes_is_there() -> None:
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    published = {name.removesuffix(".pt") for name in GITHUB_ASSETS_NAMES if re.fullmatch(r"yoloe?-?26.*\.pt", name)}
    assert {name for name, variant in ALL_VARIANTS.items() if variant.weights.published} == published


def test_architectures_without_published_weights_are_ultralytics_own() -> None:
    from ultralytics.utils import ROOT

    files = {path.stem for path in (ROOT / "cfg" / "models" / "26").glob("*.yaml")}
    # yoloe-26 alone detects: nothing of it is published.
    assert {re.sub("26[nsmlx]", "26", variant.config).removesuffix(".yaml") for variant in ALL_VARIANTS.values()} == (
        files - {"yoloe-26"}
    )
    assert names("yolo26?-p[26]") == [f"yolo26{size}-{p}" for p in ("p2", "p6") for size in SIZES]


def test_data_sets_are_ultralytics_own() -> None:
    from ultralytics.utils import ROOT

    known = [variant for variant in ALL_VARIANTS.values() if variant.weights.vocabulary is None]
    assert len(known) == len(ALL_VARIANTS) - 10
    assert all((ROOT / "cfg" / "datasets" / variant.dataset).is_file() for variant in known)
    assert ALL_VARIANTS["yolo26n-sem-ade20k"].dataset == "ade20k.yaml"
    assert ALL_VARIANTS["yolo26n-sem-ade20k"].config == "yolo26n-sem.yaml"


def test_names_are_ultralytics_own() -> None:
    from ultralytics.nn.tasks import guess_model_task, yaml_model_load
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    for variant in ALL_VARIANTS.values():
        assert (variant.checkpoint in GITHUB_ASSETS_NAMES) == variant.weights.published
        config = yaml_model_load(variant.config)
        assert config["scale"] == variant.size
        assert guess_model_task(config) == variant.task.name
        head = variant.task.open_head if variant.weights.vocabulary else variant.task.head
        assert config["head"][-1][2] == head


def test_names_are_found_in_the_order_given_and_once() -> None:
    assert names("yolo26x", "yolo26n-seg", "yolo26x") == ["yolo26x", "yolo26n-seg"]
    assert find_variants(["yolo26n-obb"]) == [VARIANTS["yolo26n-obb"]]


def test_wildcards() -> None:
    assert names("yolo26?-seg") == [f"yolo26{size}-seg" for size in SIZES]
    assert names("yolo26?") == [f"yolo26{size}" for size in SIZES]
    assert names("yolo26[nx]-cls", "*n-cls") == ["yolo26n-cls", "yolo26x-cls"]
    assert names("*") == list(ALL_VARIANTS)
    assert [variant.family for variant in find_variants(["yoloe-26x-*"])] == [
        "yoloe-26[nsmlx]-seg", "yoloe-26[nsmlx]-seg-pf",
    ]  # fmt: skip
    assert all(variant in find_variants([variant.family]) for variant in ALL_VARIANTS.values())


def test_a_wildcard_leaves_out_what_nobody_publishes_but_a_name_does_not() -> None:
    found = find_variants(["yolo26n*", "yolo26s-p6"], published=True)
    assert [variant.name for variant in found if not variant.weights.published] == ["yolo26s-p6"]
    assert "yolo26n-p2" in names("yolo26n*")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("yolo26n-sge", "did you mean yolo26n-seg"),
        ("yolov26n", "yolo26n"),
        ("YOLO26N", "names look like yolo26n"),
        ("resnet50", "names look like yolo26n, yolo26s-seg, yolo26x-cls"),
        ("", "names look like"),
        ("yolo26y-*", "`yolo26-et list` shows all"),
    ],
)
def test_a_name_that_fits_nothing_is_refused_with_near_ones(given: str, near: str) -> None:
    with pytest.raises(UnknownVariantError) as caught:
        find_variants(["yolo26n", given])
    assert repr(given) in str(caught.value)
    assert near in str(caught.value)
    assert caught.value.exit_status == 2
