"""`yolo26-et card ARTIFACT`: an artifact's model card, from what its manifest says now."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..artifacts import card
from ..artifacts.manifest import CARD
from ..artifacts.reading import load_manifest
from ..report.val_report import accuracy_of
from . import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "card",
        help="print an artifact's model card",
        description="Print an artifact's model card: Markdown with the front matter that Hugging Face's Hub reads. "
        "Every figure in it comes from the artifact's manifest or from --val.",
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", type=Path, help="an artifact's folder, such as yolo26_cuda_exports/yolo26n"
    )
    parser.add_argument(
        "--val", type=Path, metavar="FILE", help="put in the accuracy that `yolo26-et val --report FILE` measured"
    )
    parser.add_argument(
        "--write", action="store_true", help="replace the artifact's README.md, and its hash in the manifest, at once"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print or replace the card; returns the exit status.

    Raises:
        ArtifactError: the folder is no artifact, or with --write no intact one.
        UsageError: --val names no report about this artifact.
    """
    folder = args.artifact.expanduser()
    manifest = load_manifest(folder)
    accuracy = accuracy_of(args.val, manifest) if args.val else None
    if args.write:
        print(f"card: {card.write(folder, accuracy) / CARD}")
    else:
        print(card.render(manifest, accuracy), end="")
    return 0
