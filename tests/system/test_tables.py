from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from yolo26_executorch.system.tables import print_table

NAMES = ["yolo26n-seg", "yolo26x-pose-of-a-long-name-that-does-not-fit-into-one-line-of-the-terminal"]


def printed(width: int, **column: bool) -> list[str]:
    table = Table(box=SIMPLE_HEAD, title="sizes")
    table.add_column("variant", no_wrap=True)
    for heading in ("size MB", "error ÷\ntolerance", "latency ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    table.add_row(NAMES[0], "12.5", "0.25", "", "tested on a GPU")
    table.add_row(NAMES[1], "180.5", "-", "7.25", "", style="bold")
    out = io.StringIO()
    print_table(Console(file=out, width=width, highlight=False, markup=False), table)
    return out.getvalue().splitlines()


def test_a_table_that_fits_is_one() -> None:
    lines = printed(140)
    (row,) = (line for line in lines if NAMES[0] in line)
    assert row.split() == [NAMES[0], "12.5", "0.25", *["tested", "on", "a", "GPU"]]


def test_one_that_does_not_is_told_row_by_row() -> None:
    assert printed(60) == [
        "",
        "sizes",
        NAMES[0],
        "  size MB: 12.5; error ÷ tolerance: 0.25",
        "  note: tested on a GPU",
        NAMES[1][:60],
        NAMES[1][60:],
        "  size MB: 180.5; error ÷ tolerance: -; latency ms: 7.25",
        "",
    ]


def test_nothing_is_cut_off_at_any_width() -> None:
    for width in range(20, 160):
        lines = printed(width)
        text = "".join("".join(lines).split())
        assert all(len(line) <= width for line in lines)
        assert "…" not in text
        for part in (*NAMES, "12.5", "180.5", "0.25", "7.25", "latencyms"):
            assert part in text, (width, part)
