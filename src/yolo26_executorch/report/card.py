"""The model card that goes into an artifact's folder as README.md."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from ..manifest import WEIGHTS, Manifest
from ..tasks import TASKS, TensorSpec


def render(manifest: Manifest) -> str:
    """Return an artifact's card: Markdown with the YAML front matter that model hubs read."""
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
    return template.render(
        manifest=manifest,
        task=TASKS[manifest.task],
        cuda=manifest.backend == "cuda",
        random=manifest.checkpoint["origin"] == "random",
        weights_file=WEIGHTS,
        figures=list(figures(manifest.test or {})),
    )


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
    for quantity in data["quantities"]:
        if isinstance(quantity, Mapping):
            told = {key: _figure(quantity.get(key)) for key in ("max", "mean", "p99", "absolute", "relative", "unit")}
            yield (
                f"{where} / {quantity.get('name')}",
                "error up to {max} {unit}, mean {mean}, 99th percentile {p99}; allowed {absolute} + {relative} × scale"
                "".format(**told),
            )


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


def _figure(value: object) -> str:
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
    return name if name.isidentifier() else "output"
