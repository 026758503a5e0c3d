from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support import load_tool

ROOT = Path(__file__).parents[2]
COMMIT = "a" * 40


@pytest.fixture(scope="module")
def collect() -> ModuleType:
    return load_tool("collect")


@pytest.fixture
def report() -> dict[str, Any]:
    """Make a report of a run out of the records that are there."""
    data = json.loads((ROOT / "results/h100-80gb-fp16.json").read_text())
    versions = data["versions"]
    run = data["runs"][0]
    return {
        "created": run["created"], "command": run["command"], "exit_status": 0,
        "machine": {
            **{key: versions[key] for key in ("python", "torch", "executorch", "ultralytics", "triton", "os")},
            "torch_cuda": versions["cuda"], "cores": versions["cpu_cores"], "gpus": [{"name": data["gpu"]}],
            "driver": {"version": data["driver"]},
            **{key: {"version": versions[key]} for key in ("nvcc", "ptxas", "cxx")},
        },
        "options": {**run["options"], "jobs": 3},
        "records": [
            {**record, "test": {**record["test"], "answer": ["words"], "picture": "bus.jpg", "largest": {}}}
            for record in data["records"][:2]
        ],
    }  # fmt: skip


def test_a_new_file_is_one_that_results_reads(collect: ModuleType, report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "report.json").write_text(json.dumps(report))
    file = tmp_path / "results" / "new.json"
    words = [str(file), f"one={tmp_path / 'report.json'}", "--commit", COMMIT, "--note", "First."]
    assert collect.main(words) == 0
    data = json.loads(file.read_text())
    assert (data["precision"], data["note"], len(data["records"]), data["not_passed"]) == ("fp16", "First.", 2, [])
    assert not {"answer", "picture", "largest"} & set(data["records"][0]["test"])
    block = load_tool("results").render(tmp_path / "results")
    assert f"one {COMMIT[:7]}" in block
    assert report["records"][0]["variant"] in block


def test_a_variant_that_passed_again_replaces_its_record(
    collect: ModuleType, report: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "new.json"
    file.write_text(collect.dump(collect.collect(file, "one", report, commit=COMMIT, note="")))
    again = copy.deepcopy(report)
    again["records"][1]["outcome"] = "failed"
    again["records"].append({**report["records"][0], "outcome": "skipped"})
    data = collect.collect(file, "two", again, commit="b" * 40, note=None)
    first, second = (record["variant"] for record in report["records"])
    assert {record["variant"]: record["run"] for record in data["records"]} == {first: "two", second: "one"}
    assert [(record["variant"], record["run"]) for record in data["not_passed"]] == [(second, "two")]
    assert data["precision"] == "fp16"


def test_other_options_have_no_precision_in_common(collect: ModuleType, report: dict[str, Any], tmp_path: Path) -> None:
    report["options"]["batch"] = 2
    assert collect.collect(tmp_path / "new.json", "one", report, commit=COMMIT, note="")["precision"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report["machine"].update(torch="2.13.0"), "another machine .versions differ"),
        (lambda report: report["machine"].update(gpus=[]), "without a GPU"),
    ],
)
def test_figures_of_another_machine_are_refused(
    collect: ModuleType, report: dict[str, Any], tmp_path: Path, change: Any, message: str
) -> None:
    file = tmp_path / "new.json"
    file.write_text(collect.dump(collect.collect(file, "one", report, commit=COMMIT, note="")))
    change(report)
    with pytest.raises(collect.CollectError, match=message):
        collect.collect(file, "two", report, commit=COMMIT, note="")


def test_names_and_hashes_are_checked(
    collect: ModuleType, report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report))
    words = [str(tmp_path / "new.json"), f"one={tmp_path / 'report.json'}"]
    assert collect.main([*words, "--commit", "799c38a"]) == 1
    assert "expected a full hash" in capsys.readouterr().err
    assert collect.main([*words, words[1], "--commit", COMMIT]) == 1
    assert "has a run one already" in capsys.readouterr().err
    assert collect.main([words[0], "two=/no/such/file", "--commit", COMMIT]) == 1


