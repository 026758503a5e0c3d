"""`yolo26-et verify ARTIFACT`: an artifact beside its checkpoint in PyTorch, on the user's own pictures."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Yolo26Error, printable
from ..models.tasks import TASKS
from ..system.reports import check_report, write_report
from ..system.tables import print_table
from . import Subparsers, console
from .flags import add_checkpoint, add_runner, use_device

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..parity.aggregate import Confident, Figures, Where
    from ..parity.records import Quantity
    from ..parity.verify import PictureFigures, Progress, VerifyReport

_SHOWN = 20
"""Pictures and failures that are printed; the JSON has them all."""

_LARGEST = {
    "box_px": "box", "keypoint_px": "keypoint", "angle_rad": "angle", "score": "confidence",
    "probability": "probability",
}  # fmt: skip
"""The quantities that people care about, and what they are called in the line on confident objects."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "verify",
        help="compare an artifact with PyTorch on your pictures",
        description="Run an artifact and the checkpoint that it was made from on the same pictures, and compare all "
        "that they give: boxes, classes, confidences, keypoints, masks, angles.",
        epilog="Exit status: 0 every picture is within tolerance; 1 one is not, or could not be read; 2 the command "
        "was wrong.",
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", type=Path, help="an artifact's folder, such as yolo26_cuda_exports/yolo26n"
    )
    parser.add_argument(
        "--images", nargs="+", action="extend", type=Path, metavar="DIR",
        help="folders of pictures, or pictures (default: two photographs and two made-up inputs)",
    )  # fmt: skip
    add_checkpoint(parser)
    add_runner(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON to a file")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    from ..parity.verify import complete, verify

    report_path = args.report.expanduser() if args.report else None
    if report_path:
        check_report(report_path)
    use_device(args.device, args.artifact)
    with _progress() as progress:
        report = verify(
            args.artifact, args.images, checkpoint=args.checkpoint, weights_dir=args.weights_dir, runner=args.runner,
            trusted=args.trust_checkpoint, progress=progress,
        )  # fmt: skip
    if report_path:
        write_report(report_path, report.to_json())
    note = None
    try:
        if capability := complete(args.artifact, report):
            note = (
                f"the test of its export lacked compute capability {capability}; the manifest and the card have it now"
            )
    except Yolo26Error as error:
        note = f"the manifest still says that it has not run on this kind of GPU: {error}"
    if note:
        print(printable(note), file=sys.stderr)
    if args.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        out = console()
        _print(out, report)
        if report_path:
            out.print(f"report: {report_path}", soft_wrap=True)
        out.print(_verdict(report), style="bold green" if report.passed else "bold red", soft_wrap=True)
    return 0 if report.passed else 1


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show on standard error how far it is: a bar on a terminal, else a line every tenth of the way."""
    from rich.console import Console

    out = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        yield _line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=out, transient=True) as bars:
        bar = bars.add_task("loading", total=None)
        yield lambda done, total, name: bars.update(bar, completed=done, total=total, description=printable(name))


def _line(done: int, total: int, name: str) -> None:
    if done == total or done * 10 // total > (done - 1) * 10 // total:
        print(f"{done} of {total} pictures: {printable(name)}", file=sys.stderr, flush=True)


# --- In words ---------------------------------------------------------------------------------------------------------


def _print(out: Console, report: VerifyReport) -> None:
    checkpoint = report.checkpoint
    made_from = f"random weights, seed {checkpoint.seed}" if checkpoint.sha256 is None else checkpoint.file
    out.print(
        f"{report.name} · {report.task} · {report.backend}, {report.precision} · run by {report.runner} on "
        f"{report.device} · compared with PyTorch, {printable(str(made_from))}",
        soft_wrap=True,
    )
    for against, figures in report.figures.items():
        title = f"against {against}, over {_count(len(report.pictures), 'picture')}"
        print_table(out, _quantities(title, figures))
    if report.pictures:
        print_table(out, _pictures(report))
    for one in report.unreadable:
        out.print(printable(f"skipped {one.name}: {one.reason}"), soft_wrap=True)
    for failure in report.failures[:_SHOWN]:
        out.print(printable(f"failed: {failure}"), soft_wrap=True)
    if (more := len(report.failures) - _SHOWN) > 0:
        out.print(f"and {_count(more, 'failure')} more; --json has them all")
    if kind := TASKS[report.task].confident:
        for against, figures in report.figures.items():
            told = _confident(figures.confident, f"confident {kind}")
            out.print(printable(f"against {against}: {told}"), soft_wrap=True)


def _quantities(title: str, figures: Figures) -> Table:
    table = _table(title)
    for heading in ("quantity", "unit"):
        table.add_column(heading, no_wrap=True)
    for heading in ("max", "mean", "p99", "tolerance", "error ÷ tolerance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("worst at")
    for quantity in figures.quantities:
        table.add_row(
            quantity.name,
            quantity.unit,
            *(f"{value:.2g}" for value in (quantity.max, quantity.mean, quantity.p99)),
            _tolerance(quantity),
            f"{quantity.ratio:.3g}",
            printable(_place(figures.worst.get(quantity.name))),
            style=None if quantity.passed else "red",
        )
    return table


def _tolerance(quantity: Quantity) -> str:
    """Word a tolerance; the percentage is of what the quantity's errors grow with (`tolerances.MEASURES`)."""
    return f"{quantity.absolute:.2g}" + (f" + {quantity.relative:.2%}" if quantity.relative else "")


def _pictures(report: VerifyReport) -> Table:
    """Return a row for each picture, the worst first where there are many."""
    shown = list(report.pictures)
    title = "pictures"
    if len(shown) > _SHOWN:
        shown = sorted(shown, key=lambda picture: (picture.passed, -_ratio(picture)))[:_SHOWN]
        title = f"the {_SHOWN} worst of {len(report.pictures)} pictures; --json has them all"
    table = _table(title)
    table.add_column("picture", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    # In two lines, so that what tells pictures apart need not be cut off.
    for heading in (
        "confident\nmatched",
        "rows\nmatched",
        "classes\nequal",
        "worst\nIoU",
        "mask\nIoU",
        "error ÷\ntolerance",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("worst quantity", no_wrap=True)
    for picture in shown:
        against, one = max(picture.reports.items(), key=lambda item: item[1].largest.ratio if item[1].largest else 0)
        confident, agreement, worst = picture.confident[against], one.agreement, one.largest
        table.add_row(
            printable(picture.name),
            "passed" if picture.passed else "failed",
            f"{confident.matched} of {confident.objects}",
            f"{agreement.matched} of {agreement.rows}" if agreement else "-",
            str(agreement.classes_equal) if agreement else "-",
            *(_iou(getattr(agreement, name, None)) for name in ("min_box_iou", "min_mask_iou")),
            f"{worst.ratio:.3g}" if worst else "-",
            f"{worst.name} {worst.max:.2g} {worst.unit}" if worst else "-",
            style=None if picture.passed else "red",
        )
    return table


def _ratio(picture: PictureFigures) -> float:
    return max((report.largest.ratio for report in picture.reports.values() if report.largest), default=0.0)


def _confident(confident: Confident, thing: str) -> str:
    """Say what became of the objects that PyTorch is sure of."""
    from ..parity.aggregate import CONFIDENT

    if not confident.objects and not confident.unexpected:
        return f"no {thing}: PyTorch is sure of nothing (confidence {CONFIDENT} or more) here"
    words = [
        f"{confident.matched} of {_count(confident.objects, thing)} matched, {confident.classes_equal} of equal class"
    ]
    if confident.unexpected:
        words.append(f"{confident.unexpected} that PyTorch does not see")
    for word, where in (("IoU", confident.box_iou), ("mask IoU", confident.mask_iou)):
        if where:
            words.append(f"worst {word} {_iou(where.value)}")
    for name, word in _LARGEST.items():
        if where := confident.errors.get(name):
            words.append(f"worst {word} {where.value:.2g} {_unit(name)}".rstrip())
    return ", ".join(words)


def _verdict(report: VerifyReport) -> str:
    compared, failed = len(report.pictures), len(report.failed)
    unread = f"{_count(len(report.unreadable), 'picture')} could not be read" if report.unreadable else ""
    if failed:
        more = f"; {unread}" if unread else ""
        return f"FAILED: {report.name} differs from PyTorch on {failed} of {_count(compared, 'picture')}{more}"
    all_of = "all " if compared > 1 else ""
    within = (
        f"{report.name} is within tolerance of PyTorch on {all_of}{_count(compared, 'picture')}" if compared else ""
    )
    if unread:
        return "FAILED: " + "; ".join(filter(None, (unread, within)))
    return f"PASSED: {within}"


def _place(where: Where | None) -> str:
    """Say which object of which picture; places are in pixels of the network's input."""
    if where is None:
        return "-"
    if where.label is None or where.confidence is None:
        return where.picture
    at = f" at ({where.box[0]:.0f}, {where.box[1]:.0f})" if where.box else ""
    return f"{where.picture}: {where.name or f'class {where.label}'} {where.confidence:.2f}{at}"


def _unit(quantity: str) -> str:
    from ..parity.tolerances import MEASURES

    unit = MEASURES[quantity].unit
    return "" if unit == "0..1" else unit


def _iou(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _count(number: int, thing: str) -> str:
    plural = thing + ("es" if thing.endswith("x") else "s")
    return f"{number} {thing if number == 1 else plural}"


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
