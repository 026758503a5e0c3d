"""`yolo26-et export`: variants and checkpoints to tested artifacts."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..exporter import progress, scheduler
from ..exporter.jobs import Record
from ..exporter.request import BASE_PATH, Request, carry_out
from ..models.options import AUTOTUNE, INPUT_FORMATS, IO_PLACES, PRECISIONS, parse_imgsz
from ..models.preprocess import BUNDLED
from ..models.tasks import OUTPUT_FORMATS
from ..models.variants import VARIANTS
from ..system.reports import REPORT
from . import PROG, Subparsers, console, warn


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="export variants or checkpoints, and test them",
        description="Export YOLO26 models to ExecuTorch, each to a folder of its own, and test inference on each.",
        epilog="Exit status: 0 everything asked for is there and passed its test, as far as "
        "it can be tested here; 1 something failed; 2 the command "
        "was wrong and nothing was done; 130 interrupted.",
    )
    what = parser.add_argument_group("what to export")
    what.add_argument(
        "named", nargs="*", metavar="MODEL",
        help="names (yolo26n-seg), wildcards ('yolo26?-seg') or paths of .pt files (default: all 25 variants)",
    )  # fmt: skip
    what.add_argument("--models", nargs="+", metavar="MODEL", default=[], help="the same, behind a flag")
    what.add_argument(
        "--weights-dir", type=Path, metavar="DIR",
        help="where checkpoints are looked up first and downloaded to (default: Ultralytics' weights folder)",
    )  # fmt: skip
    what.add_argument(
        "--random-weights", action="store_true", help="seeded random weights: no download, and no accuracy"
    )
    what.add_argument(
        "--words", nargs="+", default=[], metavar="WORD",
        help="classes of an open-vocabulary model (yoloe-26n-seg), which are built into the exported one",
    )  # fmt: skip
    what.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random weights (default: %(default)s)")
    what.add_argument(
        "--trust-checkpoint", action="store_true",
        help="load .pt files that hold more than weights and known classes; they run whatever code their author chose",
    )  # fmt: skip

    model = parser.add_argument_group("the exported model")
    model.add_argument(
        "--backend", choices=("auto", "cuda", "xnnpack"), default="auto",
        help="auto: CUDA where a usable GPU is seen, else XNNPACK for CPUs, with a warning (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--arch", nargs="+", default=[], metavar="8.6",
        help="compute capabilities of the GPUs to export for, which need not be here, or all (8.0 and later); implies "
        "--backend cuda (default: that of the GPU at hand)",
    )  # fmt: skip
    model.add_argument(
        "--precision", choices=PRECISIONS, default="tf32",
        help="arithmetic inside the model; inputs and outputs stay float32; where there is no TF32 it means fp32 "
        "(default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--half", action="store_true",
        help="fp16 where the backend is CUDA; with XNNPACK, which computes in fp32, it warns and has no effect",
    )  # fmt: skip
    model.add_argument(
        "--imgsz", nargs="+", default=["640"], metavar="N",
        help="input size in pixels: one number, height and width, or native (default: 640)",
    )  # fmt: skip
    model.add_argument("--batch", type=int, default=1, metavar="N", help="static batch size (default: %(default)s)")
    model.add_argument(
        "--outputs", choices=OUTPUT_FORMATS, default="named",
        help="named: x, y, w, h and a tensor for each quantity; ultralytics: the raw head's (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--input", choices=INPUT_FORMATS, default="float32",
        help="float32 NCHW in 0..1, or uint8 NHWC scaled inside the model (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--io", choices=IO_PLACES, default="host",
        help="device: inputs and outputs stay in GPU memory (default: %(default)s)",
    )  # fmt: skip

    model.add_argument(
        "--autotune", choices=AUTOTUNE, default="off",
        help="measure which tiles are fastest for each convolution on this GPU: fast tries a dozen, full a "
        "hundred; what is found is kept for later exports (default: %(default)s: tiles that were measured on an H100, "
        "or are expected to be the fastest)",
    )  # fmt: skip

    how = parser.add_argument_group("how")
    how.add_argument(
        "--base-path", type=_base_path, default=BASE_PATH, metavar="DIR",
        help="where artifacts go, a folder each; with --ray also a URL that fsspec knows, such as s3://bucket/folder "
        "(default: ./%(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--name", metavar="NAME",
        help="the artifact's folder, for one model (default: the variant's name, the file's without .pt, or for "
        "RUN/weights/best.pt and last.pt the run's, such as train2-best)",
    )  # fmt: skip
    how.add_argument("--no-test", action="store_true", help="skip the smoke test after each export")
    how.add_argument(
        "--skip-existing", action="store_true",
        help="skip what is there already: complete, intact, made with the same options from the same checkpoint, and "
        "fit to run on this machine",
    )  # fmt: skip
    how.add_argument(
        "--force", action="store_true",
        help="replace an artifact that was made from another checkpoint (another SHA-256 or seed)",
    )  # fmt: skip
    how.add_argument(
        "--jobs", type=int, metavar="N",
        help="exports at a time (default: 1 for XNNPACK, half of the cores for CUDA, as far as memory goes)",
    )  # fmt: skip
    how.add_argument(
        "--devices", metavar="0,1,…|all", help="GPUs to spread the exports over (default: the first that can be used)"
    )
    how.add_argument(
        "--ray", metavar="ADDRESS|local",
        help="export on a Ray cluster: the address of one (HOST:PORT, auto), or local to start one on this machine",
    )  # fmt: skip
    how.add_argument(
        "--per-arch",
        action="store_true",
        help="with --ray: one export for each kind of GPU in the cluster, to DIR/KIND/NAME",
    )
    how.add_argument(
        "--time-limit", type=float, default=60, metavar="MIN",
        help="minutes that one export may take; 0 is no limit (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--memory-limit", type=float, default=0, metavar="GB",
        help="GB (10^9 bytes) of memory that one export may hold; 0 is no limit (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--retries", type=int, default=scheduler.RETRIES, metavar="N",
        help="further tries after a download or the GPU's memory failed (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--no-wait", action="store_true",
        help="fail where another process is exporting to the same folder, instead of waiting for it",
    )  # fmt: skip
    how.add_argument(
        "--picture", type=Path, metavar="FILE",
        help="an image that the test shows the model, with what it finds (default: a photograph of a bus, with the "
        "answers of models that know what is on it)",
    )  # fmt: skip
    how.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help=f"the outcome as JSON (default: {REPORT} in the base path, or here if that is a URL)",
    )
    how.add_argument("--debug", action="store_true", help="keep every export's log; show tracebacks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export; raises UsageError before any work is done."""
    out = console()
    given = {field.name: getattr(args, field.name) for field in fields(Request)}
    request = Request(
        **{
            **given,
            "models": tuple([*args.named, *args.models] or VARIANTS),
            "arch": tuple(args.arch),
            "imgsz": parse_imgsz(args.imgsz),
            "words": tuple(args.words),
        }
    )
    result = carry_out(
        request,
        display=lambda tracker: progress.display(tracker, out),
        warn=warn,
        command=shlex.join([PROG, *args.argv]),
    )
    try:
        result.write_report()
    finally:
        progress.print_summary(out, result.records, result.options)
    if result.status and result.logs:
        print(f"logs: {result.logs}")
    print(f"report: {result.report_path}", flush=True)
    if command := _next_command(result.records, args.picture):
        print(f"next: {command}", flush=True)
    return result.status


def _next_command(records: Sequence[Record], picture: Path | None) -> str | None:
    """Return the line to type next; None where nothing is there that could be run here."""
    folder = next((record.folder for record in records if record.ok and record.folder), None)
    return (
        None if folder is None or "://" in folder else shlex.join([PROG, "predict", folder, str(picture or BUNDLED[0])])
    )


def _base_path(words: str) -> Path | str:
    """Return a folder, or a URL as it is."""
    return words if "://" in words else Path(words)
