"""The command: its flags, words and exit statuses; `tests/test_bench_*.py` have what it measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.stub_bench import report, row
from yolo26_executorch.bench import Report, Settings
from yolo26_executorch.cli import bench, main

MADE = report(row(), row("eager", p50=2.0), row("tensorrt", p50=None))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have the command measure nothing and give the report that is last in the list; returns what it was asked."""
    asked: list[Any] = []

    def measure(folders: Sequence[Path], settings: Settings, *, command: str, progress: Any) -> Report:
        progress("yolo26n: \x1bopening")
        given = asked[-1] if asked else None
        asked[:] = [folders, settings, command]
        return given if isinstance(given, Report) else MADE

    monkeypatch.setattr(bench, "measure", measure)
    return asked


def test_the_flags_reach_the_benchmark(seen: list[Any]) -> None:
    words = ["bench", "a", "b", "--against", "eager, compile,eager", "--rows", "host,file", "--runs", "300"]
    words += ["--rounds", "5", "--runner", "aoti", "--compile-mode", "max-autotune-no-cudagraphs", "--image", "x.jpg"]
    words += ["--jobs", "4", "--time-limit", "2", "--weights-dir", "w", "--trust-checkpoint"]
    assert main(words) == 0
    folders, settings, command = seen
    assert folders == [Path("a"), Path("b")]
    assert settings == Settings(
        against=("eager", "compile"), modes=("host", "file"), runs=300, rounds=5, runner="aoti", jobs=4,
        compile_mode="max-autotune-no-cudagraphs", image=Path("x.jpg"), weights_dir=Path("w"), trusted=True,
        limit_s=120,
    )  # fmt: skip
    assert command.startswith("yolo26-et bench a b --against 'eager, compile,eager'")


def test_at_least_200_calls_unless_told(seen: list[Any]) -> None:
    assert main(["bench", "a"]) == 0
    assert seen[1] == Settings()
    assert (seen[1].runs, seen[1].rounds) == (200, 3)
    seen.clear()
    assert main(["bench", "a", "--quick", "--runs", "7"]) == 0
    assert (seen[1].runs, seen[1].rounds) == (7, 1)


def test_tables_go_to_standard_output_and_progress_to_standard_error(
    seen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "a"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "yolo26n: ?opening\n"
    assert "latency of a call, ms" in captured.out
    assert "out/yolo26n tensorrt graph: skipped: not installed: it" in captured.out
    assert main(["bench", "a", "--json"]) == 0
    assert Report.from_json(json.loads(capsys.readouterr().out)) == MADE


def test_tables_and_plot_are_made_again_from_the_file(
    tmp_path: Path, seen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data, plot = tmp_path / "new" / "bench.json", tmp_path / "new" / "latency.png"
    assert main(["bench", "a", "--report", str(data), "--plot", str(plot)]) == 0
    first, picture = capsys.readouterr().out, plot.read_bytes()
    with Image.open(plot) as image:
        image.load()
        assert image.format == "PNG"
    assert Report.read(data) == MADE
    plot.unlink()
    seen.clear()
    assert main(["bench", "--from", str(data), "--plot", str(plot)]) == 0
    assert not seen
    assert (capsys.readouterr().out, plot.read_bytes()) == (first, picture)


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (report(row(), row("eager", p50=None, outcome="failed")), 1),
        (report(row(p50=None)), 1),
        (report(row(), interrupted=True), 130),
    ],
)
def test_the_exit_status_tells_and_the_report_is_written(
    tmp_path: Path, seen: list[Any], made: Report, status: int
) -> None:
    seen.append(made)
    path = tmp_path / "bench.json"
    assert main(["bench", "a", "--report", str(path), "--plot", str(tmp_path / "a.png")]) == status
    assert Report.read(path) == made
    assert main(["bench", "--from", str(path)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no artifact was named"),
        (["a", "--against", "eager,openvino"], "--against openvino: expected some of eager,compile"),
        (["a", "--rows", "cold"], "--rows cold: expected some of graph,launched,host,file"),
        (["a", "--rows", ","], "--rows: expected some of graph"),
        (["a", "--runs", "0"], "--runs 0: expected a whole number from 1"),
        (["a", "--rounds", "-1"], "--rounds -1: expected"),
        (["a", "--jobs", "0"], "--jobs 0: expected"),
        (["a", "--time-limit", "0"], "--time-limit 0: expected minutes"),
        (["a", "--time-limit", "nan"], "--time-limit nan: expected minutes"),
        (["a", "--plot", "a.bmp"], "--plot a.bmp: expected a name that ends in .png"),
        (["a", "--report", "."], "this is a folder"),
        (["a", "b", "--checkpoint", "x.pt"], "--checkpoint is one artifact's"),
        (["a", "--from", "x.json"], "--from reads what was measured"),
        (["--from", "nonexistent.json"], "nonexistent.json cannot be read: No such file"),
    ],
)
def test_wrong_commands_are_refused_in_a_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["bench", *words])
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert (status, line.startswith("yolo26-et: error: "), message in line) == (2, True, True), line


def test_an_earlier_run_is_compared_with(tmp_path: Path, seen: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.json"
    assert main(["bench", "a", "--report", str(old)]) == 0
    capsys.readouterr()
    seen.clear()
    assert main(["bench", "--from", str(old), "--compare", str(old)]) == 0
    assert "p50 beside old.json, ms" in capsys.readouterr().out
    assert main(["bench", "a", "--compare", str(old), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["compare"]["changes"]) == 2
    seen.clear()
    assert main(["bench", "a", "--compare", str(tmp_path / "none.json")]) == 2
    assert not seen
