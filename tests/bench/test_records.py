"""The records of a benchmark, and what is made of them for people."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from support.stub_bench import report, round_of, row
from yolo26_executorch.bench import Report
from yolo26_executorch.bench.compare import compare, print_comparison
from yolo26_executorch.bench.display import LATENCY, RATES, check_plot, print_report, write_plot
from yolo26_executorch.bench.records import Latency
from yolo26_executorch.errors import UsageError, Yolo26Error


def printed(made: Report) -> list[str]:
    """The printed lines, with single spaces."""
    out = io.StringIO()
    print_report(made, Console(file=out, width=140, highlight=False, markup=False, emoji=False))
    return [" ".join(line.split()) for line in out.getvalue().splitlines() if line.strip()]


WHOLE = report(
    row(), row("eager", p50=2.0), row("compile", "graph", None), row(mode="launched", p50=1.5, graph_equals_call=None)
)


def test_figures_are_medians_over_rounds() -> None:
    found = Latency.of([round_of(3.0, runs=5), round_of(1.0, runs=6), round_of(2.0, runs=7, cold_ms=None)])
    assert (found.p50_ms, found.spread_ms, found.runs) == (2.0, 2.0, 18)
    assert (found.p20_ms, found.p80_ms) == (pytest.approx(1.8), pytest.approx(2.4))
    assert (found.block_ms, found.cold_ms) == (pytest.approx(1.6), 4.0)
    assert Latency.of([round_of(1.0, block_ms=None, cold_ms=None)]).cold_ms is None


def test_a_report_goes_to_a_file_and_back(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(WHOLE.to_json(), allow_nan=False))
    assert Report.read(path) == WHOLE


def no(*keys: Any) -> Callable[[Any], None]:
    """Return what takes the value at the end of a path of keys away."""

    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


def other(value: object, *keys: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no("rows"), "rows: missing"),
        (no("rows", 0, "latency", "p50_ms"), "p50_ms: missing"),
        (other("fast", "rows", 0, "latency", "p50_ms"), "expected float"),
        (other(float("nan"), "rows", 0, "latency", "p50_ms"), "damaged"),
        (other("fastest", "rows", 0, "mode"), "no row is called artifact fastest"),
        (other("rival", "rows", 1, "subject"), "no row is called rival graph"),
        (other("exports", "kind"), "no report of"),
        (other(2, "schema"), "no report of"),
    ],
)
def test_a_damaged_report_is_refused(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    data = json.loads(json.dumps(WHOLE.to_json()))
    change(data)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"bench\.json: ") as caught:
        Report.read(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000], ids=range(5))
def test_what_is_no_report_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        Report.read(path)
    with pytest.raises(UsageError, match="No such file"):
        Report.read(tmp_path / "none.json")


def test_it_fails_with_a_row_or_without_any() -> None:
    assert not WHOLE.failed
    assert report(row(), row("eager", p50=None, outcome="failed")).failed
    assert report(row(p50=None)).failed
    assert report().failed


def test_the_tables_say_what_was_measured_on_what() -> None:
    lines = printed(WHOLE)
    assert lines[0] == "NVIDIA H100, driver 580.1, 16 cores, Ubuntu 24.04; 2026-11-22T08:00:00+00:00, commit aaaaaaa"
    assert lines[1] == "torch 2.13.0"
    assert "out/yolo26n: 5.48 GFLOP and 51.2 MB a call: 0.017 ms at the ceilings" in lines
    own = "yolo26n fp16 640×640 artifact graph"
    assert f"{own} 0.900 1.000 1.200 0.150 1,000 0.800 2.000 300 1,980 350" in lines
    assert "yolo26n fp16 640×640 eager graph 1.800 2.000 2.400 0.300 500 2.00 1.600 4.000 300 1,980 350" in lines
    assert f"{own} 5,480 (1.0%) 51 (2.0%) 3.00 1.00 0.50 600 1000" in lines
    assert lines[-1] == "out/yolo26n compile graph: skipped: not installed: it"


def test_the_tables_hide_nothing() -> None:
    made = report(
        row(graph_equals_call=False, name="[red]x\x1b", load=None, memory=None, achieved=None),
        warnings=("no ceilings",), interrupted=True, commit=None, modified=None,
    )  # fmt: skip
    lines = printed(made)
    assert any("[red]x?" in line for line in lines)
    assert lines[-3:] == [
        "out/yolo26n artifact graph: the graph's outputs are not the launched call's",
        "warning: no ceilings",
        "interrupted: what was through is above",
    ]
    assert printed(report(row(p50=None)))[-1] == "out/yolo26n artifact graph: skipped: not installed: it"


def test_the_plot_is_a_picture_with_bars(tmp_path: Path) -> None:
    path = tmp_path / "latency.png"
    write_plot(report(row(name="$x$ [b] _1"), row("eager", p50=2.0), row(mode="host", p50=3.0)), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.array(image.convert("RGB"))
    own, eager = (int((pixels == colour).all(-1).sum()) for colour in ((0x2A, 0x6F, 0xDB), (0x9A, 0xA0, 0xA6)))
    assert own > eager > 1000  # the artifact has a bar in each of two panels


def test_a_plot_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Yolo26Error, match="nothing was measured"):
        write_plot(report(row(p50=None)), tmp_path / "latency.png")


def test_a_plot_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path, words in {
        tmp_path / "latency.gif": "ends in .png",
        tmp_path / "folder.png": "is a folder",
        tmp_path / "file" / "a.png": "cannot be written",
    }.items():
        with pytest.raises(UsageError, match=words):
            check_plot(path)
    check_plot(tmp_path / "new" / "a.SVG")
    with pytest.raises(Yolo26Error, match="could not be written"):
        write_plot(WHOLE, tmp_path / "folder.png")


def test_every_column_is_explained_and_empty_ones_are_left_out() -> None:
    text = "\n".join(printed(report(row(batch=8, p50=2.0))))
    for heading, words in {**LATENCY, **RATES}.items():
        if heading != "×":  # there is no peer
            assert " ".join(f"{heading}: {words}".split()) in " ".join(text.split())
    assert "×: p50" not in text
    (figures,) = (line for line in text.splitlines() if line.startswith("yolo26n fp16") and "1,980" in line)
    assert "4,000" in figures  # 8 images in 2 ms


def test_two_runs_are_compared_row_by_row() -> None:
    before = report(row(p50=1.0), row("eager", p50=2.0), row("compile", p50=1.5), row("tensorrt", p50=None))
    machine = dataclasses.replace(before.machine, gpu="NVIDIA A100")
    now = report(
        row(p50=0.5, artifact="elsewhere/yolo26n"), row("eager", p50=2.01), row(mode="host", p50=3.0),
        machine=machine, versions={**before.versions, "torch": "2.14.0"},
    )  # fmt: skip
    found = compare(before, now)
    first, second = found.changes
    assert (first.ratio, first.is_noise) == (0.5, False)
    assert (second.now.subject, second.is_noise) == ("eager", True)
    assert found.conditions == ("torch 2.14.0, was 2.13.0", "gpu NVIDIA A100, was NVIDIA H100")
    assert [one.subject for one in found.only_before] == ["compile"]
    assert [one.mode for one in found.only_now] == ["host"]

    out = io.StringIO()
    print_comparison(found, Console(file=out, width=140, highlight=False, markup=False), "old.json")
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    for line in (
        "not as in old.json: gpu NVIDIA A100, was NVIDIA H100",
        "not as in old.json: torch 2.14.0, was 2.13.0",
        "yolo26n fp16 640×640 artifact graph 1.000 0.500 -50.0%",
        "yolo26n fp16 640×640 eager graph 2.000 2.010 +0.5% within the spread",
        "only in old.json: yolo26n fp16 640×640 compile graph",
        "only in this run: yolo26n fp16 640×640 artifact host",
    ):
        assert line in lines, line
    data = json.loads(json.dumps(found.to_json()))
    assert data["changes"][0]["before_p50_ms"] == 1.0 and data["changes"][0]["p50_ms"] == 0.5
