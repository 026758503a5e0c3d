from __future__ import annotations

import copy
import json
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
