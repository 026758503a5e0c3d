from __future__ import annotations

from pathlib import Path

import pytest

from yolo26_executorch.errors import CheckpointError, UsageError
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.naming import names_of, run_of, tell_apart
from yolo26_executorch.models.variants import VARIANTS


def source(path: str) -> Source:
    return Source(names_of(Path(path))[0], None, Path(path))


def names(*paths: str, taken: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in tell_apart([source(path) for path in paths], lambda name, one: name in taken)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/me/runs/segment/train2/weights/best.pt", ("train2-best", "segment-train2-best")),
        ("/home/me/runs/segment/train2/weights/last.pt", ("train2-last", "segment-train2-last")),
        ("/home/me/runs/segment/my run (2)/weights/best.pt", ("my_run_2-best", "segment-my_run_2-best")),
        ("/home/me/mine/best.pt", ("mine-best", "me-mine-best")),
        ("/train/weights/best.pt", ("train-best",)),
        ("/weights/best.pt", ("best",)),
        ("/best.pt", ("best",)),
        ("/home/me/runs/train/weights/epoch50.pt", ("epoch50",)),
        ("/home/me/my model (1).pt", ("my_model_1",)),
        ("/home/me/été.v2.pt", ("t_.v2",)),
        ("/home/me/.hidden.pt", ("hidden",)),
    ],
)
def test_a_file_gives_its_artifact_a_name(path: str, expected: tuple[str, ...]) -> None:
    assert names_of(Path(path)) == expected


def test_a_name_that_gives_no_folder_is_refused() -> None:
    with pytest.raises(CheckpointError, match="rename the file"):
        names_of(Path("/home/me/模型.pt"))


def test_runs_are_told_from_one_another() -> None:
    assert run_of(Path("/home/me/runs/segment/train2/weights/best.pt")) == "segment/train2/weights"
    assert run_of(Path("/best.pt")) == ""


def test_names_that_clash_get_the_folder_before() -> None:
    assert names("/r/detect/train/weights/best.pt", "/r/segment/train/weights/best.pt") == [
        "detect-train-best", "segment-train-best",
    ]  # fmt: skip
    assert names("/r/detect/train/weights/best.pt", "/r/detect/train2/weights/best.pt") == ["train-best", "train2-best"]
    assert names("/r/segment/train/weights/best.pt", taken=("train-best",)) == ["segment-train-best"]
    # Nothing longer is left; the exporter refuses to replace what is there.
    assert names("/r/segment/train/weights/best.pt", taken=("train-best", "segment-train-best")) == [
        "segment-train-best"
    ]


def test_a_longer_name_that_clashes_in_turn_is_lengthened_too() -> None:
    found = names("/r/detect/train/weights/best.pt", "/r/segment/train/weights/best.pt", "/r/x/detect-train/best.pt")
    assert found == ["detect-train-best", "segment-train-best", "x-detect-train-best"]


def test_each_is_named_once() -> None:
    variant = Source("yolo26n", VARIANTS["yolo26n"], None)
    twice = [variant, source("/r/train/weights/best.pt")] * 2
    assert [one.name for one in tell_apart(twice)] == ["yolo26n", "train-best"]


@pytest.mark.parametrize("paths", [("/a/model.pt", "/b/model.pt"), ("/x/a/b/best.pt", "/y/a/b/best.pt")])
def test_two_that_would_share_a_folder_are_refused(paths: tuple[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        names(*paths)
    for word in (*paths, "--name", "rename one of the files"):
        assert word in str(caught.value)
    assert caught.value.exit_status == 2
