"""The page without a browser: what is in it, and that nothing foreign gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from support import make_manifest, publish
from support.tree_of_exports import HOSTILE, make_tree, manifest, trial, write_report
from yolo26_executorch.errors import UsageError
from yolo26_executorch.report import page, tree
from yolo26_executorch.report.samples import Sample


class Parsed(HTMLParser):
    """A page's elements with their attributes, its scripts, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()
        self.words = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self._words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def render(base: Path, found: dict[str, Sample] | None = None) -> str:
    return page.render(base, tree.read(base), found)


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    base = make_tree(tmp_path_factory.mktemp("page") / "exports")
    found = {"yolo26n": Sample("bus.jpg: 4 persons", "data:image/jpeg;base64,AA==", 4, 3)}
    found["best"] = Sample(f"No sample picture: {HOSTILE}")
    return Parsed(render(base, found))


def test_every_figure_with_its_unit(parsed: Parsed) -> None:
    for words in (
        "8 models: 6 exported 1 failed 1 damaged",
        "File size MB", "Latency p50 ms", "Parity error ÷ tolerance", "Accuracy 0..1",
        "yolo26s detect exported 7.9 11.25 0.11 0.412 box mAP50-95 XNNPACK fp32 CPU",
        "yolo26n-pose pose exported 0.0 0.90 0.25 – CUDA tf32 NVIDIA H100",
        "yolo26l-seg segment failed – – – – XNNPACK fp32 CPU",
        "11.25 ms p50, 10.25 to 13.25 ms over 20 calls, CPU, by executorch",
        "0.4125 box mAP50-95 on /home/me/shapes/data.yaml, val, 48 images; -0.00030 beside PyTorch fp32",
        "Stages of the export, 3.5 s",
        "bus.jpg eager fp32 299 of 300 box px 0.005 px 0.02 + 0.10% 0.25",
        "At the stage “lower”: outputs differ",
        "The end of its log, .logs/yolo26l-seg.log first line 100% Warning:",
        "memory 8.0 GB", "NVIDIA H100, capability 9.0, 80 GB", "C++ compiler 12.2.0",
        "bus.jpg: 4 persons",
    ):  # fmt: skip
        assert words in parsed.words, words
    table = [attributes.get("data-value") for attributes in parsed.all("td") if attributes.get("data-value")]
    assert "123.0" in table  # sorting goes by the figures, not by their roundings


def test_random_weights_cpu_only_and_untested_artifacts_say_so(parsed: Parsed) -> None:
    assert "yolo26n-cls exported random weights CPU only not tested" in parsed.words
    assert "Random weights (seed 3): good for trying out and timing; its answers mean nothing." in parsed.words
    assert "CPU only: lowered to XNNPACK, it never uses a GPU." in parsed.words


def test_nothing_foreign_becomes_html(parsed: Parsed) -> None:
    assert len(parsed.scripts) == 3
    assert not any("hacked" in script for script in parsed.scripts[1:])
    assert [image["src"] for image in parsed.all("img")] == ["data:image/jpeg;base64,AA=="]
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    # As text it is there: in a class' name, a failure's message, its log, and a sample's words.
    assert parsed.words.count("window.hacked=1") == 2 * 4


def test_only_its_own_scripts_may_run_and_nothing_be_fetched(parsed: Parsed) -> None:
    [policy] = [str(meta["content"]) for meta in parsed.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split(";")[1] and "http" not in policy
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in parsed.scripts[1:]]
    assert re.findall("'sha256-([^']+)'", policy) == hashes
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), tag


def test_the_plots_data(parsed: Parsed) -> None:
    points = {point["name"]: point for point in json.loads(parsed.scripts[0])}
    assert points["yolo26n"] == {
        "id": "yolo26n", "name": "yolo26n", "task": "detect", "size": "n", "made": "XNNPACK fp32", "device": "CPU",
        "latency_ms": 5.5, "size_mb": 3.850006, "accuracy": 0.355, "metric": "box mAP50-95",
        "data": "data.yaml, val", "random": False,
    }  # fmt: skip
    assert points["best"]["size"] == "own checkpoint"
    assert points["yolo26n-cls"]["random"] and points["yolo26n-cls"]["latency_ms"] is None


def test_it_can_be_read_without_seeing_it(parsed: Parsed) -> None:
    """Language, one heading of the first rank and none left out below, texts for pictures, links that lead."""
    assert parsed.all("html") == [{"lang": "en"}]
    ranks = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert ranks[0] == 1 and ranks.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(ranks))
    assert all(image.get("alt") for image in parsed.all("img"))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(str(link["href"])[1:] in ids for link in parsed.all("a"))
    labels = {name for _, attributes in parsed.elements for name in (attributes.get("aria-labelledby") or "").split()}
    assert labels <= set(ids)


def test_a_tree_without_figures(tmp_path: Path) -> None:
    publish(tmp_path, make_manifest("detect", "xnnpack", "random", test=None))
    text = render(tmp_path)
    assert "No accuracy is known yet." in text and "No latency is known: nothing here was tested." in text
    assert 'id="machine"' not in text


def test_an_error_above_its_tolerance_stands_out(tmp_path: Path) -> None:
    publish(tmp_path, manifest(test=trial(1.0, 1.5, failures=["box_px is off"])))
    text = render(tmp_path)
    assert '<strong class="bad">1.5</strong>' in text and "<li>box_px is off</li>" in text


@pytest.mark.parametrize("machine", [{}, {"gpus": 3, "cxx": [], "cores": None}, {"gpus": [{}, 3], "driver": {}}])
def test_a_strange_machine(tmp_path: Path, machine: dict[str, Any]) -> None:
    publish(tmp_path, manifest())
    write_report(tmp_path, machine=machine)
    assert "The machine" in render(tmp_path)


@pytest.mark.parametrize(
    "test",
    [{"failures": 3, "inputs": 3}, {"failures": ["a"], "inputs": [{"quantities": [{}]}]}, {"largest": {"ratio": 1}}],
)
def test_strange_figures(tmp_path: Path, test: dict[str, Any]) -> None:
    publish(tmp_path, manifest(test=test))
    assert "yolo26n" in render(tmp_path)


def test_plotly_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, manifest())
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UsageError, match=r"pip install 'yolo26-executorch\[report\]'"):
        render(tmp_path)
