from __future__ import annotations

import math

import pytest

from yolo26_executorch.report.val_report import cause, items, mapping, number, time


def test_numbers() -> None:
    assert [number(value) for value in (0, -1.5, 3)] == [0.0, -1.5, 3.0]
    assert [number(value) for value in (None, "1", True, [], math.nan, math.inf, 10**400)] == [None] * 7


def test_collections() -> None:
    assert (mapping({"a": 1}), mapping([1]), mapping(None)) == ({"a": 1}, {}, {})
    assert (items([{"a": 1}, 3]), items({"a": 1}), items(None)) == ([{"a": 1}], [], [])


def test_times() -> None:
    assert time("2026-11-22T08:00:00Z") == time("2026-11-22T08:00:00")
    assert time("2026-11-22T08:00:00") == time("2026-11-22T08:00:00+00:00") == time("2026-11-22T09:00:00+01:00")
    for wrong in ("yesterday", 3, None):
        with pytest.raises((ValueError, TypeError)):
            time(wrong)


def test_causes() -> None:
    assert cause(KeyError("name")) == "it has no 'name'"
    assert cause(ValueError("bad\nmore")) == "bad"
