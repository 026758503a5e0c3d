from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support import load_tool
from yolo26_executorch import VARIANTS
from yolo26_executorch.bench import PEERS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results").glob("*.json"))
TF32 = "h100-80gb-tf32.json"
ACCURACY = "h100-80gb-accuracy.json"
LATENCY = "h100-80gb-tf32-device-latency.json"
BENCH = "h100-80gb-bench.json"
TF32_BENCH = "h100-80gb-tf32-bench.json"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """Return tools/results.py, which belongs to no package."""
    return load_tool("results")


def run(results: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["results", *words])
    status = results.main()
    assert isinstance(status, int)
    return status


def read(name: str) -> dict[str, Any]:
    data = json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def copy(root: Path, **changed: dict[str, Any]) -> Path:
    """Make a folder with pages of an empty block and the results, some of them changed; returns README."""
    (root / "results").mkdir()
    (root / "docs").mkdir()
    for path in FILES:
        text = json.dumps(changed[path.name]) if path.name in changed else path.read_text(encoding="utf-8")
        (root / "results" / path.name).write_text(text, encoding="utf-8")
    readme = root / "README.md"
    for page in (readme, root / "docs" / "performance.md"):
        page.write_text("above\n<!-- results:begin -->\n<!-- results:end -->\nbelow\n", encoding="utf-8")
    return readme


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| yolo")]


