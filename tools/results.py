"""Write docs/results.md, the table of docs/performance.md, README's line and the plot from results/*.json.

python tools/results.py           # write them
python tools/results.py --check   # exit with 1 where they are not what the files give
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import latency_plot
from result_records import Compared, Passed, ResultsError, Run, Table, model_of, number, row_of
from yolo26_executorch import VARIANTS, ExportOptions, Yolo26Error
from yolo26_executorch.bench.records import ARTIFACT, MODES, PEERS
from yolo26_executorch.models.options import PRECISIONS
from yolo26_executorch.report.val_report import metric_name

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
KINDS = ("bench", "exports", "device latency", "accuracy", "by hand")
WIDTH = 127
INTRO = (
    "Weights were random unless a table says otherwise. Tables of exports are first looks, not benchmarks: exports ran "
    "side by side, which lengthens times and latencies. Export s counts all stages, the test too. Latency is the "
    "median of calls from host memory and back, inside PyTorch. Ratio is the test's worst error ÷ tolerance and its "
    "quantity, over all inputs, against PyTorch in the artifact's precision and in fp32; above 1 fails. Rows are the "
    "predictions of all these comparisons, and how many matched; for classify a row is a picture, which matches where "
    "the top-5 is the same and need not for the test to pass."
)

ABOUT = (
    "`python tools/results.py` writes this page from the files of data that are named below each table; "
    "`results/README.md` says what they hold."
)
BENCH = (
    "From `yolo26-et bench`: a process for each row, at least 200 calls, timed one by one, in rounds that take turns "
    "with the other rows'; ÷ artifact is how many times as long the other takes. The ceiling is that of this GPU's "
    "matrix products, measured in the same run."
)
SUMMARY = (
    "One call with inputs and outputs on the GPU, the kernels replayed as a CUDA graph inside PyTorch: the median, at "
    "batch 1, 640×640 pixels and with random weights. torch.compile ran in the same call on the same inputs: same "
    "precision, channels last, a CUDA graph. Sizes are of the whole artifact; – was not measured so."
)
MORE = (
    "[All results](results.md): exports and their tests, accuracy of trained weights in every precision, the runs "
    "with their commits, and what did not pass."
)

PLOT = "![Milliseconds a call by task and size: tf32, fp16, and torch.compile in fp16]({}latency.svg)"


@dataclass(frozen=True)
class Results:
    """One file of results."""

    path: Path
    data: Mapping[str, Any]
    runs: Mapping[str, Run]

    @property
    def machine(self) -> str:
        """The GPU and the versions, in words."""
        names = ("python", "torch", "executorch", "ultralytics", "triton")
        versions = ", ".join(
            f"{name} {self.data['versions'][name]}"
            for name in names
            if name in self.data["versions"] or self.data["kind"] != "by hand"
        )
        return f"On an {self.data['gpu']}, driver {self.data['driver']}, {versions}."

    def lines(self) -> Iterator[str]:
        """Yield the page's lines for this file."""
        about = f"{self.data.get('note', '')} Data: [{self.path.name}](../results/{self.path.name}).".strip()
        of_kind = {
            "bench": self._lines_of_bench,
            "exports": self._lines_of_exports,
            "device latency": self._lines_of_latencies,
            "accuracy": self._lines_of_accuracies,
            "by hand": self._lines_by_hand,
        }
        yield from of_kind[self.data["kind"]](about)

    def _lines_of_accuracies(self, about: str) -> Iterator[str]:
        yield from ("### Accuracy, trained weights", "")
        heads = ["model", "precision", "pictures", "metric", "artifact", "PyTorch fp32", "difference", "run"]
        yield from _table(heads, self._accuracies())
        yield from ("", _wrap(about))

    def _lines_by_hand(self, about: str) -> Iterator[str]:
        """Yield what no command of ours measured, with its provenance."""
        yield from ("### By hand: ExecuTorch's own CUDA delegate", "")
        heads = [
            "model",
            "precision",
            "inputs and outputs",
            "call, ms",
            "CUDA graph, ms",
            "outputs beside the runner in PyTorch",
        ]
        rows = [
            [
                model_of({"variant": record["model"]}), str(record["precision"]),
                {"host": "host", "device": "GPU"}[record["io"]],
                *(f"{number(record[key]):g}" for key in ("p50_ms", "p50_ms_cuda_graph")),
                str(record["outputs_beside_runner_aoti"]),
            ]
            for record in self.data["records"]
        ]  # fmt: skip
        yield from _table(heads, rows)
        told = [f"{self.data[key]}." for key in ("what", "runtime", "method")]
        told.insert(1, f"Exported with {self.data['exported_with']}.")
        seen = f"Also seen: {'; '.join(self.data['also_seen'])}."
        once = "Such a build is no part of this repository: no command of it measures this again."
        yield from ("", _wrap(" ".join([*(one[0].upper() + one[1:] for one in told), seen, once, about])))

    def _lines_of_bench(self, about: str) -> Iterator[str]:
        rows = self.compared()
        peers = [peer for peer in PEERS if any(peer in one.peers for one in rows)]
        yield from (f"### {'Beside other software' if peers else 'Latency'}, {self.data['precision']}", "")
        columns = [heading for peer in peers for heading in (f"{peer}, ms", "÷ artifact")]
        heads = ["model", "row", "artifact, ms", "p20 to p80", *columns, "of the ceiling", "run"]
        yield from _table(heads, [one.cells(peers) for one in rows])
        modes = ", ".join(f"{mode}: {MODES[mode]}" for mode in dict.fromkeys(one.mode for one in rows))
        there = {row_of(row) for row in self.data["records"]}  # a later run may have measured what one did not
        lacking = [row for row in self.data["not_measured"] if row_of(row) not in there]
        missing = dict.fromkeys(f"{row['name']} ({row['message']})" for row in lacking)
        told = f" Not measured: {', '.join(missing)}." if missing else ""
        yield from ("", _wrap(f"Medians. Row {modes}. {BENCH}{told} {about}"))

    def _lines_of_latencies(self, about: str) -> Iterator[str]:
        yield from (f"### {self.data['precision']}, inputs and outputs on the GPU", "")
        yield from _table(["model", "launched, ms", "CUDA graph, ms", "run"], self.device_latencies())
        calls = f"{self.data['timed']} calls after {self.data['warm_up']} to warm up"
        timing = f"Launched: kernel by kernel. Each is the {self.data['statistic']} of {calls}."
        yield from ("", _wrap(f"{timing} {about}"))

    def _lines_of_exports(self, about: str) -> Iterator[str]:
        precision = self.data["precision"]
        yield from (f"### {precision or self.data.get('title', 'Other options')}", "")
        heads = ["size MB", "export s", "latency ms", "ratio", "rows matched", "run"]
        passed = self.passed()
        if precision:
            yield from _table(["model", *heads], [[one.variant, *one.cells()] for one in passed])
        else:
            options = [" ".join([f"--precision {one.run.options.precision}", *one.run.differences()]) for one in passed]
            rows = [[one.variant, f"`{told}`", *one.cells()] for one, told in zip(passed, options, strict=True)]
            yield from _table(["model", "options", *heads], rows)
        yield from ("", _wrap(f"{self._missing(passed)} {about}"))
        timed = [run for run in self.data["runs"] if run.get("seconds") is not None]
        if timed:
            rows = [
                [str(self.runs[run["run"]]), str(run["exports"]), str(run["jobs"]), str(len(run["devices"]) or 1),
                 f"{number(run['seconds']):.0f}"]
                for run in timed
            ]  # fmt: skip
            yield from ("", *_table(["run", "exported", "side by side", "GPUs", "s in all"], rows))

    def passed(self) -> list[Passed]:
        """Return the exports that passed, by variant; raises ValueError where one is there twice."""
        found = [Passed.from_json(record, self.runs) for record in self.data["records"]]
        if not found:
            raise ValueError("no records")
        if twice := [
            name for (name, _), count in Counter((f.variant, f.run.options) for f in found).items() if count > 1
        ]:
            raise ValueError(f"more than one record of {', '.join(twice)}")
        precision = self.data["precision"]
        if precision and any(one.run.differences() or one.run.options.precision != precision for one in found):
            raise ValueError(f"expected records of {precision} with the usual options only")
        order = [*VARIANTS]
        return sorted(found, key=lambda one: order.index(one.variant) if one.variant in order else len(order))

    def _missing(self, passed: Sequence[Passed]) -> str:
        """Say what has no passing record and what became of the attempts that did not pass."""
        last: dict[str, str] = {}
        failures, attempts = [], Counter[str]()
        for record in self.data["not_passed"]:
            run, name, outcome = self.runs[record["run"]], model_of(record), str(record["outcome"])
            if outcome not in ("failed", "interrupted"):
                raise ValueError(f"{name} of {run.name}: expected failed or interrupted, given {outcome}")
            last[name] = f"{outcome} in {run.name}"
            since = any(one.variant == name and one.run.options == run.options for one in passed)
            told = f"{name} with `--precision {run.options.precision}` {outcome} in {run.name}"
            failures.append(f"{told}, and passed since." if since else f"{told}.")
            attempts[outcome] += 1
        if not self.data["precision"]:
            return " ".join(failures)
        missing: dict[str, list[str]] = {}
        for name in VARIANTS:
            if name not in {one.variant for one in passed}:
                missing.setdefault(last.get(name, "not run"), []).append(name)
        named = "; ".join(f"{why}: {', '.join(names)}" for why, names in missing.items())
        said = (
            f"No passing record of {len(VARIANTS) - len(passed)} of the {len(VARIANTS)} ({named})."
            if missing
            else "All passed."
        )
        counted = " and ".join(f"{count} {outcome}" for outcome, count in attempts.items())
        return f"{said} The data also holds the attempts that did not pass: {counted}." if attempts else said

    def device_latencies(self) -> Table:
        """Return rows of a file of latencies: variant, launched, as a CUDA graph, run; raises ValueError."""
        rows = []
        for record in self.data["records"]:
            if record["graph_equals_call"] is not True or self.data["unit"] != "ms":
                raise ValueError(f"{record['variant']}: expected ms, of a graph that gives the call's outputs")
            figures = [f"{number(record[key]):.2f}" for key in ("launched", "graph")]
            rows.append([model_of(record), *figures, str(self.runs[record["run"]])])
        return rows

    def compared(self) -> list[Compared]:
        """Return the rows of a benchmark, each artifact with its peers; raises ValueError."""
        found: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
        for record in self.data["records"]:
            run = self.runs[record["run"]]
            if record["precision"] != run.options.precision or record["graph_equals_call"] is False:
                raise ValueError(f"{record['name']} of {run.name} does not hold together: precision or outputs")
            found.setdefault((model_of(record), record["input"], record["mode"]), {})[record["subject"]] = record
        rows = [
            Compared.of(name, given, mode, subjects, self.runs[subjects[ARTIFACT]["run"]])
            for (name, given, mode), subjects in found.items()
            if ARTIFACT in subjects
        ]
        if not rows:
            raise ValueError("no records")
        order = [*VARIANTS]
        key = [*MODES].index
        return sorted(rows, key=lambda one: (key(one.mode), order.index(one.variant), one.input))

    def _accuracies(self) -> Table:
        rows = []
        for record in self.data["records"]:
            run = self.runs[record["run"]]
            if record["precision"] != run.options.precision:
                raise ValueError(f"{record['name']} of {run.name} does not hold together: precision")
            for key, (artifact, pytorch) in record["metrics"].items():
                figures = [f"{number(value):.4f}" for value in (artifact, pytorch)]
                told = f"{artifact - pytorch:+.4f}"
                about = [model_of(record), run.options.precision, str(int(record["pictures"]))]
                rows.append([*about, metric_name(key), *figures, told, str(run)])
        if not rows:
            raise ValueError("no records")
        return rows


