"""The model card that goes into an artifact's folder as README.md, in the form that Hugging Face's Hub reads."""

from __future__ import annotations

import html
import keyword
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import IntegrityError
from ..models.tasks import TASKS, TensorSpec
from .locks import locked
from .manifest import CARD, WEIGHTS, Manifest
from .reading import load_manifest
from .writing import Draft

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

BASE_MODEL = "Ultralytics/YOLO26"
"""Where Ultralytics' published weights are on the Hub."""

_RUNNERS = {
    "reference": "not run: what was compiled was computed by its kernels' references on a CPU",
    "executorch": "in ExecuTorch's own Python runtime",
    "aoti": "inside PyTorch, which ran the shared object that the program holds",
}
"""By `Runner.name`, where a model ran."""


@dataclass(frozen=True)
class Accuracy:
    """An artifact's accuracy on a labelled data set."""

    data: str
    """File or folder name of the data set."""
    split: str
    pictures: int
    precision: str
    runner: str
    device: str
    metrics: dict[str, float]
    """By name, such as "box mAP50-95", 0..1, or with a unit in the name, "rmse (m)"."""
    pytorch: dict[str, float] | None
    """The same of the checkpoint in PyTorch fp32, where it was measured."""
    created: str
    """ISO 8601, UTC."""


