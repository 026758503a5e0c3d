"""Tables on terminals of any width: where one does not fit, each row becomes a few lines, and nothing is cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

_FOLDED = 24
"""The least width of a column whose cells may be broken anywhere."""


def print_table(out: Console, table: Table) -> None:
    """Print a table of text with a heading for each column, or its rows as lines where the console is too narrow.

    A row's first cell goes ahead of its other cells, each of which has its heading before it.
    """
    from rich.padding import Padding
    from rich.text import Text

    # Two columns of padding and one between columns; one more at either edge.
    if sum(map(_least_width, table.columns)) + 3 * len(table.columns) + 1 <= out.width:
        out.print(table)
        return
    headings = [" ".join(str(column.header).split()) for column in table.columns]
    out.print()
    if table.title:
        out.print(Text(str(table.title), style="bold"))
    for row, cells in zip(table.rows, zip(*(column.cells for column in table.columns), strict=True), strict=True):
        first, *others = (" ".join(str(cell).split()) for cell in cells)
        pairs = [f"{heading}: {cell}" for heading, cell in zip(headings[1:], others, strict=True) if cell]
        out.print(Text(first, overflow="fold"), style=row.style)
        for line in _filled(pairs, out.width - 2):
            out.print(Padding(Text(line, overflow="fold"), (0, 0, 0, 2), expand=False), style=row.style)
    out.print()


def _least_width(column: Column) -> int:
    """Return how wide a column must be so that nothing of it is cut off."""
    from rich.cells import cell_len

    texts = [str(text) for text in (column.header, *column.cells)]
    parts = [part for text in texts for part in (text.splitlines() if column.no_wrap else text.split())]
    width = max(map(cell_len, parts), default=0)
    return min(width, _FOLDED) if column.overflow == "fold" else width


def _filled(pairs: list[str], width: int) -> list[str]:
    """Put as many pairs into a line as fit; one that does not fit has a line of its own."""
    lines: list[str] = []
    for pair in pairs:
        if lines and len(lines[-1]) + 2 + len(pair) < width:
            lines[-1] += f"; {pair}"
        else:
            lines.append(pair)
    return lines
