from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from yolo26_executorch.exporter.jobs import Job
from yolo26_executorch.exporter.task_queue import Task, TaskQueue, signals_collected
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.variants import VARIANTS

Events = list[tuple[str, dict[str, Any]]]


def task(label: str) -> Task:
    source = Source("yolo26n", VARIANTS["yolo26n"], None)
    return Task(label, Job(source, Path("out"), ExportOptions(), None, True, False, False, ""))


def queue_of(*labels: str) -> tuple[TaskQueue[Task], Events]:
    events: Events = []
    return TaskQueue([task(label) for label in labels], lambda name, event: events.append((name, dict(event)))), events


def kinds(events: Events) -> list[tuple[str, str]]:
    return [(name, event["event"]) for name, event in events]


def test_tasks_are_due_in_their_order_and_no_more_than_may_be() -> None:
    queue, _ = queue_of("a", "b", "c", "d")
    assert queue.due(0) == []
    assert [one.label for one in queue.due(2)] == ["a", "b"]
    assert [one.label for one in queue.due(None)] == ["c", "d"]
    assert queue.waiting == []


def test_what_is_put_off_comes_first_once_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    queue, _ = queue_of("a", "b", "c")
    (first,) = queue.due(1)
    queue.put_off(first, 5)
    assert [one.label for one in queue.due(1)] == ["b"]
    now[0] += 5
    assert [one.label for one in queue.due(2)] == ["a", "c"]


def test_each_is_reported_from_its_start_to_one_record() -> None:
    queue, events = queue_of("kind/a", "b")
    first, second = queue.due(2)
    queue.report(first, "start")
    queue.report(first, "stage", stage="load")
    queue.report(first, "start")
    queue.finish(first, first.job.record("exported"))
    queue.finish(second, second.job.record("failed", message="why"))
    assert kinds(events) == [
        ("kind/a", "start"), ("kind/a", "stage"), ("kind/a", "record"), ("b", "start"), ("b", "record"),
    ]  # fmt: skip
    assert events[1][1] == {"event": "stage", "stage": "load"}
    assert queue.records["kind/a"].name == "kind/a"
    assert queue.records["b"].message == "why"


def test_what_waits_is_interrupted_without_a_start() -> None:
    queue, events = queue_of("a", "b")
    queue.interrupt()
    assert kinds(events) == [("a", "record"), ("b", "record")]
    assert {record.outcome for record in queue.records.values()} == {"interrupted"}
    assert queue.waiting == []


def test_signals_are_collected_and_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals_collected() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 10
        while len(signals) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert sorted(signals) == [signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before
