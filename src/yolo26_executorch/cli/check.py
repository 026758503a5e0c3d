"""`yolo26-et check BASE`: whether every artifact of a tree is whole and unchanged."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..artifacts.card import size
from ..artifacts.reading import Checked, check_tree
from ..errors import ArtifactError, printable
from ..system.tables import print_table
from . import Subparsers, console


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "check",
        help="verify all artifacts of a folder",
        description="Compare the files of every artifact below a folder with their manifests: names, sizes and "
        "SHA-256. Nothing of them is loaded or run. Whole is not trustworthy: an artifact holds native code.",
        epilog="Exit status: 0 all are whole; 1 one is not; 2 there is no such folder.",
    )
    parser.add_argument("base", metavar="BASE", type=Path, nargs="+", help="a base path of exports, or one artifact")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify the trees and say what was found; returns the exit status.

    Raises:
        UsageError: no such folder.
        ArtifactError: there is no artifact in it.
    """
    found = [checked for base in args.base for checked in check_tree(base.expanduser())]
    if not found:
        raise ArtifactError(
            f"{', '.join(map(str, args.base))}: no artifact below it; `yolo26-et export --base-path` makes one"
        )
    if args.json:
        print(json.dumps([_plain(checked) for checked in found], indent=2))
    else:
        _print(found)
    return 1 if any(checked.problem for checked in found) else 0


def _plain(checked: Checked) -> dict[str, object]:
    return {"folder": str(checked.folder), "whole": checked.problem is None, "problem": checked.problem}


def _print(found: list[Checked]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("artifact", "task", "backend", "precision", "size", "state"):
        table.add_column(heading, no_wrap=heading != "state", justify="right" if heading == "size" else "left")
    for checked in found:
        manifest = checked.manifest
        known = (
            (
                manifest.task,
                manifest.backend,
                manifest.precision,
                size(sum(record.bytes for record in manifest.files.values())),
            )
            if manifest
            else ("?", "?", "?", "?")
        )
        table.add_row(printable(str(checked.folder)), *known, "broken" if checked.problem else "whole")
    out = console()
    print_table(out, table)
    for checked in found:
        if checked.problem:
            out.print(printable(f"{checked.folder}: {checked.problem}"), soft_wrap=True)
    broken = sum(checked.problem is not None for checked in found)
    out.print(f"{len(found) - broken} whole, {broken} broken", soft_wrap=True)
