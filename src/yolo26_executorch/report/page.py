"""A tree of exports as one HTML page that needs nothing else: styles, scripts and pictures are inside, no network.

Texts that come from files are escaped by the template. Should that ever fail, the page's Content-Security-Policy lets
no script run but the two that are meant, which it knows by their SHA-256, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from ..artifacts.card import columns, size
from ..errors import UsageError
from ..exporter.child_process import LOGS
from ..models.tasks import TASKS
from ..models.variants import SIZES
from ..system.probe import package_version
from .samples import Sample
from .tree import OUTCOMES, Entry, Run, Tree
from .val_report import items, mapping, metric_name, number

OWN, UNKNOWN = "own checkpoint", "unknown"
"""For the filters: a checkpoint of the user's own has no size, one that was never loaded no task."""

_MACHINE = {
    "os": "system", "machine": "architecture", "cpu": "CPU", "cores": "cores", "memory_bytes": "memory", "gpus": "GPU",
    "driver": "NVIDIA driver", "python": "Python", "package": "yolo26-executorch", "torch": "PyTorch",
    "torch_cuda": "PyTorch's CUDA", "executorch": "ExecuTorch", "ultralytics": "Ultralytics", "triton": "Triton",
    "cxx": "C++ compiler", "nvcc": "nvcc", "ptxas": "ptxas",
}  # fmt: skip
"""What is shown of `Environment.to_json`."""


def render(base: Path, tree: Tree, found: Mapping[str, Sample] | None = None) -> str:
    """Return the page of a tree.

    Args:
        base: the tree's folder, for its name.
        tree: what is in it.
        found: what `samples.draw` returned; None leaves the sample pictures out.

    Raises:
        UsageError: plotly, whose script draws the plots, is not installed.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(fixed=_fixed, rough=_rough, short=_short, size=size, columns=columns, metric=metric_name)
    scripts = [_plotly(), _asset("page.js")]
    return environment.from_string(_asset("page.html.jinja")).render(
        title=base.resolve().name,
        own=OWN,
        unknown=UNKNOWN,
        entries=tree.entries,
        runs=[(run, list(_machine(run))) for run in tree.runs],
        warnings=tree.warnings,
        samples=found,
        outcomes={outcome: sum(entry.outcome == outcome for entry in tree.entries) for outcome in OUTCOMES},
        tasks=_present([*TASKS, UNKNOWN], [entry.task or UNKNOWN for entry in tree.entries]),
        sizes=_present([*SIZES, OWN], [entry.size or OWN for entry in tree.entries]),
        colours={task: index for index, task in enumerate([*TASKS, UNKNOWN])},
        points=[_point(entry) for entry in tree.entries],
        device=_device,
        test_rows=_test_rows,
        longest=max((value for entry in tree.entries for value in entry.seconds.values()), default=0),
        latency=_latency,
        parity=_parity,
        failures_of=_failures,
        logs=LOGS,
        created=datetime.now(timezone.utc),
        version=package_version(),
        style=Markup(_asset("page.css")),  # noqa: S704 - our own file
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own file and plotly's
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
    )


# --- In words ---------------------------------------------------------------------------------------------------------


def _point(entry: Entry) -> dict[str, Any]:
    """Return what the plots show of a model."""
    accuracy = entry.accuracy
    return {
        "id": entry.place,
        "name": entry.name,
        "task": entry.task or UNKNOWN,
        "size": entry.size or OWN,
        "made": f"{entry.backend.upper()} {entry.precision}".strip(),
        "device": _device(entry),
        "latency_ms": entry.latency_ms,
        "size_mb": entry.size_mb,
        "accuracy": accuracy.value if accuracy else None,
        "metric": metric_name(accuracy.metric) if accuracy else None,
        "data": f"{Path(accuracy.data).name}, {accuracy.split}" if accuracy else None,
        "random": bool(entry.manifest and entry.manifest.checkpoint.origin == "random"),
    }


def _device(entry: Entry) -> str:
    """Return what it was tested on."""
    device = entry.test.get("device")
    if isinstance(device, str):
        return "CPU" if device == "cpu" else device
    return {"xnnpack": "CPU", "cuda": "GPU"}.get(entry.backend, "")


def _latency(entry: Entry) -> str:
    """Return what is known of the latency."""
    timed, runner = mapping(entry.test.get("latency_ms")), entry.test.get("runner")
    least, most, calls = (number(timed.get(key)) for key in ("min", "max", "runs"))
    words = [f"{_fixed(entry.latency_ms, 2)} ms p50"]
    if least is not None and most is not None and calls is not None:
        words.append(f"{least:.2f} to {most:.2f} ms over {calls:.0f} calls")
    words += filter(None, [_device(entry), f"by {runner}" if isinstance(runner, str) else ""])
    return ", ".join(words)


def _parity(entry: Entry) -> str:
    """Return what is known of the parity."""
    largest = mapping(entry.test.get("largest"))
    value, quantity = number(largest.get("value")), str(largest.get("quantity", "")).replace("_", " ")
    where = f": {quantity}, {_short(value)} {largest.get('unit', '')}" if value is not None else ""
    return f"worst error ÷ tolerance {_short(entry.parity)}{where}; above 1 fails"


def _failures(test: Mapping[str, Any]) -> list[str]:
    found = test.get("failures")
    return [str(line) for line in found] if isinstance(found, list) else []


def _test_rows(test: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a test's comparisons with PyTorch, a row each quantity."""
    rows = []
    for one in items(test.get("inputs")):
        agreement = mapping(one.get("agreement"))
        matched, total = number(agreement.get("matched")), number(agreement.get("rows"))
        for quantity in items(one.get("quantities")):
            absolute, relative = number(quantity.get("absolute")), number(quantity.get("relative"))
            rows.append(
                {
                    "input": one.get("input"),
                    "against": one.get("against"),
                    "matched": "–" if matched is None or total is None else f"{matched:g} of {total:g}",
                    "quantity": str(quantity.get("name")).replace("_", " "),
                    "max": number(quantity.get("max")),
                    "unit": quantity.get("unit"),
                    "allowed": _short(absolute) + (f" + {relative:.2%}" if relative else ""),
                    "ratio": number(quantity.get("ratio")),
                }
            )
    return rows


def _machine(run: Run) -> Iterator[tuple[str, str]]:
    """Yield what is known of a run's machine, in words."""
    for key, label in _MACHINE.items():
        value = run.machine.get(key)
        if key == "gpus":
            words = [
                f"{gpu.get('name')}, capability {'.'.join(map(str, gpu.get('capability') or ()))}, "
                f"{(number(gpu.get('memory_bytes')) or 0) / 1e9:.0f} GB"
                for gpu in items(value)
            ]
            yield label, "; ".join(words) or "none seen"
        elif isinstance(value, Mapping):
            yield label, str(value.get("version") or "version unknown")
        elif key.endswith("_bytes") and (count := number(value)):
            yield label, f"{count / 1e9:.1f} GB"
        elif isinstance(value, str | int):
            yield label, str(value)


def _present(order: list[str], given: list[str]) -> dict[str, int]:
    """Return how often each is given, without those that are not."""
    return {name: given.count(name) for name in order if name in given}


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _rough(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


# --- What goes into the page ------------------------------------------------------------------------------------------


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(
            "the page's plots need the package plotly, which is not installed: pip install 'yolo26-executorch[report]'"
        ) from error
    return str(get_plotlyjs()).replace("\r\n", "\n")  # as browsers read it, for the hash
