"""`yolo26-et inspect DIR`: what an artifact is, and what is inside its files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.card import columns, figures, size
from ..artifacts.manifest import Manifest, Platform
from ..artifacts.reading import Artifact, Contents, contents
from ..errors import printable

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 12
"""Rows of a long list that are printed; `--json` has them all."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program's parser."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what an exported folder holds",
        description="Check an artifact's files against its manifest and show what it is and what is inside. "
        "Nothing of it is run.",
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", type=Path, help="an artifact's folder, such as yolo26_cuda_exports/yolo26n"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print an artifact; returns the exit status.

    Raises:
        ArtifactError: the folder is no complete, intact artifact.
    """
    with Artifact.open(args.artifact) as artifact:
        manifest, inside = artifact.manifest, contents(artifact)
    if args.json:
        print(json.dumps({"manifest": manifest.to_json(), "contents": asdict(inside)}, indent=2))
        return 0
    from rich.console import Console

    # Off a terminal nobody scrolls sideways, and folded hashes cannot be copied.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200)
    for title, rows in _sections(manifest, inside).items():
        _print(console, title, rows)
    return 0


def _sections(manifest: Manifest, inside: Contents) -> dict[str, list[tuple[str, ...]]]:
    """Return everything that is shown: title → rows of words."""
    checkpoint, platform, delegate = manifest.checkpoint, manifest.platform, manifest.delegate
    origin = {"random": f"random, seed {checkpoint.seed}", "user": "a checkpoint of the user's own"}.get(
        checkpoint.origin, checkpoint.origin
    )
    names = list(manifest.classes.values())
    tensors = [("input", manifest.input), *(("output", spec) for spec in manifest.outputs)]
    sections: dict[str, list[tuple[str, ...]]] = {
        manifest.name: [
            ("variant", manifest.variant or "none: a checkpoint of the user's own"),
            ("task", manifest.task),
            ("backend", manifest.backend),
            ("precision", manifest.precision),
            ("weights", " ".join(filter(None, (origin, checkpoint.file, checkpoint.sha256)))),
            ("classes", f"{len(names)}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"),
            ("made", f"{manifest.created} by {manifest.command}"),
            ("licence", manifest.licence),
        ],
        "options that were asked for": [(key, str(value)) for key, value in manifest.options.to_json().items()],
        "inputs and outputs": [
            (kind, spec.name, spec.dtype, " × ".join(map(str, spec.shape)), columns(spec), spec.description)
            for kind, spec in tensors
        ],
        "methods": [
            (method.name, f"{_counts(method.delegate_calls)} calls", f"outside: {_counts(method.outside)}")
            for method in inside.methods
        ],
        "delegate": [
            ("name", delegate.name),
            ("operators inside", str(delegate.delegated)),
            ("operators outside", _counts(delegate.outside)),
        ],
        "platform": [
            ("system", f"{platform.system} {platform.machine}"),
            ("GPU machine code", ", ".join(platform.gpu_binaries) or "none"),
            ("GPU PTX", ", ".join(platform.gpu_ptx) or "none"),
            *((words, value) for words, value in _needed(platform) if value),
        ],
        "versions": sorted(manifest.versions.items()),
        "seconds": [(stage, f"{seconds:.1f}") for stage, seconds in manifest.seconds.items()],
        "files": [(name, size(record.bytes), record.sha256) for name, record in manifest.files.items()],
        "data in the program": _data(inside.program_data),
        "data in the weights' file": _data(inside.weights_data),
        "test": list(figures(manifest.test or {"test": "left out (--no-test)"})),
    }
    return {title: rows for title, rows in sections.items() if rows}


def _needed(platform: Platform) -> Iterator[tuple[str, str | None]]:
    """Yield what an artifact needs of a machine, as far as its manifest says so."""
    yield "exported for", ", ".join(platform.architectures)
    yield "glibc, at least", platform.glibc
    yield "libstdc++, at least", platform.glibcxx and f"GLIBCXX_{platform.glibcxx}"
    yield "NVIDIA driver, at least", platform.driver


def _data(sizes: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Return the largest entries, and how much the rest is."""
    ranked = sorted(sizes.items(), key=lambda item: -item[1])
    rows: list[tuple[str, ...]] = [(size(count), key) for key, count in ranked[:_SHOWN]]
    if rest := ranked[_SHOWN:]:
        rows.append((size(sum(count for _, count in rest)), f"{len(rest)} more"))
    return rows


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} × {count}" for name, count in sorted(counts.items())) or "none"


def _print(console: Console, title: str, rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(printable(word), overflow="fold") for word in row))
    console.print(Text(title, style="bold"))
    console.print(table)
    console.print()
