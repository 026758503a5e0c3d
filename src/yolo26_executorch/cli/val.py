"""`yolo26-et val DIR --data data.yaml`: an artifact's accuracy on a labelled data set."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError, UsageError, printable
from ..report.val_report import metric_name, metric_unit
from ..system.reports import check_report, write_report
from ..system.tables import print_table
from ..vision.validate import SPLITS, ValReport, validate
from . import PROG, Subparsers, console, warn
from .flags import add_checkpoint, add_runner, use_device

if TYPE_CHECKING:
    from ..vision.agreement import Agreement

REPORT_SCHEMA = 1

_NAMED = 10
"""Damaged pictures that are named; `--json` and `--report` have them all."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "val",
        help="measure an artifact's accuracy on a labelled data set",
        description="Measure an artifact's accuracy with Ultralytics' own validators: mAP of boxes, masks, keypoints "
        "or rotated boxes, precision and recall; top-1 and top-5; mIoU; errors of depths. Nothing is downloaded.",
        epilog="Exit status: 0 measured; 1 the difference is larger than --max-difference, or the artifact cannot be "
        "used; 2 the command or the data set was wrong; 130 interrupted.",
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", type=Path, help="an artifact's folder, such as yolo26_cuda_exports/yolo26n"
    )
    parser.add_argument(
        "--data", metavar="DATA",
        help="a data.yaml in Ultralytics' format; for classify the folder that holds train, val or test",
    )  # fmt: skip
    parser.add_argument("--split", choices=SPLITS, default="val", help="which pictures (default: %(default)s)")
    add_runner(parser)

    other = parser.add_argument_group("against PyTorch")
    other.add_argument(
        "--against", choices=("pytorch",), help="measure the checkpoint in PyTorch fp32, too, and show the difference"
    )
    other.add_argument(
        "--max-difference", type=float, metavar="X",
        help="exit status 1 where an mAP50-95 (classify: top-1; semantic: mIoU, pixel_acc; depth: delta1, abs_rel) is "
        "farther than X, 0..1, from PyTorch's, or where the predictions of single images are farther from PyTorch's "
        "than the precision explains",
    )  # fmt: skip
    add_checkpoint(other)

    out = parser.add_argument_group("results")
    out.add_argument("--json", action="store_true", help="print JSON instead of a table")
    out.add_argument("--report", type=Path, metavar="FILE", help="also write the JSON to a file")
    out.add_argument("--plots", action="store_true", help="draw curves, confusion matrices and pictures")
    out.add_argument("--save-dir", type=Path, metavar="DIR", help="where --plots go (default: ./runs/val/NAME)")
    out.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure an artifact and print what was found; returns the exit status.

    Raises:
        UsageError: the command or the data set is wrong.
        ArtifactError: the artifact is damaged or cannot run here.
    """
    _check(args)
    use_device(args.device, args.artifact)
    report = validate(
        args.artifact,
        args.data,
        split=args.split,
        runner=args.runner,
        checkpoint=args.checkpoint,
        weights_dir=args.weights_dir,
        trusted=args.trust_checkpoint,
        against_pytorch=args.against is not None,
        save_dir=args.save_dir,
        plots=args.plots,
        progress=sys.stderr.isatty(),
    )
    for path, why in [*report.skipped.items()][:_NAMED]:
        warn(f"{path} is left out: {why}")
    if len(report.skipped) > _NAMED:
        warn(f"{len(report.skipped) - _NAMED} more pictures are left out; --json names them")
    judged = args.max_difference is not None
    apart = judged and not report.within(args.max_difference)
    failed = apart or (judged and bool(report.disagreements))
    data = {
        "schema": REPORT_SCHEMA,
        "command": shlex.join([PROG, *args.argv]),
        **report.to_json(),
        "max_difference": args.max_difference,
        "exit_status": int(failed),
    }
    if args.json:
        print(json.dumps(data, indent=2))
    else:
        _print(report)
    if args.report:
        write_report(args.report, data)
    for words in report.disagreements:
        warn(f"the predictions are not PyTorch's: {words}")
    if apart:
        print(
            f"{PROG}: the difference from PyTorch, {report.largest_difference:.5f}, is larger than --max-difference "
            f"{args.max_difference:g}",
            file=sys.stderr,
        )
    return int(failed)


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be before anything runs; raises UsageError."""
    if args.data is None:
        line = shlex.join([PROG, *args.argv, "--data", "data.yaml"])
        raise UsageError(f"the data set is missing; type `{line}`, with the file that the model was trained with")
    lone = {
        "--max-difference": args.max_difference is not None,
        "--checkpoint": args.checkpoint is not None,
        "--weights-dir": args.weights_dir is not None,
        "--trust-checkpoint": args.trust_checkpoint,
    }
    if args.against is None and any(lone.values()):
        flag = next(flag for flag, given in lone.items() if given)
        raise UsageError(f"{flag} is for the comparison with PyTorch; add --against pytorch")
    if args.save_dir is not None and not args.plots:
        raise UsageError("--save-dir says where plots go; add --plots")
    if args.max_difference is not None and not 0 <= args.max_difference <= 1:
        raise OptionError(f"--max-difference {args.max_difference:g}: expected 0..1; try --max-difference 0.0005")
    if args.report is not None:
        check_report(args.report)


def _print(report: ValReport) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    artifact, pytorch, differences = report.artifact, report.pytorch, report.differences or {}
    size = "×".join(map(str, report.imgsz))
    model = f"{report.name}: {report.task}, {report.backend} {report.precision}, {size}, batch {report.batch}"
    objects = "" if report.instances == report.pictures else f", {report.instances} objects"
    out = console()
    out.print(f"{model}, {artifact.runner} on {artifact.device}", soft_wrap=True)
    out.print(f"{printable(report.data)}, {report.split}: {report.pictures} pictures{objects}", soft_wrap=True)
    table = Table("metric", "unit", box=SIMPLE_HEAD)
    for heading in ["artifact", *(["PyTorch fp32", "difference"] if pytorch else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for key, value in artifact.metrics.items():
        beside = [f"{pytorch.metrics[key]:.5f}", f"{differences[key]:+.5f}"] if pytorch else []
        table.add_row(
            metric_name(key), metric_unit(key), f"{value:.5f}", *beside, style="bold" if key == report.primary else None
        )
    for step, ms in artifact.speed_ms.items():
        table.add_row(step, "ms a picture", f"{ms:.2f}", *([f"{pytorch.speed_ms[step]:.2f}"] if pytorch else []))
    print_table(out, table)
    if report.agreement is not None:
        out.print(_agreement(report.agreement), soft_wrap=True)


def _agreement(found: Agreement) -> str:
    """Return how far predictions agree, in one line."""
    things = [f"{found.objects - found.missing} of {found.objects} found alike"] if found.objects else []
    if found.extra:
        things.append(f"{found.extra} besides")
    figures = {
        "box px": found.box_px, "mask IoU": found.mask_iou, "keypoint px": found.keypoint_px,
        "confidence": found.confidence, "share of pixels of equal class": found.pixels, "depth m": found.depth_m,
        "relative depth": found.depth_relative,
    }  # fmt: skip
    things += [f"{name} {at.mean:.4f} (worst {at.worst:.4f})" for name, at in figures.items() if at is not None]
    return f"predictions beside PyTorch's, {found.images} images: {', '.join(things)}"
