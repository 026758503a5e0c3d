"""Take what `yolo26-et export`, `val` and `bench` reported into a file of results/: the only way figures get there.

python tools/collect.py results/h100-80gb-tf32.json tf32-3=tf32/report.json --commit COMMIT [--note TEXT]
python tools/collect.py results/h100-80gb-accuracy.json val-1=val.json --machine tf32/report.json --commit COMMIT
python tools/collect.py results/h100-80gb-bench.json bench-1=bench.json --machine tf32/report.json --commit COMMIT

A variant that passed again replaces its former record with the same options; attempts that did not pass are added. The
precision of a file is that of all its records, or none where they differ. Run `python tools/results.py` afterwards.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from result_records import ROW
from yolo26_executorch import ExportOptions, Yolo26Error
from yolo26_executorch.bench import Report

_WORDS = ("answer", "picture", "largest")
"""What a test says that is in words, or twice."""
_USUAL = ("backend", "precision", "imgsz", "batch", "outputs", "input", "io", "random_weights", "seed")
_MEASURED = ("backend", "precision", "imgsz", "batch")
_VERSIONS = ("python", "torch", "executorch", "ultralytics", "triton")


class CollectError(Yolo26Error):
    """A report and a file of results that do not go together."""


def collect(file: Path, run: str, report: Mapping[str, Any], *, commit: str, note: str | None) -> dict[str, Any]:
    """Return a file of results with one more run in it.

    Args:
        file: the file, which need not exist yet.
        run: the run's name, which the file must not have yet.
        report: what `yolo26-et export` wrote.
        commit: what was run, a full hash.
        note: what a reader has to know; None keeps the file's.

    Raises:
        CollectError: the report is of another machine than the file, or names and hashes are not what they should be.
    """
    _check_commit(commit)
    head = _head(report["machine"])
    empty: dict[str, Any] = {"runs": [], "records": [], "not_passed": []}
    data = _read(file, {"kind": "exports", **head, "precision": None, "note": "", **empty}, head)
    _check_run(file, run, data)
    options = {key: report["options"][key] for key in _USUAL}
    data["runs"].append(
        {"run": run, "commit": commit, **{key: report[key] for key in ("created", "command", "exit_status")},
         "jobs": report["options"]["jobs"], "devices": report["options"].get("devices", []),
         "exports": sum(record["outcome"] == "exported" for record in report["records"]),
         "seconds": report.get("seconds"), "options": options}
    )  # fmt: skip
    of_run = {known["run"]: known["options"] for known in data["runs"]}
    for record in report["records"]:
        if record["outcome"] == "exported":
            same = (record["name"], options)
            kept = [old for old in data["records"] if (old["name"], of_run[old["run"]]) != same]
            test = {key: value for key, value in record["test"].items() if key not in _WORDS}
            data["records"] = [*kept, {**record, "test": test, "run": run}]
        elif record["outcome"] != "skipped":
            short = {key: value for key, value in record.items() if key not in ("test", "files", "folder")}
            data["not_passed"].append({**short, "run": run})
    told = {json.dumps({**of_run[known["run"]], "random_weights": None, "seed": None}) for known in data["runs"]}
    usual = ExportOptions(backend="cuda", precision=options["precision"])
    alike = len(told) == 1 and all(options[key] == _plain(getattr(usual, key)) for key in _USUAL[:-2])
    data["precision"] = options["precision"] if alike else None
    data["note"] = data["note"] if note is None else note
    return data


def collect_accuracy(
    file: Path, run: str, report: Mapping[str, Any], machine: Mapping[str, Any], *, commit: str, note: str | None
) -> dict[str, Any]:
    """Return a file of accuracies with what `yolo26-et val --against pytorch` reported for one more model in it.

    Args:
        file: the file, which need not exist yet; a model and precision that it has are replaced.
        run: the run's name; all its reports are of one precision.
        report: what `val` wrote.
        machine: the machine in a report of `export`, where it ran: `val` says less of it.
        commit: what was run, a full hash.
        note: what a reader has to know; None keeps the file's.

    Raises:
        CollectError: the report lacks PyTorch's figures, or is of another machine than the file or `machine`.
    """
    _check_commit(commit)
    head = _head(machine)
    _check_machine(head, report["artifact"]["device"], report["versions"])
    if report["pytorch"] is None:
        raise CollectError(f"{report['name']} was not measured against PyTorch; run val with --against pytorch")
    data = _read(file, {"kind": "accuracy", **head, "precision": None, "note": "", "runs": [], "records": []}, head)
    told = {"run": run, "commit": commit, "options": {key: report[key] for key in _MEASURED}}
    others = [known for known in data["runs"] if known["run"] != run]
    if len(others) < len(data["runs"]) and told not in data["runs"]:
        raise CollectError(f"{file} has another run {run} already; name this one otherwise")
    data["runs"] = [*others, told]
    same = (report["name"], report["precision"])
    about = ("name", "task", "precision", "pictures", "instances", "data", "split", "command", "created")
    ours, theirs = report["artifact"]["metrics"], report["pytorch"]["metrics"]
    metrics = {key: [ours[key], theirs[key]] for key in ours if "mAP50-95" in key or "top1" in key}
    record = {"variant": None, **{key: report[key] for key in about}, "metrics": metrics, "run": run}
    kept = [old for old in data["records"] if (old["name"], old["precision"]) != same]
    data["records"] = sorted([*kept, record], key=lambda one: (one["name"], one["precision"]))
    data["note"] = data["note"] if note is None else note
    return data


def collect_bench(
    file: Path, run: str, report: Mapping[str, Any], machine: Mapping[str, Any], *, commit: str, note: str | None
) -> dict[str, Any]:
    """Return a file of latencies with what `yolo26-et bench` measured in it.

    Args:
        file: the file, which need not exist yet; a row that it has (name, input, subject, mode) is replaced.
        run: the run's name, which the file must not have yet.
        report: what `bench` wrote.
        machine: the machine in a report of `export`, where it ran: `bench` says less of it.
        commit: what was run, a full hash.
        note: what a reader has to know; None keeps the file's.

    Raises:
        CollectError: the report is damaged or of another machine, or options differ, in it or from the file's.
    """
    _check_commit(commit)
    head = _head(machine)
    _check_machine(head, report["machine"]["gpu"], report["versions"])
    rows = Report.from_json(dict(report)).to_json()["rows"]
    options = [{key: _plain(row[key]) for key in _MEASURED} for row in rows]
    if not rows or any(one != options[0] for one in options):
        raise CollectError(f"{run}: expected models of one precision, size and batch; measure others in another run")
    empty: dict[str, Any] = {"note": "", "runs": [], "records": [], "not_measured": []}
    new = {"kind": "bench", **head, "method": report["method"], "precision": options[0]["precision"], **empty}
    data = _read(file, new, head)
    _check_run(file, run, data)
    if any(known["options"] != options[0] for known in data["runs"]):
        raise CollectError(f"{file} is of models of another precision, size or batch; name another file")
    about = {key: report[key] for key in ("created", "command", "ceilings")}
    data["runs"].append({"run": run, "commit": commit, **about, "options": options[0]})
    for row in rows:
        if row["outcome"] == "measured":
            kept = [old for old in data["records"] if any(old[key] != row[key] for key in ROW)]
            data["records"] = [*kept, {**row, "run": run}]
        else:
            data["not_measured"].append({**{key: row[key] for key in (*ROW, "outcome", "message")}, "run": run})
    data["note"] = data["note"] if note is None else note
    return data


def _check_run(file: Path, run: str, data: Mapping[str, Any]) -> None:
    if run in {known["run"] for known in data["runs"]}:
        raise CollectError(f"{file} has a run {run} already; name this one otherwise")


def _check_machine(head: Mapping[str, Any], gpu: object, versions: Mapping[str, Any]) -> None:
    if gpu != head["gpu"] or any(versions[key] != head["versions"][key] for key in _VERSIONS):
        raise CollectError("--machine: it is of another machine, or with other versions")


def _check_commit(commit: str) -> None:
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise CollectError(f"--commit {commit}: expected a full hash of 40 digits, as `git rev-parse HEAD` prints it")


def _read(file: Path, new: dict[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file holds, or what a new one begins with; raises CollectError where it is of another machine."""
    if not file.exists():
        return new
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if other := [key for key in head if head[key] != data[key]]:
        raise CollectError(f"{file} is of another machine ({', '.join(other)} differ); name another file")
    return data


