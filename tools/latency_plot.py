"""The plot of README's latencies, as SVG: a panel for each task, a line for each column of milliseconds.

`tools/results.py` draws it. What it was drawn from is in the picture as a hash, by which it is known to be current:
another version of matplotlib draws other paths.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from yolo26_executorch import VARIANTS
from yolo26_executorch.models.tasks import GUIDE_TASKS as TASKS
from yolo26_executorch.models.variants import SIZES

_LINES = {"tf32, ms": ("#7ba7ec", "s"), "fp16, ms": ("#1a56c4", "o"), "torch.compile fp16, ms": ("#e08e2b", "^")}
"""What headings begin with, and each line's colour and marker."""


def digest(table: Sequence[Sequence[str]]) -> str:
    """Return the hash of a table, as the picture holds it."""
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def drawn_from(path: Path) -> str | None:
    """Return the hash in a picture; None where there is none."""
    try:
        found = re.search("drawn from ([0-9a-f]{64})", path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None


def draw(table: Sequence[Sequence[str]]) -> str:
    """Return the SVG of README's table: headings, then rows of a variant and its figures; – is none."""
    import matplotlib
    from matplotlib.figure import Figure

    heads, *rows = table
    columns = {name: number for number, heading in enumerate(heads) for name in _LINES if heading.startswith(name)}
    figure = Figure(figsize=(11.0, 3.0), layout="constrained")
    panels = figure.subplots(1, len(TASKS))
    for panel, task in zip(panels, TASKS.values(), strict=True):
        ours = {VARIANTS[row[0]].size: row for row in rows if VARIANTS[row[0]].task is task}
        for name, column in columns.items():
            colour, marker = _LINES[name]
            there = [(SIZES.index(size), row[column]) for size, row in ours.items() if row[column] != "–"]
            panel.plot(
                [place for place, _ in there], [float(cell.split()[0]) for _, cell in there],
                color=colour, marker=marker, markersize=4, linewidth=1.5, label=name.removesuffix(", ms"),
            )  # fmt: skip
        panel.set_xticks(range(len(SIZES)), SIZES)
        panel.set_ylim(bottom=0)
        panel.set_title(task.name, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", color="#e0e0e0", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms a call (median)", fontsize=9)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "latency"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Description": f"drawn from {digest(table)}"})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