def test_readme_is_current(results: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(results, monkeypatch, "--check") == 0


def test_each_block_is_written_once_and_nothing_else_changes(
    results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = copy(tmp_path)
    assert run(results, monkeypatch, "--root", str(tmp_path), "--check") == 1
    assert "run python tools/results.py" in capsys.readouterr().err
    assert "yolo26n" not in readme.read_text(encoding="utf-8")
    performance = tmp_path / "docs" / "performance.md"
    for _ in range(2):
        assert run(results, monkeypatch, "--root", str(tmp_path)) == 0
        for path, once in ((readme, "latency.svg"), (performance, "## Measured so far")):
            text = path.read_text(encoding="utf-8")
            assert text.startswith("above\n<!-- results:begin -->\n")
            assert text.endswith("\n<!-- results:end -->\nbelow\n")
            assert text.count(once) == 1
        assert (tmp_path / "docs" / "results.md").read_text(encoding="utf-8") == results.render(tmp_path / "results")
    assert run(results, monkeypatch, "--root", str(tmp_path), "--check") == 0
    for path, figure in (
        (performance, r"(\| yolo26n \| )[\d.]+"),
        (tmp_path / "docs" / "results.md", r"(\| yolo26n \| )[\d.]+"),
        (readme, "(in fp16 )[0-9.]+"),
    ):
        whole = path.read_text(encoding="utf-8")
        path.write_text(re.sub(figure, r"\g<1>16.7", whole, count=1), encoding="utf-8")
        assert run(results, monkeypatch, "--root", str(tmp_path), "--check") == 1
        assert f"error: {path.name}: not what results/ gives" in capsys.readouterr().err
        path.write_text(whole, encoding="utf-8")


def test_the_plot_is_drawn_from_the_table(
    results: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(tmp_path)
    assert run(results, monkeypatch, "--root", str(tmp_path)) == 0
    path = tmp_path / "docs" / "latency.svg"
    drawn = path.read_text(encoding="utf-8")
    for words in ("detect", "classify", "torch.compile fp16", "ms a call"):
        assert f">{words}" in drawn
    # Drawn by another matplotlib it would be current, of other figures it is not.
    path.write_text(drawn.replace("<svg ", "<svg data-other='1' "), encoding="utf-8")
    assert run(results, monkeypatch, "--root", str(tmp_path), "--check") == 0
    path.write_text(re.sub("drawn from .{8}", "drawn from 00000000", drawn), encoding="utf-8")
    assert run(results, monkeypatch, "--root", str(tmp_path), "--check") == 1
    assert "error: latency.svg: not what results/ gives" in capsys.readouterr().err
    path.unlink()
    assert run(results, monkeypatch, "--root", str(tmp_path)) == 0
    assert path.read_text(encoding="utf-8") == drawn


def test_readmes_line_is_of_the_table(results: ModuleType) -> None:
    machine, (heads, *rows) = results.latencies(ROOT / "results")
    own, peer = heads.index("fp16, ms"), heads.index("torch.compile fp16, ms (× ours)")
    told = " ".join(results.at_a_glance(machine, [heads, *rows]).split())
    figures = re.search(r"in fp16 ([\d.]+) ms \((\S+)\) to ([\d.]+) ms \((\S+)\), .* ([\d.]+) to ([\d.]+) times", told)
    assert figures
    low, first, high, last, least, most = figures.groups()
    assert {(row[0], row[own]) for row in rows} >= {(first, low), (last, high)}
    assert all(float(low) <= float(row[own]) <= float(high) for row in rows)
    ratios = [float(row[peer].partition("(")[2][:-1]) for row in rows]
    assert (min(ratios), max(ratios)) == (float(least), float(most))


def test_the_table_is_of_the_latencies_the_peers_and_the_sizes(results: ModuleType, tmp_path: Path) -> None:
    latencies = {record["variant"]: record for record in read(LATENCY)["records"]}
    sizes = {one["variant"]: sum(one["files"].values()) / 1e6 for one in read(TF32)["records"]}
    benched = {
        (record["name"], record["subject"]): record["latency"]["p50_ms"]
        for record in read(BENCH)["records"]
        if (record["mode"], record["input"]) == ("graph", "float32")
    }
    # What `bench` measured in tf32 is newer than the file of latencies.
    newer = {
        record["name"]: record["latency"]["p50_ms"]
        for record in read(TF32_BENCH)["records"]
        if (record["subject"], record["mode"]) == ("artifact", "graph")
    }
    rows = table_rows(results.summary(*results.latencies(ROOT / "results")))
    assert [row[0] for row in rows] == [name for name in VARIANTS if name in latencies]
    for name, tf32_ms, fp16_ms, compiled, tf32_mb, _ in rows:
        assert tf32_ms == f"{newer.get(name, latencies[name]['graph']):.2f}"
        assert tf32_mb == f"{sizes[name]:.1f}"
        if own := benched.get((name, "artifact")):
            peer = benched[name, "compile"]
            assert (fp16_ms, compiled) == (f"{own:.2f}", f"{peer:.2f} ({peer / own:.2f})")
        else:
            assert (fp16_ms, compiled) == ("–", "–")
    data = read(BENCH)
    data["records"] = [record for record in data["records"] if record["subject"] == "artifact"]
    copy(tmp_path, **{BENCH: data})
    assert "torch.compile fp16" not in results.summary(*results.latencies(tmp_path / "results"))


def test_the_peers_that_have_no_column_are_named(results: ModuleType, tmp_path: Path) -> None:
    machine, _ = results.latencies(ROOT / "results")
    told = machine.partition("Others, each with its CUDA graph: ")[2].removesuffix(".").split("; ")
    expected: dict[str, dict[str, str]] = {}
    for name in (BENCH, TF32_BENCH):
        rows = {
            (row["name"], row["subject"]): row
            for row in read(name)["records"]
            if (row["mode"], row["input"]) == ("graph", "float32")
        }
        for (variant, peer), row in rows.items():
            if peer not in ("artifact", "compile"):
                ms, own = row["latency"]["p50_ms"], rows[variant, "artifact"]["latency"]["p50_ms"]
                of = f"{variant} in {row['precision']}"
                expected.setdefault(of, {})[peer] = f"{peer} {ms:.2f} ms ({ms / own:.2f} × ours)"
    assert {peer for figures in expected.values() for peer in figures} == {"eager", "onnxruntime"}
    assert sorted(told) == sorted(
        f"{of}: {', '.join(figures[peer] for peer in PEERS if peer in figures)}" for of, figures in expected.items()
    )
    files = {name: read(name) for name in (BENCH, TF32_BENCH)}
    for data in files.values():
        data["records"] = [row for row in data["records"] if row["subject"] in ("artifact", "compile")]
    copy(tmp_path, **files)
    assert "Others" not in results.latencies(tmp_path / "results")[0]


def test_every_row_is_a_record_and_every_figure_its_own(results: ModuleType) -> None:
    expected = []
    for name in [path.name for path in FILES]:
        data = read(name)
        commits = {one["run"]: one["commit"] for one in data["runs"]}
        if data["kind"] == "by hand":
            for record in data["records"]:
                figures = [f"{record['p50_ms']:g}", f"{record['p50_ms_cuda_graph']:g}"]
                place = {"host": "host", "device": "GPU"}[record["io"]]
                told = record["outputs_beside_runner_aoti"]
                expected.append([record["model"], record["precision"], place, *figures, told])
            continue
        for record in data["records"]:
            ran = f"{record['run']} {commits[record['run']][:7]}"
            if data["kind"] == "accuracy":
                for artifact, pytorch in record["metrics"].values():
                    figures = [f"{artifact:.4f}", f"{pytorch:.4f}", f"{artifact - pytorch:+.4f}"]
                    expected.append([record["name"], record["precision"], str(record["pictures"]), *figures, ran])
                continue
            if data["kind"] == "bench":
                if record["subject"] != "artifact":
                    continue
                like = [
                    one for one in data["records"] if all(one[key] == record[key] for key in ("name", "input", "mode"))
                ]
                beside = {one["subject"]: one["latency"]["p50_ms"] for one in like}
                own, ratios = record["latency"], []
                for peer in [peer for peer in PEERS if any(one["subject"] == peer for one in data["records"])]:
                    ms = beside.get(peer)
                    ratios += [f"{ms:.3f}", f"{ms / own['p50_ms']:.2f}"] if ms else ["–", "–"]
                named = record["name"] + (", uint8" if record["input"] == "uint8" else "")
                span = f"{own['p20_ms']:.3f} to {own['p80_ms']:.3f}"
                reached = f"{record['achieved']['of_compute']:.1%}" if record["achieved"] else "–"
                figures = [f"{own['p50_ms']:.3f}", span, *ratios, reached]
                expected.append([named, record["mode"], *figures, ran])
                continue
            if data["kind"] == "device latency":
                expected.append([record["variant"], f"{record['launched']:.2f}", f"{record['graph']:.2f}", ran])
                continue
            inputs = record["test"]["inputs"]
            worst = max((q for one in inputs for q in one["quantities"]), key=lambda q: q["ratio"])
            on_host = next(one["options"]["io"] == "host" for one in data["runs"] if one["run"] == record["run"])
            matched, rows = (sum(one["agreement"][key] for one in inputs) for key in ("matched", "rows"))
            expected.append(
                [
                    record["variant"] or record["name"],
                    f"{sum(record['files'].values()) / 1e6:.1f}",
                    f"{sum(record['seconds'].values()):.0f}",
                    f"{record['test']['latency_ms']['p50']:.2f}" if on_host else "–",
                    f"{worst['ratio']:.2f} `{worst['name']}`",
                    f"{matched} of {rows}",
                    ran,
                ]
            )
    shown = table_rows(results.render(ROOT / "results"))
    # Tables of several options name them in the second column, those of accuracies a metric in the fourth.
    cut = [
        row[:1] + row[2:] if "`" in row[1] else row[:3] + row[4:] if "mAP" in row[3] or "top1" in row[3] else row
        for row in shown
    ]
    assert sorted(cut) == sorted(expected)


def test_a_changed_figure_changes_the_table(results: ModuleType, tmp_path: Path) -> None:
    data = read(TF32)
    data["records"][0]["files"]["model.pte"] += 1_000_000_000
    copy(tmp_path, **{TF32: data})
    before, after = (table_rows(results.render(root / "results")) for root in (ROOT, tmp_path))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert float(changed[0][1][1]) == pytest.approx(float(changed[0][0][1]) + 1000)


def test_what_is_missing_is_named_with_its_reason(results: ModuleType, tmp_path: Path) -> None:
    data = read(TF32)
    data["records"] = [one for one in data["records"] if one["variant"] not in ("yolo26n", "yolo26l-cls")]
    copy(tmp_path, **{TF32: data})
    text = " ".join(results.render(tmp_path / "results").split())
    assert "failed in tf32-1: yolo26n;" in text
    assert "not run: yolo26l-cls)" in text


def test_no_missing_variant_is_left_out(results: ModuleType) -> None:
    data = read("h200-fleet.json")
    missing = set(VARIANTS) - {one["variant"] for one in data["records"]}
    text = " ".join(results.render(ROOT / "results").split())
    told = re.search(rf"### {data['precision']} .*?No passing record of (\d+) of the 25 \((.*?)\)\.", text)
    assert told
    assert int(told[1]) == len(missing)
    assert set(re.findall(r"yolo26\w(?:-\w+)?", told[2])) == missing


def test_a_complete_table_says_so(results: ModuleType, tmp_path: Path) -> None:
    data = read(TF32)
    by_name = {one["variant"]: one for one in data["records"]}
    data["records"] = [by_name.get(name, data["records"][0] | {"variant": name}) for name in VARIANTS]
    copy(tmp_path, **{TF32: data})
    assert "All passed." in results.render(tmp_path / "results")


def _first(data: dict[str, Any]) -> dict[str, Any]:
    record = data["records"][0]
    assert isinstance(record, dict)
    return record


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no kind": lambda data: data.pop("kind"),
    "unknown kind": lambda data: data.update(kind="other"),
    "no GPU": lambda data: data.pop("gpu"),
    "unknown precision": lambda data: data.update(precision="fp8"),
    "records of another precision": lambda data: data.update(precision="fp16"),
    "runs are no list": lambda data: data.update(runs=3),
    "two runs of one name": lambda data: data["runs"].append(data["runs"][0]),
    "short commit": lambda data: data["runs"][0].update(commit="b9ed69a"),
    "unusual options": lambda data: [run["options"].update(batch=2) for run in data["runs"]],
    "illegal options": lambda data: data["runs"][0]["options"].update(batch=0),
    "no records": lambda data: data.update(records=[]),
    "a record twice": lambda data: data["records"].append(data["records"][0]),
    "unknown run": lambda data: _first(data).update(run="tf32-9"),
    "unknown variant": lambda data: _first(data).update(variant="yolo27n"),
    "not exported": lambda data: _first(data).update(outcome="failed"),
    "other record's precision": lambda data: _first(data).update(precision="fp16"),
    "absolute folder": lambda data: _first(data).update(folder="/somewhere/yolo26n"),
    "latency told twice": lambda data: _first(data).update(latency_ms=1.0),
    "latency is text": lambda data: _first(data)["test"]["latency_ms"].update(p50="fast"),
    "error told twice": lambda data: _first(data)["largest_error"].update(ratio=0.1),
    "negative size": lambda data: _first(data)["files"].update({"model.pte": -1}),
    "no finite time": lambda data: _first(data)["seconds"].update(load=float("nan")),
    "test failed": lambda data: _first(data)["test"].update(passed=False),
    "an input failed": lambda data: _first(data)["test"]["inputs"][0].update(passed=False),
    "no inputs": lambda data: _first(data)["test"].update(inputs=[]),
    "no test": lambda data: _first(data).update(test=None),
    "passed among those that did not": lambda data: data["not_passed"][0].update(outcome="exported"),
    "no not_passed": lambda data: data.pop("not_passed"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_data_is_refused(
    results: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any]], object],
) -> None:
    data = read(TF32)
    damage(data)
    readme = copy(tmp_path, **{TF32: data})
    before = readme.read_text(encoding="utf-8")
    assert run(results, monkeypatch, "--root", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"results: error: {TF32} is damaged: ")
    assert said.count("\n") == 1
    assert readme.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (BENCH, {"graph_equals_call": False}),
        (BENCH, {"latency": None}),
        (BENCH, {"precision": "tf32"}),
        (BENCH, {"run": "none"}),
        (BENCH, {"variant": "yolo26"}),
        (LATENCY, {"graph_equals_call": False}),
        (LATENCY, {"graph": None}),
        (LATENCY, {"launched": -1}),
        (LATENCY, {"run": "none"}),
        (LATENCY, {"variant": "yolo26"}),
        (ACCURACY, {"precision": "fp8"}),
        (ACCURACY, {"metrics": {"metrics/mAP50-95(B)": [0.5, None]}}),
        (ACCURACY, {"run": "none"}),
        (ACCURACY, {"variant": "yolo26"}),
    ],
    ids=str,
)
def test_damaged_records_are_refused(results: ModuleType, tmp_path: Path, name: str, damage: dict[str, Any]) -> None:
    data = read(name)
    _first(data).update(damage)
    copy(tmp_path, **{name: data})
    with pytest.raises(results.ResultsError, match=f"{name} is damaged"):
        results.render(tmp_path / "results")


