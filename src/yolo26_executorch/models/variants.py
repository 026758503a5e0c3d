"""The 25 variants: five sizes times five tasks, one frozen row each."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import UnknownVariantError
from .tasks import TASKS, Task

SIZES = ("n", "s", "m", "l", "x")


@dataclass(frozen=True)
class Variant:
    """One published YOLO26 model."""

    name: str
    size: str
    task: Task

    @property
    def checkpoint(self) -> str:
        """File name of Ultralytics' published weights."""
        return f"{self.name}.pt"

    @property
    def config(self) -> str:
        """Name of Ultralytics' architecture file."""
        return f"{self.name}.yaml"


VARIANTS: dict[str, Variant] = {
    f"yolo26{size}{task.suffix}": Variant(f"yolo26{size}{task.suffix}", size, task)
    for task in TASKS.values()
    for size in SIZES
}
"""Every variant by name, by task and then by size."""


def find_variants(patterns: Sequence[str]) -> list[Variant]:
    """Return the variants that the names and wildcards name, each once, in the order given.

    Args:
        patterns: names such as `yolo26n-seg`, or shell wildcards such as `yolo26?-seg`.

    Raises:
        UnknownVariantError: a pattern fits no variant; the message names near matches.
    """
    found: dict[str, Variant] = {}
    for pattern in patterns:
        names = fnmatch.filter(VARIANTS, pattern)
        if not names:
            raise UnknownVariantError(f"no variant fits {pattern!r}{_suggestion(pattern, VARIANTS)}")
        found.update((name, VARIANTS[name]) for name in names)
    return list(found.values())


def _suggestion(given: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(names), n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(near)}? `yolo26-et list` shows all 25"
    return "; names look like yolo26n, yolo26s-seg, yolo26x-cls; `yolo26-et list` shows all 25"
