"""`yolo26-et list`: the variants."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from ..models.tasks import MAX_DETECTIONS, OutputRow
from ..models.variants import Variant, find_variants
from ..system.tables import print_table
from . import Subparsers, console

_SYMBOLS = {
    "K": str(MAX_DETECTIONS),
    "H4": "H/4",
    "W4": "W/4",
    "H8": "H/8",
    "W8": "W/8",
    "H": "H",
    "W": "W",
    "EXTRA": "32",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("list", help="show the variants", description="Show the variants of YOLO26.")
    parser.add_argument("patterns", nargs="*", metavar="NAME", help="names or wildcards, such as 'yolo26?-seg'")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the variants that the patterns name, without one a row for each family; raises UnknownVariantError."""
    variants = find_variants(args.patterns or ["*"])
    if args.json:
        print(json.dumps([_row(variant) for variant in variants], indent=2))
    elif args.patterns:
        _print_table({variant.name: variant for variant in variants})
    else:
        _print_table({variant.family: variant for variant in variants})
        print("A row stands for five sizes. Export one, yolo26n-seg, or all of a row: 'yolo26[nsmlx]-seg'.")
    return 0


def _row(variant: Variant) -> dict[str, Any]:
    return {
        "name": variant.name,
        "task": variant.task.name,
        "size": variant.size,
        # As Ultralytics writes sizes: one number for a square.
        "native_imgsz": variant.native[0] if len({*variant.native}) == 1 else list(variant.native),
        "trained_on": variant.dataset.removesuffix(".yaml"),
        "published": variant.weights.published,
        "stride": variant.weights.stride,
        "vocabulary": variant.weights.vocabulary,
        "checkpoint": variant.checkpoint,
        "outputs": [
            {"name": output.name, "dtype": output.dtype, "shape": _shape(output)} for output in variant.task.named
        ],
    }


def _print_table(variants: Mapping[str, Variant]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("name", "task", "native input", "trained on", "outputs", box=SIMPLE_HEAD)
    for name, variant in variants.items():
        row = _row(variant)
        outputs = ", ".join(f"{output['name']} ({', '.join(output['shape'])})" for output in row["outputs"])
        native = "×".join(map(str, variant.native))
        table.add_row(name, row["task"], native, _classes(variant), outputs)
    print_table(console(), table)


def _classes(variant: Variant) -> str:
    """Return in words what the published weights know."""
    if not variant.weights.published:
        return "not published"
    if variant.weights.vocabulary:
        return {"words": "the classes of --words", "fixed": "a list of its own"}[variant.weights.vocabulary]
    return variant.dataset.removesuffix(".yaml")


def _shape(output: OutputRow) -> list[str]:
    """Return an output's axes in words: numbers where they are fixed, else what they count."""
    return [_SYMBOLS.get(str(dim), str(dim) if dim == "B" else str(dim).lower()) for dim in output.dims]
