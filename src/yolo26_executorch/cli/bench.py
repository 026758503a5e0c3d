"""`yolo26-et bench ARTIFACT…`: how fast artifacts are, beside their peers, as data."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..bench import MODES, PEERS, Report, Settings, measure
from ..bench.compare import compare, print_comparison
from ..bench.display import check_plot, print_report, write_plot
from ..errors import OptionError, UsageError, printable
from ..system.reports import check_report, write_report
from . import PROG, Subparsers, console
from .flags import add_checkpoint, add_runner, show_device

COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")
_MOST = 100_000


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    usual = Settings()
    parser = subparsers.add_parser(
        "bench",
        help="measure how fast artifacts are, beside PyTorch, torch.compile, ONNX Runtime and TensorRT",
        description="Measure artifacts and their peers, each row in a process of its own: latency, time to the first "
        "result, memory, and how much of this machine's measured ceilings is reached. Rows: "
        + "; ".join(f"{mode}, {what}" for mode, what in MODES.items())
        + ".",
        epilog="Exit status: 0 measured; 1 a row failed, or an artifact cannot be used; 2 the command was wrong; 130 "
        "interrupted, with what was through in the report. A row that cannot run here is skipped, and says why.",
    )
    parser.add_argument("artifacts", nargs="*", metavar="ARTIFACT", type=Path, help="artifacts' folders")
    parser.add_argument(
        "--against", metavar="A,B", default="", help=f"peers to measure in the same call: {','.join(PEERS)}"
    )
    parser.add_argument(
        "--rows", metavar="A,B",
        help=f"of {','.join(MODES)} (default: all of them, for peers graph and host)",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, metavar="N", help=f"timed calls of a row, at least (default: {usual.runs})")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns they are split into (default: {usual.rounds})")
    parser.add_argument("--quick", action="store_true", help="a first look: 20 calls in one round")
    add_runner(parser)
    parser.add_argument(
        "--compile-mode", choices=COMPILE_MODES, default="default", help="torch.compile's (default: %(default)s)"
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="picture of the file row (default: bus.jpg)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="processes to open at a time; above 1, load times and GPU memory are left out (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--time-limit", type=float, metavar="MIN", default=usual.limit_s / 60,
        help="how long a row may take to get ready, and for each round (default: %(default)g)",
    )  # fmt: skip

    peers = parser.add_argument_group("the peers' checkpoint")
    add_checkpoint(peers)

    out = parser.add_argument_group("results")
    out.add_argument("--json", action="store_true", help="print JSON instead of tables")
    out.add_argument("--report", type=Path, metavar="FILE", help="also write the JSON to a file")
    out.add_argument("--plot", type=Path, metavar="FILE", help="draw latencies: a .png, .svg or .pdf file")
    out.add_argument(
        "--from", type=Path, metavar="FILE", dest="source",
        help="measure nothing: make tables and plot again from a file that --report wrote",
    )  # fmt: skip
    out.add_argument(
        "--compare", type=Path, metavar="OLD.json",
        help="also print how each row has changed since an earlier run, whose --report this is",
    )  # fmt: skip
    out.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, or read what was measured, and print it; returns the exit status."""
    for path, check in ((args.report, check_report), (args.plot, check_plot)):
        if path is not None:
            check(path)
    earlier = None if args.compare is None else Report.read(args.compare)
    if args.source is not None:
        if args.artifacts or args.against or args.rows:
            raise UsageError("--from reads what was measured; leave out the artifacts, --against and --rows")
        report = Report.read(args.source)
    else:
        command = shlex.join([PROG, *args.argv])
        show_device(args.device, args.artifacts)
        report = measure(args.artifacts, _settings(args), command=command, progress=_progress)
    # The data first: it took the longest.
    if args.report:
        write_report(args.report, report.to_json())
    if args.json:
        compared = {} if earlier is None else {"compare": compare(earlier, report).to_json()}
        print(json.dumps({**report.to_json(), **compared}, indent=2))
    else:
        out = console()
        print_report(report, out)
        if earlier is not None:
            print_comparison(compare(earlier, report), out, args.compare.name)
    if args.plot and (args.source or any(row.measured for row in report.rows)):
        write_plot(report, args.plot)
    if args.source:
        return 0
    return 130 if report.interrupted else int(report.failed)


def _settings(args: argparse.Namespace) -> Settings:
    """Return how to measure; raises OptionError or UsageError."""
    settings = Settings(
        against=_names("--against", args.against, PEERS),
        modes=None if args.rows is None else _names("--rows", args.rows, tuple(MODES)),
        runner=args.runner, compile_mode=args.compile_mode, image=args.image, checkpoint=args.checkpoint,
        weights_dir=args.weights_dir, trusted=args.trust_checkpoint, jobs=args.jobs, limit_s=args.time_limit * 60,
    )  # fmt: skip
    if args.quick:
        settings = replace(settings, runs=20, rounds=1, warm_s=0.1, round_s=0.0)
    for flag in ("runs", "rounds", "jobs"):
        value = getattr(args, flag)
        if value is not None and not 1 <= value <= _MOST:
            raise OptionError(f"--{flag} {value}: expected a whole number from 1 to {_MOST}")
        settings = settings if value is None else replace(settings, **{flag: value})
    if not args.time_limit > 0:
        raise OptionError(f"--time-limit {args.time_limit:g}: expected minutes, more than 0; try --time-limit 15")
    if settings.modes == ():
        raise OptionError(f"--rows: expected some of {','.join(MODES)}")
    if args.checkpoint is not None and len(args.artifacts) > 1:
        raise UsageError("--checkpoint is one artifact's; for several, name the checkpoints' folder with --weights-dir")
    return settings


def _names(flag: str, words: str, known: Sequence[str]) -> tuple[str, ...]:
    """Read a list with commas between; raises OptionError."""
    found = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if wrong := [word for word in found if word not in known]:
        raise OptionError(f"{flag} {','.join(wrong)}: expected some of {','.join(known)}")
    return found


def _progress(words: str) -> None:
    print(printable(words), file=sys.stderr, flush=True)
