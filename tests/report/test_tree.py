"""What is read from a tree of exports; `cli/test_report.py` has the command, `test_page.py` the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import publish
from support.tree_of_exports import HOSTILE, failed, make_tree, manifest, trial, write_report, write_val
from yolo26_executorch.errors import UsageError
from yolo26_executorch.report.tree import Entry, read


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return folder


def only(base: Path, **arguments: Any) -> Entry:
    [entry] = read(base, **arguments).entries
    return entry


def test_everything_is_there_in_the_order_of_tasks_and_sizes(tmp_path: Path) -> None:
    tree = read(make_tree(tmp_path / "tree"))
    assert [(entry.name, entry.task, entry.size, entry.outcome) for entry in tree.entries] == [
        ("yolo26n", "detect", "n", "exported"),
        ("yolo26s", "detect", "s", "exported"),
        ("yolo26m", "detect", "m", "exported"),
        ("yolo26l-seg", "segment", "l", "failed"),
        ("yolo26n-pose", "pose", "n", "exported"),
        ("yolo26x-obb", "obb", "x", "damaged"),
        ("best", "obb", None, "exported"),
        ("yolo26n-cls", "classify", "n", "exported"),
    ]
    assert tree.warnings == ()
    small = tree.entries[1]
    assert (small.backend, small.precision, small.latency_ms, small.parity) == ("xnnpack", "fp32", 11.25, 0.1125)
    assert small.size_mb == (7 * 1_125_000 + len("# card")) / 1e6
    assert small.accuracy is not None
    assert (small.accuracy.value, small.accuracy.difference) == (0.4125, pytest.approx(-0.0003))
    assert small.sources == ("yolo26s/manifest.json", "yolo26s.val.json")
    assert small.seconds == {"load": 1.0, "lower": 2.5}


def test_a_failure_has_its_words_and_its_log(tmp_path: Path) -> None:
    entry = read(make_tree(tmp_path / "tree")).entries[3]
    assert (entry.message, entry.sources) == (f"outputs differ: {HOSTILE}", ("report.json",))
    assert entry.log == f"first line\n100%\nWarning: {HOSTILE} [31m"  # what a bar left, and no terminal's marks
    assert (entry.latency_ms, entry.parity, entry.size_mb, entry.accuracy) == (None, None, None, None)


def test_a_failure_keeps_the_figures_of_its_test(base: Path) -> None:
    """Of a test that did not pass there is nothing but the record."""
    write_report(base, failed("yolo26n-seg", stage="test", test=trial(8.0, 1.5), seconds={"load": 1.0}))
    entry = only(base)
    assert (entry.latency_ms, entry.parity, entry.seconds) == (8.0, 1.5, {"load": 1.0})


def test_a_failure_beside_a_former_artifact(base: Path) -> None:
    publish(base, manifest(created="2026-11-22T06:00:00+00:00"))
    write_report(base, failed("yolo26n"))
    entry = only(base)
    assert (entry.outcome, entry.latency_ms) == ("failed", 10.0)
    assert any("the figures are those of the former artifact" in note for note in entry.notes)


def test_an_artifact_that_is_newer_than_its_failure(base: Path) -> None:
    publish(base, manifest(created="2026-11-22T08:00:00+00:00"))
    write_report(base, failed("yolo26n"))
    entry = only(base)
    assert (entry.outcome, entry.message, entry.record) == ("exported", None, None)


def test_an_artifact_that_is_gone(base: Path) -> None:
    write_report(base, failed("yolo26n", outcome="exported", message=None))
    assert (only(base).outcome, only(base).message) == (
        "missing",
        "it was exported, and its folder is not there any more",
    )


def test_notes(base: Path, tmp_path: Path) -> None:
    tree = read(make_tree(tmp_path / "tree"))
    notes = {entry.name: " ".join(entry.notes) for entry in tree.entries}
    assert "Random weights (seed 3)" in notes["yolo26n-cls"] and "Not tested" in notes["yolo26n-cls"]
    assert notes["yolo26n"] == "CPU only: lowered to XNNPACK, it never uses a GPU."
    assert notes["yolo26n-pose"] == ""


def test_folders_further_down_have_reports_of_their_own(base: Path) -> None:
    for name in ("fp16", "tf32"):
        (base / name).mkdir()
        publish(base / name, manifest())
        write_report(base / name, failed("yolo26s", task="detect"))
        write_val(base / name / "n.val.json", manifest(), 0.5)
    tree = read(base)
    assert [entry.place for entry in tree.entries] == ["fp16/yolo26n", "tf32/yolo26n", "fp16/yolo26s", "tf32/yolo26s"]
    assert [run.source for run in tree.runs] == ["fp16/report.json", "tf32/report.json"]


def test_one_artifact_by_itself(base: Path) -> None:
    entry = only(publish(base, manifest()))
    assert (entry.place, entry.name, entry.outcome) == ("yolo26n", "yolo26n", "exported")


# --- Accuracies -------------------------------------------------------------------------------------------------------


def test_the_newest_measurement_counts(base: Path, tmp_path: Path) -> None:
    publish(base, manifest())
    write_val(base / "a.val.json", manifest(), 0.5)
    given = write_val(tmp_path / "b.json", manifest(), 0.25, created="2026-11-23T00:00:00+00:00")
    entry = only(base, val_reports=[given, base / "a.val.json"])
    assert [(one.value, one.source) for one in entry.accuracies] == [(0.25, "b.json"), (0.5, "a.val.json")]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "yolo26s"}, {"backend": "cuda"}, {"precision": "fp16"}, {"imgsz": [320, 640]}, {"batch": 2},
        {"created": "2026-11-22T07:00:00+00:00"},
    ],
)  # fmt: skip
def test_a_measurement_of_another_or_a_former_model_does_not_count(base: Path, changes: dict[str, Any]) -> None:
    publish(base, manifest())
    write_val(base / "a.val.json", manifest(), 0.5, **changes)
    tree = read(base)
    assert tree.entries[0].accuracy is None
    [warning] = tree.warnings
    assert warning.startswith("a.val.json measures no artifact here, or a former one: ")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"primary": "x", "imgsz": [1, 2], "artifact": {"metrics": {"x": NaN}}}']
)
def test_what_is_no_measurement(base: Path, tmp_path: Path, text: str) -> None:
    """One that was named is refused, one that only lies there becomes a warning."""
    publish(base, manifest())
    given = tmp_path / "given.json"
    given.write_text(text)
    with pytest.raises(UsageError, match=r"given\.json is no report of `yolo26-et val`"):
        read(base, [given])
    given.rename(base / "a.val.json")
    [warning] = read(base).warnings
    assert "a.val.json is no report of `yolo26-et val`" in warning


# --- Foreign and broken files -----------------------------------------------------------------------------------------


def test_nothing_exported(base: Path) -> None:
    with pytest.raises(UsageError, match="holds no exports"):
        read(base)
    with pytest.raises(UsageError, match="expected a folder"):
        read(base / "nowhere")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"records": [{}]}', '{"records": [], "created": 3}'])
def test_a_report_that_is_none_is_a_warning(base: Path, text: str) -> None:
    publish(base, manifest())
    (base / "report.json").write_text(text)
    tree = read(base)
    assert len(tree.entries) == 1 and tree.runs == ()
    [warning] = tree.warnings
    assert "report.json is no report of `yolo26-et export`" in warning


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b", ""])
def test_a_record_cannot_point_elsewhere(base: Path, name: str) -> None:
    publish(base, manifest())
    write_report(base, failed(name))
    tree = read(base)
    assert [entry.name for entry in tree.entries] == ["yolo26n"]
    assert "cannot be an artifact's name" in tree.warnings[0]


def test_a_log_that_is_a_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (base / ".logs").mkdir()
    (base / ".logs" / "yolo26n.log").symlink_to(tmp_path / "secret")
    write_report(base, failed("yolo26n"))
    assert only(base).log is None


def test_a_long_log_is_cut(base: Path) -> None:
    (base / ".logs").mkdir()
    (base / ".logs" / "yolo26n.log").write_text("".join(f"line {index} of a long log\n" for index in range(5000)))
    write_report(base, failed("yolo26n"))
    log = only(base).log
    assert log is not None
    lines = log.splitlines()
    assert len(lines) <= 60 and lines[-1] == "line 4999 of a long log"


@pytest.mark.parametrize(
    "test",
    [{}, {"latency_ms": 3, "largest": []}, {"latency_ms": {"p50": "fast"}, "largest": {"ratio": True}}],
)
def test_figures_that_are_none(base: Path, test: dict[str, Any]) -> None:
    publish(base, manifest(test=test))
    assert (only(base).latency_ms, only(base).parity) == (None, None)


def test_a_damaged_manifest(base: Path) -> None:
    folder = publish(base, manifest())
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**data, "task": "fly"}))
    entry = only(base)
    assert (entry.outcome, entry.name, entry.task) == ("damaged", "yolo26n", None)
    assert entry.message is not None and "task" in entry.message


def test_an_unknown_task_in_a_record(base: Path) -> None:
    write_report(base, replace(failed("yolo26n"), task=HOSTILE, variant=None))
    assert only(base).task is None