def test_half_a_file_and_an_empty_folder_are_refused(results: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(results.ResultsError, match="holds no results"):
        results.render(tmp_path)
    (tmp_path / TF32).write_text((ROOT / "results" / TF32).read_text(encoding="utf-8")[:1000], encoding="utf-8")
    with pytest.raises(results.ResultsError, match="is damaged"):
        results.render(tmp_path)


@pytest.mark.parametrize("text", ["", "<!-- results:begin -->", "<!-- results:end --><!-- results:begin -->"])
def test_a_page_without_a_place_is_refused(results: ModuleType, text: str, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(results.ResultsError, match=r"README\.md has no place"):
        results.replace_block(page, "block")


def test_what_was_measured_by_hand_says_how(results: ModuleType) -> None:
    [data] = [data for data in map(read, (path.name for path in FILES)) if data["kind"] == "by hand"]
    text = " ".join(results.render(ROOT / "results").partition("### By hand")[2].split())
    for key in ("what", "exported_with", "runtime", "method"):
        assert data[key][1:] in text
    assert all(one in text for one in data["also_seen"])
    assert re.fullmatch("[0-9a-f]{40}", data["commit"]) and data["commit"][:7] in data["what"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_a_place_of_its_machine(path: Path) -> None:
    pattern = r"(?<![\w:/.])~?/\w"
    assert re.search(pattern, "at /usr/bin")
    assert not re.search(pattern, path.read_text(encoding="utf-8"))
    assert f"({path.name})" in (ROOT / "results" / "README.md").read_text(encoding="utf-8")