def _head(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same for figures to stand in one table."""
    try:
        versions = {key: machine[key] for key in _VERSIONS}
        versions |= {"cuda": machine["torch_cuda"], "os": machine["os"], "cpu_cores": machine["cores"]}
        versions |= {key: machine[key] and machine[key]["version"] for key in ("nvcc", "ptxas", "cxx")}
        return {"gpu": machine["gpus"][0]["name"], "driver": machine["driver"]["version"], "versions": versions}
    except (IndexError, TypeError) as error:
        raise CollectError("the report is of a machine without a GPU; results/ holds figures of GPUs") from error


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def dump(data: Mapping[str, Any]) -> str:
    """Return JSON with a line for each run and record, so that changes can be read."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list) and value:
            lines = ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in value)
            parts.append(f" {json.dumps(key)}: [\n{lines}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(argv: list[str] | None = None) -> int:
    """Take reports in; returns the exit status."""
    parser = argparse.ArgumentParser(description="Take reports of yolo26-et export, val and bench into results/.")
    parser.add_argument("file", type=Path, help="the file, such as results/h100-80gb-tf32.json")
    parser.add_argument("reports", nargs="+", metavar="RUN=REPORT", help="a name for the run, and its report.json")
    parser.add_argument("--commit", required=True, help="what was run: `git rev-parse HEAD`")
    parser.add_argument(
        "--machine", type=Path, metavar="REPORT", help="for val and bench: an export's report of that machine"
    )
    parser.add_argument("--title", help="what the table of a file with several options is headed")
    parser.add_argument("--note", help="what a reader of the table has to know")
    args = parser.parse_args(argv)
    try:
        for word in args.reports:
            run, _, path = word.partition("=")
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            if "records" in report:  # of export
                data = collect(args.file, run, report, commit=args.commit, note=args.note)
            elif args.machine is None:
                raise CollectError(f"{path} is of no export; name an export's report of that machine with --machine")
            else:
                machine = json.loads(args.machine.read_text(encoding="utf-8"))["machine"]
                take = collect_bench if report.get("kind") == "bench" else collect_accuracy
                data = take(args.file, run, report, machine, commit=args.commit, note=args.note)
            data |= {"title": args.title} if args.title else {}
            args.file.write_text(dump(data), encoding="utf-8")
    except (OSError, ValueError, KeyError, Yolo26Error) as error:
        print(f"collect: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
