"""A report for people: tables and the latency plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, Yolo26Error, first_line, printable
from ..system.tables import print_table
from .records import ARTIFACT, MODES, PEERS, Report, Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = dict(
    zip((ARTIFACT, *PEERS), ("#2a6fdb", "#9aa0a6", "#e08e2b", "#4f9d69", "#8a5fbf", "#c2569b"), strict=True)
)
LATENCY = {
    "p20": "a fifth of the calls took less",
    "p50": "half of them did",
    "p80": "four fifths did",
    "spread": "largest less smallest median of the rounds; what differs by less is noise",
    "images/s": "batch ÷ p50",
    "×": "p50 in times of the artifact's",
    "block": "mean of calls one right behind the other",
    "cold": "median where the GPU's cache was overwritten before each call",
    "calls": "how many were timed",
    "MHz": "the GPU's clock just before",
    "W": "and its power",
}
"""The columns of the first table, and what they are."""

RATES = {
    "GFLOP/s": "10⁹ operations a second, a multiply-add being two (part of this machine's measured most)",
    "GB/s": "10⁹ bytes read and written a second, likewise",
    "import s": "starting Python and importing libraries",
    "open s": "reading the artifact, or building the peer",
    "first s": "the first call",
    "GPU MB": "10⁶ bytes that the GPU's used memory grew by",
    "host MB": "10⁶ bytes that the process held at most",
}
"""The columns of the second table."""

_SUFFIXES = (".png", ".svg", ".pdf")
_BAR_INCHES, _FRAME_INCHES, _WIDTH_INCHES = 0.26, 1.5, 9.0


def print_report(report: Report, out: Console) -> None:
    """Print what was measured, on what, and what was not."""
    for line in _about(report):
        out.print(printable(line), soft_wrap=True)
    measured = [row for row in report.rows if row.measured]
    if measured:
        latencies = [_latency(row, report.rows) for row in measured]
        _print_figures(out, "latency of a call, ms", LATENCY, measured, latencies)
        rates = [_rates(row) for row in measured]
        _print_figures(out, "rates, time to the first result, memory", RATES, measured, rates)
    for row in report.rows:
        if row.message:
            out.print(
                printable(f"{row.artifact} {row.subject} {row.mode}: {row.outcome}: {row.message}"), soft_wrap=True
            )
        if row.graph_equals_call is False:
            words = "the graph's outputs are not the launched call's"
            out.print(printable(f"{row.artifact} {row.subject} {row.mode}: {words}"), soft_wrap=True)
    for warning in report.warnings:
        out.print(printable(f"warning: {warning}"), soft_wrap=True)
    if report.interrupted:
        out.print("interrupted: what was through is above")


def _print_figures(
    out: Console, title: str, columns: Mapping[str, str], rows: Sequence[Row], figures: Sequence[Sequence[str]]
) -> None:
    """Print a table and, below it, what its columns are; a column without a figure is left out."""
    legend = [*columns.items()]
    shown = [at for at in range(len(legend)) if any(row[at] not in ("-", "") for row in figures)]
    table = name_table(title)
    for at in shown:
        table.add_column(legend[at][0], justify="right", no_wrap=True)
    for row, cells in zip(rows, figures, strict=True):
        style = "bold" if row.subject == ARTIFACT else None
        table.add_row(*names_of(row), *(cells[at] for at in shown), style=style)
    print_table(out, table)
    out.print("; ".join(f"{legend[at][0]}: {legend[at][1]}" for at in shown))
    out.print()


def check_plot(path: Path) -> None:
    """Refuse, before any work, a place where no plot can be written; raises UsageError."""
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--plot {path}: expected a name that ends in {', '.join(_SUFFIXES)}; try --plot latency.png")
    if path.is_dir():
        raise UsageError(f"--plot {path}: expected a file's name, and this is a folder; try --plot {path}/latency.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--plot {path}: cannot be written ({first_line(error)})") from error


def write_plot(report: Report, path: Path) -> None:
    """Draw the medians as bars, with lines from the 20th to the 80th percentile, a panel for each kind of row.

    Raises:
        Yolo26Error: nothing was measured, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    panels = [(mode, rows) for mode in MODES if (rows := [r for r in report.rows if r.mode == mode and r.measured])]
    if not panels:
        raise Yolo26Error(f"--plot {path}: nothing was measured, so there is nothing to draw")
    heights = [_FRAME_INCHES + _BAR_INCHES * len(rows) for _, rows in panels]
    figure = Figure(figsize=(_WIDTH_INCHES, sum(heights)), layout="constrained")
    axes: Any = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for panel, (mode, rows) in zip(axes[:, 0], panels, strict=True):
        _draw(panel, mode, rows)
    figure.suptitle(_plain("\n".join([*_about(report)][:2])), fontsize=8)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise Yolo26Error(f"--plot {path}: the plot could not be written ({first_line(error)})") from error


