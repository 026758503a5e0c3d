"""A smoke test's figures with each of their keys missing in turn: whoever shows them goes on without."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support import make_manifest, publish
from yolo26_executorch.artifacts.card import render
from yolo26_executorch.artifacts.manifest import Manifest
from yolo26_executorch.artifacts.reading import Contents
from yolo26_executorch.cli import inspect
from yolo26_executorch.exporter.jobs import figures_of
from yolo26_executorch.report import page, tree

QUANTITY = {
    "name": "box_px", "unit": "px", "values": 1200, "max": 0.0002, "mean": 2e-05, "p99": 0.00015, "absolute": 0.02,
    "relative": 0.0001, "smallest_tolerance": 0.0, "ratio": 0.005, "passed": True,
}  # fmt: skip
AGREEMENT = {
    "rows": 300, "matched": 299, "classes_equal": 299, "near_ties": 0, "min_box_iou": 0.99, "min_mask_iou": None,
    "mask_pixels_differing": None,
}  # fmt: skip
TEST: dict[str, Any] = {
    "passed": True, "runner": "executorch", "device": "cpu",
    "inputs": [
        {
            "input": "bus.jpg", "against": "eager fp32", "passed": True, "failures": [], "agreement": AGREEMENT,
            "quantities": [QUANTITY],
        }
    ],
    "failures": [],
    "largest": {"quantity": "score", "value": 1.7e-06, "unit": "0..1", "ratio": 0.019},
    "latency_ms": {"p50": 62.8, "min": 53.1, "max": 202.9, "runs": 20},
    "picture": "bus.jpg",
    "answer": ["umbrella 0.84: centre (171, 104), size 242 x 188 px"],
}  # fmt: skip
"""As an export's test writes them."""


def without_each(figures: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures once for each key of each level, without it."""
    for key, value in figures.items() if isinstance(figures, dict) else enumerate(figures):
        if isinstance(figures, dict):
            less = copy.deepcopy(TEST)
            node: Any = less
            for step in path:
                node = node[step]
            del node[key]
            yield ".".join(map(str, (*path, key))), less
        if isinstance(value, dict | list):
            yield from without_each(value, (*path, key))


CASES = [("nothing", TEST), *without_each(TEST)]


@pytest.fixture(params=CASES, ids=[name for name, _ in CASES])
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return make_manifest(backend="xnnpack", test=request.param[1])


def test_every_level_is_taken_away() -> None:
    names = {name for name, _ in CASES}
    assert {"latency_ms", "latency_ms.p50", "inputs.0.agreement.rows", "inputs.0.quantities.0.ratio"} <= names
    assert len(names) == 1 + 9 + 6 + 7 + 11 + 4 + 4


def test_a_card_says_what_it_knows(manifest: Manifest) -> None:
    card = render(manifest)
    test = manifest.test or {}
    assert ("62.8 ms" in card) == (len(test.get("latency_ms", {})) == 4)
    assert "None" not in card


def test_inspect_shows_what_there_is(manifest: Manifest) -> None:
    out = io.StringIO()
    for title, rows in inspect._sections(manifest, Contents((), {}, {})).items():
        inspect._print(Console(file=out, markup=False, width=200), title, rows)
    assert ("62.8" in out.getvalue()) == ("p50" in (manifest.test or {}).get("latency_ms", {}))


def test_the_reports_page_shows_what_there_is(manifest: Manifest, tmp_path: Path) -> None:
    publish(tmp_path, manifest)
    found = tree.read(tmp_path)
    (entry,) = found.entries
    timed = (manifest.test or {}).get("latency_ms", {})
    assert entry.latency_ms == timed.get("p50")
    html = page.render(tmp_path, found)
    assert ("62.80 ms p50" in html) == ("p50" in timed)
    assert "– ms" not in html
    assert "None" not in page._latency(entry) + page._parity(entry)


def test_an_exports_record_has_what_there_is(manifest: Manifest) -> None:
    figures = figures_of(manifest.test)
    timed, largest = ((manifest.test or {}).get(key, {}) for key in ("latency_ms", "largest"))
    assert figures.get("latency_ms") == timed.get("p50")
    assert ("largest_error" in figures) == ({"value", "unit"} <= set(largest))
