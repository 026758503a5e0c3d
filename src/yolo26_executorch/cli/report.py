"""`yolo26-et report BASE`: a page on a tree of exports."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import UsageError, Yolo26Error
from . import Subparsers, warn

PAGE = "report.html"


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="make a page on a tree of exports",
        description="Make one self-contained HTML page on a tree of exports: sizes, latencies, parity, accuracies, "
        "plots, a sample picture of each model, times, failures with their logs, and the machine. Its figures come "
        "from the artifacts' manifests, report.json and what `yolo26-et val --report` wrote.",
        epilog="Exit status: 0 the page is written; 1 it could not be; 2 the command was wrong.",
    )
    parser.add_argument("base", metavar="BASE", type=Path, help="the folder, such as yolo26_cuda_exports")
    parser.add_argument(
        "--val", nargs="+", action="extend", type=Path, default=[], metavar="FILE",
        help="reports of `yolo26-et val --report`, beside those found as BASE/*.val.json",
    )  # fmt: skip
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="what the models are shown (default: a photograph of a bus)"
    )
    parser.add_argument("--no-pictures", action="store_true", help="run no model, and leave the sample pictures out")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"where the page goes (default: {PAGE} in the folder)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the tree, run its models, write the page; returns the exit status.

    Raises:
        UsageError: the command is wrong.
        InputError: the picture cannot be read.
        Yolo26Error: the page cannot be written.
    """
    from ..report import page, samples, tree

    if args.picture and args.no_pictures:
        raise UsageError("--picture says what the models are shown, --no-pictures that none is; leave one of them out")
    base = args.base.expanduser()
    known = tree.read(base, [path.expanduser() for path in args.val])
    output = args.output.expanduser() if args.output else base / PAGE
    _check(output)
    for warning in known.warnings:
        warn(warning)
    found = None
    if not args.no_pictures:
        from ..models.preprocess import sample_images

        picture = args.picture.expanduser() if args.picture else sample_images()[0]
        with _progress() as say:
            found = samples.draw(base, known, picture, say, only_meant=args.picture is None)
    _write(output, page.render(base, known, found))
    print(f"page: {output}", flush=True)
    return 0


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on standard error which model is being run, where that is a terminal."""
    from rich.console import Console

    with Console(stderr=True, highlight=False, markup=False).status("") as status:
        yield lambda name: status.update(f"{name}: sample picture")


def _check(output: Path) -> None:
    """Refuse, before any work, a place where no page can be written; raises UsageError."""
    if output.is_dir():
        raise UsageError(
            f"--output {output}: expected a file's name, and this is a folder; try --output {output / PAGE}"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be written ({error.strerror}); try --output ./{PAGE}") from error


def _write(output: Path, text: str) -> None:
    """Write the page aside and rename it into place; raises Yolo26Error where that cannot be done."""
    part = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        # In a folder that others can write to, the name may have been taken for a link to elsewhere.
        part.unlink(missing_ok=True)
        with part.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        part.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise Yolo26Error(f"--output {output}: the page could not be written ({error.strerror})") from error