def read(folder: Path) -> dict[str, list[Results]]:
    """Return a folder's files by machine, in the order of the page.

    Raises:
        ResultsError: there are none, or one is damaged.
    """
    found: list[tuple[tuple[int, int, str], Results]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            runs = {run["run"]: Run.from_json(run) for run in data["runs"]}
            if len(runs) != len(data["runs"]):
                raise ValueError("two runs have one name")
            results = Results(path, data, runs)
            precision = PRECISIONS.index(data["precision"]) if data["precision"] else len(PRECISIONS)
            found.append(((KINDS.index(data["kind"]), precision, path.name), results))
            list(results.lines())
            str(results.machine)
        except (AttributeError, LookupError, TypeError, ValueError, Yolo26Error) as error:
            said = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ResultsError(f"{path.name} is damaged: {said}; restore it from git") from error
    if not found:
        raise ResultsError(f"{folder} holds no results; expected JSON files")
    by_machine: dict[str, list[Results]] = {}
    for _, results in sorted(found, key=lambda one: one[0]):
        by_machine.setdefault(results.machine, []).append(results)
    return by_machine


def render(folder: Path) -> str:
    """Return the page docs/results.md for the files of a folder; raises as `read`."""
    parts = ["# Measured results", _wrap(ABOUT), _wrap(INTRO)]
    for machine, files in read(folder).items():
        parts += [
            f"## {files[0].data['gpu']}, torch {files[0].data['versions']['torch'].partition('+')[0]}",
            _wrap(machine),
            *("\n".join(results.lines()) for results in files),
        ]
    return "\n\n".join(parts) + "\n"


def latencies(folder: Path) -> tuple[str, Table]:
    """Return the machine with the most latencies, with their commits, and their table; raises as `read`."""
    tables = [
        (" ".join(filter(None, (machine, _commits(files), _others(files)))), table)
        for machine, files in read(folder).items()
        if len(table := _latencies(files)) > 1
    ]
    return max(tables, key=lambda one: sum(cell != "–" for row in one[1] for cell in row))


def summary(machine: str, table: Table) -> str:
    """Return the block of docs/performance.md, without its markers."""
    heads, *rows = table
    about = _wrap(f"{SUMMARY} {machine}")
    parts = ["## Measured so far", about, PLOT.format(""), "\n".join(_table(heads, rows)), _wrap(MORE)]
    return "\n\n".join(parts)


def at_a_glance(machine: str, table: Table) -> str:
    """Return README's block, without its markers: the plot, and between which figures it lies."""
    heads, *rows = table
    own, peer = heads.index("fp16, ms"), heads.index("torch.compile fp16, ms (× ours)")
    timed = sorted((float(row[own]), row[0]) for row in rows if row[own] != "–")
    ratios = sorted(float(row[peer].split("(")[1].rstrip(")")) for row in rows if row[peer] != "–")
    (least, quickest), (most, slowest) = timed[0], timed[-1]
    gpu = machine.removeprefix("On an ").partition(",")[0]
    said = (
        f"One call on an {gpu}, batch 1, 640×640, a CUDA graph: in fp16 {least} ms ({quickest}) to {most} ms "
        f"({slowest}), where torch.compile takes {ratios[0]} to {ratios[-1]} times as long. "
        "[How it was measured](docs/performance.md)."
    )
    return f"{PLOT.format('docs/')}\n\n{_wrap(said)}"


def _benched_graphs(files: Sequence[Results]) -> Iterator[Compared]:
    for file in files:
        for one in file.compared() if file.data["kind"] == "bench" else []:
            if (one.mode, one.input) == ("graph", ExportOptions().input):
                yield one


def _graphs(files: Sequence[Results]) -> Iterator[tuple[str, str, str, str]]:
    """Yield precision, variant, milliseconds and run of each graph's latency; those of `bench` last: they count."""
    for file in files:
        if file.data["kind"] == "device latency":
            for variant, _, ms, run in file.device_latencies():
                yield str(file.data["precision"]), variant, ms, run
    for one in _benched_graphs(files):
        yield one.run.options.precision, one.variant, f"{one.p50_ms:.2f}", str(one.run)


def _commits(files: Sequence[Results]) -> str:
    """Say which commits the latencies of `_latencies` are of."""
    commits: dict[str, dict[str, str]] = {}
    for precision, variant, _, run in _graphs(files):
        commits.setdefault(precision, {})[variant] = run.split()[1]
    told = []
    for precision in [name for name in PRECISIONS if name in commits]:
        named: dict[str, list[str]] = {}
        for variant, commit in commits[precision].items():
            named.setdefault(commit, []).append(variant)
        *few, (most, _) = sorted(named.items(), key=lambda one: len(one[1]))
        exceptions = "".join(f"{commit} ({', '.join(variants)}) and " for commit, variants in few)
        told.append(f"{precision} {exceptions}{most}{' (the others)' if few else ''}")
    return f"Commits: {'; '.join(told)}." if told else ""


def _others(files: Sequence[Results]) -> str:
    """Say what the peers took that have no column in the table of `_latencies`."""
    told = []
    for one in _benched_graphs(files):
        peers = {name: ms for name in PEERS if name != "compile" and (ms := one.peers.get(name))}
        figures = ", ".join(f"{name} {ms:.2f} ms ({ms / one.p50_ms:.2f} × ours)" for name, ms in peers.items())
        if figures:
            told.append(f"{one.variant} in {one.run.options.precision}: {figures}")
    return f"Others, each with its CUDA graph: {'; '.join(told)}." if told else ""


def _latencies(files: Sequence[Results]) -> Table:
    """Return a machine's latencies on the GPU by variant, with a row of headings: ours, torch.compile's, and sizes."""
    cells: dict[tuple[str, str], str] = {}
    for file in files:
        precision = str(file.data["precision"])
        if file.data["kind"] == "exports" and precision in PRECISIONS:
            cells |= {(one.variant, f"{precision}, MB"): f"{one.size_mb:.1f}" for one in file.passed()}
    cells |= {(variant, f"{precision}, ms"): ms for precision, variant, ms, _ in _graphs(files)}
    for one in _benched_graphs(files):
        if peer := one.peers.get("compile"):
            heading = f"torch.compile {one.run.options.precision}, ms (× ours)"
            cells[one.variant, heading] = f"{peer:.2f} ({peer / one.p50_ms:.2f})"
    there = {heading for _, heading in cells}
    of_precision = ["{}, ms", "torch.compile {}, ms (× ours)"]
    timed = [name for name in PRECISIONS if f"{name}, ms" in there]
    heads = [words.format(name) for name in timed for words in of_precision] + [f"{name}, MB" for name in timed]
    heads = [heading for heading in heads if heading in there]
    variants = [name for name in VARIANTS if any((name, f"{precision}, ms") in cells for precision in timed)]
    rows = [[name, *(cells.get((name, heading), "–") for heading in heads)] for name in variants]
    return [["model", *heads], *rows]


def replace_block(path: Path, block: str) -> str:
    """Return a page with what stands between its markers replaced; raises ResultsError without one pair of them."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ResultsError(f"{path.name} has no place for results; expected one line {BEGIN} and below it one {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{rest.split(END)[1]}"


def _table(heads: Sequence[str], rows: Table) -> Iterator[str]:
    for cells in (heads, ["---"] * len(heads), *rows):
        yield f"|{'|'.join(cells)}|" if cells[0] == "---" else f"| {' | '.join(cells)} |"


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    """Write the page and the blocks or check them; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Write docs/results.md, docs/performance.md's table, README's line and plot from results/*.json."
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where they are stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of README.md, docs/ and results/")
    args = parser.parse_args()
    names = ("README.md", "docs/performance.md", "docs/results.md", "docs/latency.svg")
    readme, performance, page, plot = (args.root / name for name in names)
    try:
        machine, table = latencies(args.root / "results")
        new = {
            page: render(args.root / "results"),
            performance: replace_block(performance, summary(machine, table)),
            readme: replace_block(readme, at_a_glance(machine, table)),
        }
        stale = [path for path, text in new.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        if latency_plot.drawn_from(plot) != latency_plot.digest(table):
            stale.append(plot)
            new[plot] = "" if args.check else latency_plot.draw(table)
        for path in [] if args.check else stale:
            path.write_text(new[path], encoding="utf-8")
    except (OSError, Yolo26Error) as error:
        print(f"results: error: {error}", file=sys.stderr)
        return 1
    if args.check and stale:
        told = " and ".join(path.name for path in stale)
        print(f"results: error: {told}: not what results/ gives; run python tools/results.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
