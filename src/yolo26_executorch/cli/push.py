"""`yolo26-et push ARTIFACT… --repo-prefix ORG`: put artifacts on Hugging Face's Hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..artifacts.card import size
from ..errors import Yolo26Error, printable
from ..report import hub
from . import PROG, Subparsers, warn


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "push",
        help="put artifacts on Hugging Face's Hub",
        description="Put each artifact into a repository of its own on Hugging Face's Hub, such as "
        "ORG/yolo26n-seg-ExecuTorch-CUDA, with its card, in one commit. All are verified before anything is sent. The "
        "token is the one of `hf auth login`, or HF_TOKEN.",
        epilog="Exit status: 0 all are there; 1 at least one is not, the others are; 2 the command was wrong, nothing "
        "was sent.",
    )
    parser.add_argument(
        "folders", metavar="ARTIFACT", type=Path, nargs="+", help="artifacts' folders, such as yolo26_cuda_exports/*/"
    )
    parser.add_argument(
        "--repo-prefix", required=True, metavar="ORG", help="the user or organisation that the repositories belong to"
    )
    parser.add_argument("--private", action="store_true", help="make private repositories")
    parser.add_argument("--revision", metavar="R", help="the branch to send to, made where it is not there")
    parser.add_argument("--allow-random", action="store_true", help="send artifacts with random weights, too")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would go where; asks nobody and needs no token"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send the artifacts; returns the exit status.

    Raises:
        UsageError: no such prefix, or two artifacts for one repository.
    """
    organisation = hub.check_prefix(args.repo_prefix)
    uploads: list[hub.Upload] = []
    failures = 0
    for folder in args.folders:
        try:
            uploads.append(hub.prepare(folder.expanduser(), organisation, allow_random=args.allow_random))
        except Yolo26Error as error:
            failures += _failed(error)
    hub.check_distinct(uploads)
    for upload in uploads:
        if upload.names_local_folders:
            warn(f"{upload.folder}: its card and manifest show the command, which names folders of this machine")
        _announce(upload, args)
        if args.dry_run:
            continue
        try:
            address = hub.send(upload, private=args.private, revision=args.revision, progress=sys.stderr.isatty())
            print(f"  {address}", flush=True)
        except Yolo26Error as error:
            failures += _failed(error)
    done = len(args.folders) - failures
    total = size(sum(sum(upload.files.values()) for upload in uploads))
    print(f"{done} would be sent, {total}; nothing was" if args.dry_run else f"{done} sent, {failures} not")
    return int(failures > 0)


def _announce(upload: hub.Upload, args: argparse.Namespace) -> None:
    branch = f", branch {args.revision}" if args.revision else ""
    where = f"{upload.repository}{branch}{', private' if args.private else ''}"
    print(printable(f"{upload.folder} → {where}"), flush=True)
    for name, count in sorted(upload.files.items()):
        print(f"  {name}  {size(count)}", flush=True)


def _failed(error: Yolo26Error) -> int:
    print(f"{PROG}: error: {printable(' '.join(str(error).split()))}", file=sys.stderr, flush=True)
    return 1