@pytest.fixture
def validation(report: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Make up a report of val on the same machine; the machine's is written beside it."""
    (tmp_path / "report.json").write_text(json.dumps(report))
    machine = report["machine"]
    versions = {key: machine[key] for key in ("python", "torch", "executorch", "ultralytics", "triton")}
    measured = {"metrics/precision(B)": 0.8, "metrics/mAP50-95(B)": 0.7, "metrics/mAP50-95(M)": 0.6}
    return {
        "name": "best", "task": "segment", "backend": "cuda", "precision": "fp16", "imgsz": [320, 320], "batch": 1,
        "data": "data.yaml", "split": "val", "pictures": 10, "instances": 70, "command": "yolo26-et val best",
        "created": "2026-11-22T18:00:00+00:00", "versions": versions,
        "artifact": {"runner": "aoti", "device": machine["gpus"][0]["name"], "metrics": measured},
        "pytorch": {"runner": "eager", "device": "", "metrics": {**measured, "metrics/mAP50-95(B)": 0.701}},
    }  # fmt: skip


def take(collect: ModuleType, tmp_path: Path, report: dict[str, Any], *more: str, run: str = "first") -> int:
    """Take a report of val or bench into a file of results."""
    (tmp_path / "measured.json").write_text(json.dumps(report))
    (tmp_path / "results").mkdir(exist_ok=True)
    words = [str(tmp_path / "results" / "new.json"), f"{run}={tmp_path / 'measured.json'}", "--commit", COMMIT]
    return int(collect.main([*words, *(more or ("--machine", str(tmp_path / "report.json")))]))


def taken(tmp_path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((tmp_path / "results" / "new.json").read_text())
    return data


def test_accuracies_are_taken_in(collect: ModuleType, validation: dict[str, Any], tmp_path: Path) -> None:
    for name in ("best", "best", "other"):
        assert take(collect, tmp_path, {**validation, "name": name}, run="val-1") == 0
    data = taken(tmp_path)
    assert [record["name"] for record in data["records"]] == ["best", "other"]
    assert data["records"][0]["metrics"] == {"metrics/mAP50-95(B)": [0.7, 0.701], "metrics/mAP50-95(M)": [0.6, 0.6]}
    assert [run["run"] for run in data["runs"]] == ["val-1"]
    block = load_tool("results").render(tmp_path / "results")
    assert f"| best | fp16 | 10 | box mAP50-95 | 0.7000 | 0.7010 | -0.0010 | val-1 {COMMIT[:7]} |" in block


def test_a_run_has_one_precision_and_a_machine(
    collect: ModuleType, validation: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take(collect, tmp_path, validation, run="val-1") == 0
    assert take(collect, tmp_path, {**validation, "precision": "bf16"}, run="val-1") == 1
    assert "has another run val-1" in capsys.readouterr().err
    assert take(collect, tmp_path, validation, "--note", "no machine", run="val-1") == 1
    assert "--machine" in capsys.readouterr().err


@pytest.fixture
def benchmark(report: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Make a report of bench out of the rows that are there, on the same machine."""
    (tmp_path / "report.json").write_text(json.dumps(report))
    data = json.loads((ROOT / "results/h100-80gb-bench.json").read_text())
    rows = [row for row in data["records"] if row["name"] in ("yolo26n", "yolo26m") and row["mode"] == "graph"]
    run = data["runs"][0]
    return {
        "kind": "bench", "schema": 1, "commit": None, "modified": None, "interrupted": False,
        "warnings": [], "work": {},
        **{key: run[key] for key in ("command", "created", "ceilings")},
        "machine": {
            "gpu": data["gpu"], "capability": [9, 0], "driver": data["driver"],
            "cpu": "a CPU", "cores": 16, "os": "Linux",
        },
        "versions": {key: report["machine"][key] for key in ("python", "torch", "executorch", "ultralytics", "triton")},
        "method": data["method"],
        "rows": [{key: value for key, value in row.items() if key != "run"} for row in rows],
    }  # fmt: skip


def test_a_benchmark_is_taken_in(collect: ModuleType, benchmark: dict[str, Any], tmp_path: Path) -> None:
    failed = {**benchmark["rows"][0], "name": "yolo26x", "variant": "yolo26x", "outcome": "failed", "message": "no"}
    assert take(collect, tmp_path, {**benchmark, "rows": [*benchmark["rows"], failed]}) == 0
    assert take(collect, tmp_path, {**benchmark, "rows": benchmark["rows"][:1]}, run="bench-2") == 0
    data = taken(tmp_path)
    assert len(data["records"]) == len(benchmark["rows"])
    assert [record["run"] for record in data["records"]].count("bench-2") == 1
    assert [(row["name"], row["message"]) for row in data["not_measured"]] == [("yolo26x", "no")]
    page = load_tool("results").render(tmp_path / "results")
    assert "Not measured: yolo26x (no)." in " ".join(page.split())
    # Of the model that was measured again only the artifact was: its peer's figure is of another run.
    first = benchmark["rows"][0]
    again = next(line for line in page.splitlines() if line.startswith(f"| {first['name']} "))
    assert "bench-2" in again
    assert again.count("–") == 2 * len({row["subject"] for row in benchmark["rows"]} - {"artifact"})
    # What a later run has measured is no longer missing.
    missed = {**benchmark, "rows": [{**failed, "outcome": "measured"}]}
    assert take(collect, tmp_path, missed, run="bench-3") == 0
    assert "Not measured" not in load_tool("results").render(tmp_path / "results")


def test_a_file_of_benchmarks_has_one_precision(
    collect: ModuleType, benchmark: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take(collect, tmp_path, benchmark) == 0
    before = taken(tmp_path)
    assert before["precision"] == "fp16"
    others = [{**row, "precision": "tf32"} for row in benchmark["rows"]]
    assert take(collect, tmp_path, {**benchmark, "rows": others}, run="second") == 1
    assert "name another file" in capsys.readouterr().err
    assert take(collect, tmp_path, benchmark) == 1
    assert "has a run first already" in capsys.readouterr().err
    assert taken(tmp_path) == before


@pytest.mark.parametrize(
    ("of", "change", "said"),
    [
        ("validation", lambda one: one.update(pytorch=None), "--against pytorch"),
        ("validation", lambda one: one["versions"].update(torch="2.13.0"), "another machine, or with other versions"),
        ("validation", lambda one: one["artifact"].update(device="cpu"), "another machine, or with other versions"),
        ("benchmark", lambda one: one["rows"][0].update(precision="tf32"), "models of one precision"),
        ("benchmark", lambda one: one.update(rows=[]), "models of one precision"),
        ("benchmark", lambda one: one["versions"].update(torch="2.13.0"), "another machine, or with other versions"),
        ("benchmark", lambda one: one["machine"].update(gpu="another"), "another machine, or with other versions"),
        ("benchmark", lambda one: one["rows"][0].update(latency=3), "damaged"),
    ],
)
def test_what_does_not_fit_is_refused(
    collect: ModuleType, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    of: str, change: Callable[[dict[str, Any]], object], said: str,
) -> None:  # fmt: skip
    made = request.getfixturevalue(of)
    change(made)
    assert take(collect, tmp_path, made) == 1
    assert said in capsys.readouterr().err


def test_a_run_says_how_long_it_took(collect: ModuleType, report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    report["options"]["devices"] = ["0", "1"]
    data = collect.collect(tmp_path / "new.json", "one", {**report, "seconds": 61.4}, commit=COMMIT, note="")
    (tmp_path / "results" / "new.json").write_text(collect.dump(data))
    page = load_tool("results").render(tmp_path / "results")
    assert f"| one {COMMIT[:7]} | 2 | 3 | 2 | 61 |" in page
