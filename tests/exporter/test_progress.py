from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support import make_manifest, publish
from yolo26_executorch.artifacts.manifest import MANIFEST
from yolo26_executorch.exporter.expected import Earlier, History
from yolo26_executorch.exporter.jobs import Job
from yolo26_executorch.exporter.progress import Display, Live, Tracker, display, duration
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.variants import VARIANTS

SECONDS = {"load": 10.0, "export": 5.0, "lower": 20.0, "write": 5.0, "test": 10.0}
SIZE = (640, 640)
NANO = Earlier("yolo26n", "yolo26n", "detect", SECONDS, SIZE)


class Clock:
    """Shows the seconds it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def job(name: str, **options: Any) -> Job:
    variant = VARIANTS.get(name)
    path = None if variant else Path(f"{name}.pt")
    return Job(Source(name, variant, path), Path("out"), ExportOptions(**options), None, True, False, False, "")


def ended(name: str, outcome: str = "exported", **values: Any) -> dict[str, Any]:
    return {"event": "record", "record": job(name).record(outcome, **{"seconds": SECONDS, **values}).to_json()}


def stage(name: str) -> dict[str, Any]:
    return {"event": "stage", "stage": name}


@pytest.mark.parametrize(
    ("changes", "test", "stages"),
    [
        ({}, True, "load export lower write test"),
        ({}, False, "load export lower write"),
        ({"backend": "cuda"}, True, "load export lower compile write test"),
        ({"backend": "cuda", "autotune": "fast"}, True, "load export tune lower compile write test"),
    ],
)
def test_the_stages_of_a_job(changes: dict[str, Any], test: bool, stages: str) -> None:
    assert replace(job("yolo26n", **changes), test=test).stages == tuple(stages.split())


def test_stages_and_times_of_an_export() -> None:
    clock = Clock()
    tracker = Tracker([job("yolo26n")], History([NANO]), clock=clock)
    tracker.take("yolo26n", {"event": "start"})
    assert (tracker.stage("yolo26n"), tracker.times("yolo26n")) == ("start", "0 s of about 50 s")
    clock.now += 30  # it waits for another export
    tracker.take("yolo26n", stage("load"))
    assert (tracker.stage("yolo26n"), tracker.times("yolo26n")) == ("load, stage 1 of 5", "0 s of about 50 s")
    clock.now += 4
    assert tracker.times("yolo26n") == "4 s of about 50 s"
    clock.now += 46  # longer than the ten seconds that were expected
    assert tracker.times("yolo26n") == "50 s of about 90 s"
    tracker.take("yolo26n", stage("lower"))
    assert (tracker.stage("yolo26n"), tracker.times("yolo26n")) == ("lower, stage 3 of 5", "50 s of about 85 s")
    tracker.take("yolo26n", {"event": "retry", "message": "why", "in_s": 2})
    clock.now += 2
    tracker.take("yolo26n", stage("load"))
    assert tracker.times("yolo26n") == "0 s of about 50 s"


def test_nothing_is_expected_where_nothing_is_known() -> None:
    tracker = Tracker([job("yolo26n"), job("yolo26s")], clock=Clock())
    tracker.take("yolo26n", {"event": "start"})
    assert tracker.times("yolo26n") == "0 s"
    assert tracker.overall() == "0 of 2 done, 1 running, 1 waiting: yolo26s"


def test_what_ends_tells_of_what_waits() -> None:
    clock = Clock()
    names = ["yolo26n", "yolo26s", "yolo26m", "yolo26l", "yolo26x"]
    tracker = Tracker([job(name) for name in names], clock=clock)
    assert tracker.overall() == "0 of 5 done, 5 waiting: yolo26n, yolo26s, yolo26m and 2 more"
    tracker.take("yolo26n", {"event": "start"})
    tracker.take("yolo26n", ended("yolo26n"))
    # One size up takes 1.2 times as long: 60, 72, 86.4 and 103.68 seconds.
    assert tracker.overall() == ("1 of 5 done, 4 waiting: yolo26s, yolo26m, yolo26l and 1 more; about 5 min to go")
    for name in ("yolo26x", "yolo26l"):
        tracker.take(name, {"event": "start"})
    assert tracker.overall() == "1 of 5 done, 2 running, 2 waiting: yolo26s, yolo26m; about 3 min to go"


def test_the_most_similar_export_is_taken() -> None:
    own = Earlier("best", None, "detect", {**SECONDS, "load": 1.0}, SIZE)
    segment = Earlier("yolo26n-seg", "yolo26n-seg", "segment", {**SECONDS, "load": 2.0}, SIZE)
    smaller = Earlier("yolo26n", "yolo26n", "detect", {**SECONDS, "load": 3.0}, (320, 320))
    untested = Earlier("yolo26n", "yolo26n", "detect", {"load": 4.0}, SIZE)
    history = History([own, NANO, segment, smaller, untested])
    assert history.expected(job("best"))["load"] == 1.0
    assert history.expected(job("yolo26n")) == SECONDS
    assert history.expected(job("yolo26n-seg"))["load"] == 2.0
    assert history.expected(job("yolo26m-seg"))["load"] == pytest.approx(2.0 * 1.2**2)
    assert History([untested]).expected(job("yolo26n")) == {}


def test_earlier_exports_are_the_manifests_of_the_base_path(tmp_path: Path) -> None:
    options = ExportOptions(imgsz=SIZE)
    publish(tmp_path, make_manifest(backend="xnnpack", options=options, seconds=SECONDS))
    publish(tmp_path, make_manifest("pose", "cuda", seconds={**SECONDS, "compile": 99.0}))
    publish(tmp_path, make_manifest("obb", "xnnpack", seconds=SECONDS))
    (tmp_path / "yolo26n-obb" / MANIFEST).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert History.of(tmp_path, options).expected(job("yolo26n")) == SECONDS
    assert History.of(tmp_path, ExportOptions(backend="cuda", autotune="fast")).expected(job("yolo26n")) == {}
    assert History.of(tmp_path / "nowhere", options).expected(job("yolo26n")) == {}
    assert sorted(tmp_path.rglob("*")) == before


def test_kinds_of_gpus_are_counted_each() -> None:
    tracker = Tracker([job("yolo26n"), job("yolo26s")], copies=2)
    tracker.take("A100/yolo26s", {"event": "start"})
    tracker.take("A100/yolo26s", ended("yolo26s"))
    assert tracker.overall().startswith("1 of 4 done, 3 waiting: yolo26n, yolo26n, yolo26s; about")


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Display(Tracker([job("yolo26n"), job("yolo26s")], History([NANO]), clock=Clock()))
    for event in ({"event": "start"}, stage("load"), stage("lower"), stage("unheard of"), ended("yolo26n")):
        shown.show("yolo26n", event)
    said = [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "yolo26n: load, stage 1 of 5; about 50 s to go",
        "yolo26n: lower, stage 3 of 5; about 35 s to go",
        "yolo26n: unheard of; about 50 s to go",
        "yolo26n: exported, 50 s",
        "yolo26n: 1 of 2 done, 1 waiting: yolo26s; about 60 s to go",
    ]


def test_moving_lines() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, highlight=False, markup=False, color_system=None)
    clock = Clock()
    shown = display(Tracker([job("yolo26n"), job("yolo26s")], History([NANO]), clock=clock), console)
    assert isinstance(shown, Live)
    with shown:
        shown.show("yolo26n", {"event": "start"})
        shown.show("yolo26n", stage("load"))
        clock.now += 7
        shown.show("yolo26n", stage("lower"))
        shown.show("yolo26n", {"event": "answer", "lines": ["bus.jpg: 1 bus"]})
        shown.show("yolo26n", {"event": "wait", "holder": "process 7"})
        shown.show("yolo26n", ended("yolo26n", "failed", message="no reason", stage="lower"))
        shown.show("yolo26s", ended("yolo26s", "interrupted", seconds={}))
    text = out.getvalue()
    for words in (
        "yolo26n: lower, stage 3 of 5, 7 s of about 42 s",
        "0 of 2 done, 1 running, 1 waiting: yolo26s; about 2 min to go",
        "yolo26n: bus.jpg: 1 bus",
        "yolo26n: waiting, 7 s of about 42 s",
        "yolo26n: failed at the stage 'lower': no reason",
        "1 of 2 done, 1 waiting: yolo26s; about 60 s to go",
        "yolo26s: interrupted",
        "2 of 2 done",
    ):
        assert " ".join(words.split()) in " ".join(text.split()), words


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 99, 100, 5999, 6001)] == ["0 s", "99 s", "2 min", "100 min", "1.7 h"]