def render(manifest: Manifest, accuracy: Accuracy | None = None) -> str:
    """Return an artifact's card: Markdown with the YAML front matter that model hubs read.

    Args:
        manifest: the artifact's; `files` may hold the card's own record, which is left out.
        accuracy: what `yolo26-et val` measured of it.
    """
    from huggingface_hub import ModelCard
    from jinja2 import Environment, StrictUndefined, select_autoescape

    # Escaping for HTML would spoil Markdown: what comes from a checkpoint goes through `cell`, `line` or `tojson`.
    environment = Environment(
        autoescape=select_autoescape(default_for_string=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, size=size, line=_line, variable=_variable, columns=columns)
    template = environment.from_string(resources.files(__package__).joinpath("card.md.jinja").read_text("utf-8"))
    test = manifest.test or {}
    body = template.render(
        manifest=manifest,
        task=TASKS[manifest.task],
        cuda=manifest.backend == "cuda",
        random=manifest.checkpoint.origin == "random",
        files={name: record for name, record in manifest.files.items() if name != CARD},
        weights_file=WEIGHTS,
        host=manifest.options.io == "host",
        capabilities=manifest.platform.capabilities,
        runner=_figure(test.get("runner")),
        runners=_RUNNERS,
        latency=_latency(test),
        parity=list(_parity(test)),
        picture=test["picture"] if isinstance(test.get("picture"), str) else "the test's image",
        answer=[str(line) for line in _list(test.get("answer"))],
        not_run=[str(name) for name in _list(test.get("not_run"))],
        run_on=[
            {key: str(entry.get(key)) for key in ("architecture", "device", "pictures", "created")}
            for entry in _list(test.get("run_on"))
            if isinstance(entry, Mapping)
        ],
        figures=list(figures({key: value for key, value in test.items() if key != "answer"})),
        accuracy=accuracy,
    )
    # What is left out leaves empty lines.
    body = re.sub(r"\n{3,}", "\n\n", body.strip())
    return str(ModelCard(f"---\n{_front_matter(manifest, accuracy).to_yaml()}\n---\n\n{body}\n"))


def write(folder: Path, accuracy: Accuracy | None = None, test: dict[str, Any] | None = None) -> Path:
    """Render an artifact's card anew and put it, with the manifest that records it, into its place in one step.

    The other files are checked against the manifest and stay as they are; hidden files of the folder are lost. `test`
    replaces the test's figures in the manifest.

    Raises:
        ArtifactError: the folder is no intact artifact, or cannot be written.
        BusyError: an export to the same place is under way.
        UsageError: the folder around it cannot be written to, or it holds other files.
    """
    folder = folder.resolve()
    with locked(folder.parent, folder.name, waiting=None):
        manifest = load_manifest(folder)
        manifest = manifest if test is None else replace(manifest, test=test)
        with Draft(folder.parent, folder.name) as draft:
            kept = {name: record for name, record in manifest.files.items() if name != CARD}
            for name in kept:
                _link(folder / name, draft.folder / name)
            if changed := sorted(name for name, record in draft.records().items() if record != kept[name]):
                raise IntegrityError(f"{folder / changed[0]} is not what its manifest says; copy or export it again")
            return draft.commit(manifest, render(manifest, accuracy))


def figures(data: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield a test's figures as rows of words: the path to each number, text or truth value, and what it is.

    A comparison (`ParityReport.to_json`) is put into a row a quantity. The members of a list go by what was compared
    with what, by their "name", or else by their position.
    """
    if isinstance(data, Mapping) and isinstance(data.get("quantities"), list):
        yield from _comparison(data, where)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            if not (key == "name" and where):
                yield from figures(value, f"{where} / {key}" if where else str(key))
    elif isinstance(data, list | tuple):
        for index, item in enumerate(data):
            yield from figures(item, f"{where} / {_name(item, index)}")
    elif data is not None:
        yield where, _figure(data)


def size(count: int) -> str:
    """Return a number of bytes in words: MB of a million bytes, as downloads are counted."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def columns(spec: TensorSpec) -> str:
    """Return what the entries of a tensor's last axis are, with their units."""
    if not spec.columns:
        return ", ".join(spec.units)
    units = spec.units if len(spec.units) == len(spec.columns) else spec.units[:1] * len(spec.columns)
    words = [f"{name} ({unit})" for name, unit in zip(spec.columns, units, strict=True)] if units else spec.columns
    more = ", …" if len(spec.columns) < spec.shape[-1] else ""
    return ", ".join(words) + more


def _front_matter(manifest: Manifest, accuracy: Accuracy | None) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    task = TASKS[manifest.task]
    measured = None
    if accuracy:
        data = accuracy.data
        measured = [
            EvalResult(
                task_type=task.pipeline_tag,
                dataset_type=Path(data).stem,
                dataset_name=data,
                dataset_split=accuracy.split,
                metric_type=name,
                metric_value=round(value, 5),
            )
            for name, value in accuracy.metrics.items()
            if math.isfinite(value)
        ]
    return ModelCardData(
        license="agpl-3.0",
        library_name="executorch",
        pipeline_tag=task.pipeline_tag,
        base_model=BASE_MODEL if manifest.checkpoint.origin == "published" else None,
        tags=["executorch", "yolo26", "ultralytics", manifest.task, manifest.backend],
        model_name=manifest.name,
        eval_results=measured or None,
    )


def _latency(test: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures of the timed calls; None where there are none."""
    found = test.get("latency_ms")
    keys = ("p50", "min", "max", "runs")
    if not isinstance(found, Mapping) or not all(_is_number(found.get(key)) for key in keys):
        return None
    return {
        **{key: f"{found[key]:.3g}" for key in keys},
        "device": str(test.get("device") or "a device that was not written down"),
    }


def _parity(test: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield, over all inputs: compared with what, quantity, largest error, what is allowed, the worst share of it."""
    worst: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for entry in _list(test.get("inputs")):
        for found in _list(entry.get("quantities")) if isinstance(entry, Mapping) else []:
            keys = ("max", "absolute", "relative", "ratio")
            if isinstance(found, Mapping) and all(_is_number(found.get(key)) for key in keys):
                row = (_figure(entry.get("against")).replace("eager", "PyTorch"), _figure(found.get("name")))
                worst.setdefault((*row, _figure(found.get("unit"))), []).append(found)
    for (against, name, unit), rows in worst.items():
        limit, scaled = rows[0]["absolute"], rows[0]["relative"]
        allowed = f"{limit:g} + {scaled:g} s" if scaled else f"{limit:g}"
        largest, ratio = max(row["max"] for row in rows), max(row["ratio"] for row in rows)
        yield against, name, f"{largest:.2g}", unit, allowed, f"{ratio:.0%}"


def _link(source: Path, target: Path) -> None:
    """Give a plain file a second name, where the file system can, or else copy it."""
    if source.is_symlink() or not source.is_file():
        raise IntegrityError(f"{source} is missing, or no plain file; copy or export the artifact again")
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _name(item: object, index: int) -> object:
    if not isinstance(item, Mapping):
        return index
    if "input" in item and "against" in item:
        return f"{item['input']} against {item['against']}"
    return item.get("name", index)


def _comparison(data: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    failures = data.get("failures") or []
    yield where, "failed: " + "; ".join(map(str, failures)) if failures else "passed"
    if isinstance(agreement := data.get("agreement"), Mapping):
        counts = [f"{_words(key)} {_figure(value)}" for key, value in agreement.items() if value is not None]
        yield f"{where} / agreement", ", ".join(counts)
    for index, quantity in enumerate(data["quantities"]):
        if isinstance(quantity, Mapping):
            told = {key: _figure(quantity.get(key)) for key in ("max", "mean", "p99", "absolute", "relative", "unit")}
            yield (
                f"{where} / {_name(quantity, index)}",
                "error up to {max} {unit}, mean {mean}, 99th percentile {p99}; allowed {absolute} + {relative} × scale"
                "".format(**told),
            )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figure(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(key: object) -> str:
    return str(key).replace("_", " ")


def _line(value: object) -> str:
    """Keep a text on its line."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def _cell(value: object) -> str:
    """Make a text safe inside a table or a sentence: no line breaks, HTML, code or column marks."""
    text = html.escape(_line(value), quote=False)
    for mark in "|`*[]":
        text = text.replace(mark, f"&#{ord(mark)};")
    return text


def _variable(name: str) -> str:
    return name if name.isidentifier() and not keyword.iskeyword(name) else "output"
