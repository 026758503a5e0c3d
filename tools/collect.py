"""Take what `yolo26-et export` reported into a file of results/: the only way in which figures get there.

python tools/collect.py results/h100-80gb-tf32.json tf32-3=tf32/report.json --commit COMMIT [--note TEXT]

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

from yolo26_executorch import ExportOptions, Yolo26Error

_WORDS = ("answer", "picture", "largest")
"""What a test says that is in words, or twice."""
_USUAL = ("backend", "precision", "imgsz", "batch", "outputs", "input", "io", "random_weights", "seed")


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
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise CollectError(f"--commit {commit}: expected a full hash of 40 digits, as `git rev-parse HEAD` prints it")
    head = _head(report["machine"])
    data: dict[str, Any] = {"kind": "exports", **head, "precision": None, "note": "", "runs": [], "records": [],
                            "not_passed": []}  # fmt: skip
    if file.exists():
        data = json.loads(file.read_text(encoding="utf-8"))
        if other := [key for key in head if head[key] != data[key]]:
            raise CollectError(f"{file} is of another machine ({', '.join(other)} differ); name another file")
    if run in {known["run"] for known in data["runs"]}:
        raise CollectError(f"{file} has a run {run} already; name this one otherwise")
    options = {key: report["options"][key] for key in _USUAL}
    data["runs"].append(
        {"run": run, "commit": commit, **{key: report[key] for key in ("created", "command", "exit_status")},
         "jobs": report["options"]["jobs"], "options": options}
    )  # fmt: skip
    of_run = {known["run"]: known["options"] for known in data["runs"]}
    for record in report["records"]:
        if record["outcome"] == "exported":
            same = (record["variant"], options)
            kept = [old for old in data["records"] if (old["variant"], of_run[old["run"]]) != same]
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


def _head(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same for figures to stand in one table."""
    try:
        versions = {key: machine[key] for key in ("python", "torch", "executorch", "ultralytics", "triton")}
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
    parser = argparse.ArgumentParser(description="Take reports of `yolo26-et export` into a file of results/.")
    parser.add_argument("file", type=Path, help="the file, such as results/h100-80gb-tf32.json")
    parser.add_argument("reports", nargs="+", metavar="RUN=REPORT", help="a name for the run, and its report.json")
    parser.add_argument("--commit", required=True, help="what was run: `git rev-parse HEAD`")
    parser.add_argument("--note", help="what a reader of the table has to know")
    args = parser.parse_args(argv)
    try:
        for word in args.reports:
            run, _, path = word.partition("=")
            report = json.loads(Path(path).read_text(encoding="utf-8"))
            data = collect(args.file, run, report, commit=args.commit, note=args.note)
            args.file.write_text(dump(data), encoding="utf-8")
    except (OSError, ValueError, KeyError, Yolo26Error) as error:
        print(f"collect: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
