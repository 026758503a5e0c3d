"""The commands and snippets of Markdown pages."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from yolo26_executorch import cli
from yolo26_executorch.models.options import ExportOptions, parse_imgsz
from yolo26_executorch.models.variants import find_variants

SCRIPT = "examples/models/yolo26_cuda_export.py"


@dataclass(frozen=True)
class Step:
    """A command or snippet of a page."""

    line: int
    language: str
    needs: str | None
    code: str
    shown: str
    """The output that the page shows; empty where it shows none."""


def steps(text: str) -> Iterator[Step]:
    """Yield the blocks of code of a page; of a console's, each command."""
    for block in re.finditer(r"(?:^<!-- needs: (\w+) -->\n)?^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        needs, language, body = block.groups()
        step = Step(text.count("\n", 0, block.start(3)) + 1, language, needs, body, "")
        if language == "console":
            for command in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
                line = step.line + body.count("\n", 0, command.start())
                yield replace(step, line=line, code=command[1], shown=command[2])
        else:
            yield step


def parse(command: str) -> argparse.Namespace | None:
    """Parse one of our command lines and check what can be checked without doing it; None for another program's."""
    words = shlex.split(command)
    if words[:2] == ["python", SCRIPT]:
        words[:2] = ["yolo26-et", "export"]
    if words[0] != "yolo26-et":
        return None
    if words[1] == "--version":
        return argparse.Namespace()
    args = cli._parser().parse_args(words[1:])
    if words[1] == "export":
        names = [word for word in [*args.named, *args.models] or ["*"] if not word.endswith(".pt")]
        options = ExportOptions(
            args.backend.replace("auto", "cuda"), args.precision, parse_imgsz(args.imgsz), args.batch, args.outputs,
            args.input, args.io, args.random_weights, args.seed,
        )  # fmt: skip
        for variant in find_variants(names) if names else []:
            options.resolve(variant.task)
    return args


def matches(shown: str, printed: str) -> bool:
    """Whether output is as a page shows it: `…` stands for anything, spacing and the length of rules do not count."""

    def plain(text: str) -> str:
        return " ".join(re.sub("─+", "─", text).split())

    pieces = [re.escape(plain(piece)) for piece in shown.split("…")]
    return re.fullmatch(r"\s*.*?\s*".join(pieces), plain(printed), re.DOTALL) is not None


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of a page's tables, found by their first heading; without the headings."""
    tables = re.findall(rf"^\| {re.escape(heading)} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert tables, heading
    lines = "".join(tables).splitlines()
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def links(text: str) -> Iterator[tuple[str, str]]:
    """Yield where a page's links lead, but for the web's: a path, empty for the page itself, and an anchor, or none."""
    for target, anchor in re.findall(
        r"\]\(([^):#]*)(?:#([^)]*))?\)", re.sub("^```.*?^```", "", text, flags=re.M | re.S)
    ):
        if target or anchor:
            yield target, anchor


def slugs(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall("^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def literals(paths: Iterable[Path]) -> list[str]:
    """Return the texts in Python files, each whole: what follows each other is one, `…` stands for what is put in."""

    def text(node: ast.AST) -> str | None:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            return "".join(text(value) or "…" for value in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [text(node.left), text(node.right)]
            return "".join(part or "…" for part in parts) if any(parts) else None
        return None

    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    return [found for tree in trees for node in ast.walk(tree) if (found := text(node))]


def is_said(message: str, texts: Iterable[str]) -> bool:
    """Whether a message comes from one text: its pieces, cut at `…`, stand in that text in their order."""
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    pattern = re.compile(".*?".join(pieces), re.DOTALL)
    return bool(pieces) and any(pattern.search(text) for text in texts)