def _draw(panel: Any, mode: str, rows: Sequence[Row]) -> None:
    """Draw one kind of row, artifacts from the top down, each beside its peers."""
    figures = [row.latency for row in rows if row.latency]
    places = range(len(rows))
    low = [figure.p50_ms - figure.p20_ms for figure in figures]
    high = [figure.p80_ms - figure.p50_ms for figure in figures]
    panel.barh(
        places, [figure.p50_ms for figure in figures],
        xerr=[low, high], color=[_COLOURS[row.subject] for row in rows], ecolor="#202124", capsize=2, height=0.75,
    )  # fmt: skip
    widest = max(figure.p80_ms for figure in figures)
    for place, figure in zip(places, figures, strict=True):
        panel.text(figure.p80_ms + widest * 0.01, place, f"{figure.p50_ms:.3g}", va="center", fontsize=7)
    panel.set_yticks(places, [_plain(_label(row)) for row in rows], fontsize=7)
    panel.invert_yaxis()
    panel.set_xlim(0, widest * 1.1)
    panel.set_xlabel("ms a call (median; line: 20th to 80th percentile)", fontsize=8)
    panel.set_title(f"{mode}: {MODES[mode]}", fontsize=9, loc="left")
    panel.tick_params(axis="x", labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)


def _about(report: Report) -> Iterator[str]:
    """Yield lines on where this was measured, and what each model has to do."""
    machine, versions = report.machine, report.versions
    gpu = f"{machine.gpu}, driver {machine.driver}" if machine.gpu else f"{machine.cpu or 'CPU'}, no GPU"
    state = f", commit {report.commit[:7]}{' (modified)' if report.modified else ''}" if report.commit else ""
    yield f"{gpu}, {machine.cores} cores, {machine.os}; {report.created}{state}"
    yield ", ".join(f"{name} {version}" for name, version in versions.items() if version != "none" and name != "gpu")
    for most in report.ceilings:
        yield (
            f"at most, in {most.precision} on {most.device}: {most.gflop_s:,.0f} GFLOP/s, {most.gb_s:,.0f} GB/s "
            f"({most.method})"
        )
    for folder, work in report.work.items():
        floor = f": {work.floor_ms:.3f} ms at the ceilings" if work.floor_ms is not None else ""
        yield f"{folder}: {work.gflop:.2f} GFLOP and {work.gb * 1000:.1f} MB a call{floor}"


def _label(row: Row) -> str:
    return f"{row.name} {row.precision} {'×'.join(map(str, row.imgsz))} {row.subject}"


def names_of(row: Row) -> list[str]:
    """Return the cells that name a row."""
    batch = f" ×{row.batch}" if row.batch > 1 else ""
    size = "×".join(map(str, row.imgsz))
    return [printable(f"{row.name} {row.precision} {size}{batch}"), row.subject, row.mode]


def _latency(row: Row, rows: Sequence[Row]) -> list[str]:
    found = row.latency
    assert found is not None
    own = next((o.latency for o in rows if (o.artifact, o.subject, o.mode) == (row.artifact, ARTIFACT, row.mode)), None)
    last = row.rounds[-1] if row.rounds else None
    return [
        *(ms(value) for value in (found.p20_ms, found.p50_ms, found.p80_ms, found.spread_ms)),
        _number(row.batch / found.p50_ms * 1000) if found.p50_ms else "-",
        f"{found.p50_ms / own.p50_ms:.2f}" if own and row.subject != ARTIFACT and own.p50_ms else "",
        ms(found.block_ms),
        ms(found.cold_ms),
        str(found.runs),
        _number(last.sm_mhz if last else None),
        _number(last.power_w if last else None),
    ]


def _rates(row: Row) -> list[str]:
    rates, load, memory = row.achieved, row.load, row.memory
    seconds = (load.import_s, load.open_s, load.first_s) if load else (None,) * 3
    held = (memory.gpu_bytes, memory.host_bytes) if memory else (None,) * 2
    return [
        _rate(rates.gflop_s, rates.of_compute) if rates else "-",
        _rate(rates.gb_s, rates.of_bandwidth) if rates else "-",
        *("-" if value is None else f"{value:.2f}" for value in seconds),
        *("-" if value is None else f"{value / 1e6:.0f}" for value in held),
    ]


def ms(value: float | None) -> str:
    """Word milliseconds."""
    return "-" if value is None else f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _rate(value: float, part: float | None) -> str:
    words = f"{value:,.{0 if value >= 10 else 1}f}"
    return words if part is None else f"{words} ({part:.1%})"


def _plain(text: str) -> str:
    """Return a text that matplotlib draws as it is: two dollars would make a formula."""
    return "\n".join(printable(line) for line in text.split("\n")).replace("$", r"\$")


def name_table(title: str) -> Table:
    """Return a table with the columns of `names_of`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for heading in ("model", "what", "row"):
        made.add_column(heading, no_wrap=True)
    return made
