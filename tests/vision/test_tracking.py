from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

from yolo26_executorch.errors import OptionError, UsageError
from yolo26_executorch.vision.tracking import check_tracking, register


@pytest.fixture
def lap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is installed is no matter here."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "lap" or find(name))


def test_the_trackers_there_are(lap: None) -> None:
    from ultralytics.trackers.track import TRACKER_MAP

    for kind in TRACKER_MAP:
        path = check_tracking("detect", f"{kind}.yaml")
        assert path is not None and Path(path).is_file()
        assert check_tracking("detect", kind) == path
    assert check_tracking("detect") is None


def test_a_tracker_of_ones_own(lap: None, tmp_path: Path) -> None:
    known = check_tracking("detect", "botsort")
    assert known is not None
    shutil.copy(known, tmp_path / "mine.yaml")
    assert check_tracking("detect", tmp_path / "mine.yaml") == str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file, and none of the trackers botsort.yaml, bytetrack.yaml, .*tracktrack.yaml"),
        (
            "tracker_type: bytetrack\n",
            r"lacks fuse_score, match_thresh, .*; start from a copy of .*bytetrack.yaml, .*ocsort.yaml",
        ),
        ("tracker_type: sort\n", "its tracker_type is none of botsort, bytetrack"),
        ("bytetrack", "is no tracker's file"),
        ("a: [", "cannot be read"),
        ("\x00", "cannot be read"),
        ({"match_thresh": "high"}, "match_thresh: 'high' is no float, such as 0.8"),
        ({"fuse_score": 3}, "fuse_score: 3 is no bool, such as True"),
    ],
)
def test_a_tracker_that_cannot_work_is_refused(content: Any, message: str, lap: None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if isinstance(content, dict):
        known = check_tracking("detect", "bytetrack")
        assert known is not None
        content = yaml.safe_dump({**yaml.safe_load(Path(known).read_text()), **content})
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=message) as caught:
        check_tracking("detect", path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_tracking_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'lap>=0\.5\.12'"):
        check_tracking("detect")


def test_a_classifier_tracks_nothing() -> None:
    with pytest.raises(UsageError, match="classify model finds no objects"):
        check_tracking("classify")


def test_an_error_of_a_tracker_is_in_words_and_callbacks_do_not_stack() -> None:
    from types import SimpleNamespace

    class Predictor:
        def __init__(self) -> None:
            self.callbacks: dict[str, list[Any]] = {"on_predict_start": [], "on_predict_postprocess_end": []}
            self.args = SimpleNamespace(mode="track", tracker="mine.yaml", task="detect")

        def add_callback(self, event: str, call: Any) -> None:
            self.callbacks[event].append(call)

    predictor = Predictor()
    for _ in range(3):
        register(predictor, persist=True)
    assert [len(calls) for calls in predictor.callbacks.values()] == [1, 1]
    with pytest.raises(OptionError, match=r"tracker=mine.yaml does not work: AttributeError"):
        predictor.callbacks["on_predict_start"][0](predictor)
