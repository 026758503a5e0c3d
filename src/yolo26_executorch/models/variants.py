"""The variants: published weights by name, one frozen row each."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UnknownVariantError
from .tasks import GUIDE_TASKS, TASKS, Task, Weights

SIZES = ("n", "s", "m", "l", "x")


@dataclass(frozen=True)
class Variant:
    """One published YOLO26 model, or one of Ultralytics' architectures that has no published weights.

    Examples:
        >>> variant = VARIANTS["yolo26n-seg"]
        >>> variant.checkpoint, variant.native, variant.dataset
        ('yolo26n-seg.pt', (640, 640), 'coco.yaml')
        >>> variant.family, variant.config
        ('yolo26[nsmlx]-seg', 'yolo26n-seg.yaml')
    """

    name: str
    size: str
    task: Task
    weights: Weights

    @property
    def dataset(self) -> str:
        """Ultralytics' description of the data set that the weights were trained on; it names the classes."""
        return self.weights.dataset

    @property
    def native(self) -> tuple[int, int]:
        """Height and width of the input that the weights were made for, pixels."""
        return self.weights.native or self.task.native

    @property
    def checkpoint(self) -> str:
        """File name of Ultralytics' published weights."""
        return f"{self.name}.pt"

    @property
    def family(self) -> str:
        """The wildcard that fits its five sizes."""
        return f"{self.weights.prefix}[{''.join(SIZES)}]{self.weights.suffix}"

    @property
    def config(self) -> str:
        """Name of Ultralytics' architecture file."""
        suffix = self.task.suffix if self.weights.config is None else self.weights.config
        return f"{self.weights.prefix}{self.size}{suffix}.yaml"


def _family(task: Task, weights: Weights | None = None) -> dict[str, Variant]:
    """Return the variants of a task's own weights, or of further ones."""
    of = weights or Weights(task.suffix, task.dataset)
    names = {size: f"{of.prefix}{size}{of.suffix}" for size in SIZES}
    return {name: Variant(name, size, task, of) for size, name in names.items()}


VARIANTS: dict[str, Variant] = {
    name: variant for task in GUIDE_TASKS.values() for name, variant in _family(task).items()
}
"""The guide's 25, which are exported where no model is named: by name, by task and then by size.

Examples:
    >>> len(VARIANTS), VARIANTS["yolo26x-pose"].task.name
    (25, 'pose')
"""

ALL_VARIANTS: dict[str, Variant] = {
    **VARIANTS,
    **{name: variant for task in TASKS.values() if not task.in_guide for name, variant in _family(task).items()},
    **{
        name: variant
        for task in TASKS.values()
        for weights in task.further
        for name, variant in _family(task, weights).items()
    },
}
"""Every variant by name: the 25, then those of further tasks, then further weights."""


def find_variants(patterns: Sequence[str], *, published: bool = False) -> list[Variant]:
    """Return the variants that the names and wildcards name, each once, in the order given.

    Args:
        patterns: names such as `yolo26n-seg`, or shell wildcards such as `yolo26?-seg`.
        published: whether a wildcard leaves out what has no published weights.

    Raises:
        UnknownVariantError: a pattern fits no variant; the message names near matches.

    Examples:
        >>> [variant.name for variant in find_variants(["yolo26?-seg", "yolo26n"])]
        ['yolo26n-seg', 'yolo26s-seg', 'yolo26m-seg', 'yolo26l-seg', 'yolo26x-seg', 'yolo26n']
    """
    found: dict[str, Variant] = {}
    for pattern in patterns:
        names = fnmatch.filter(ALL_VARIANTS, pattern)
        if published and pattern not in ALL_VARIANTS:
            names = [name for name in names if ALL_VARIANTS[name].weights.published]
        if not names:
            raise UnknownVariantError(f"no variant fits {pattern!r}{_suggestion(pattern)}")
        found.update((name, ALL_VARIANTS[name]) for name in names)
    return list(found.values())


def _suggestion(given: str) -> str:
    near = [near for names in (VARIANTS, ALL_VARIANTS) for near in difflib.get_close_matches(given, names, n=3)]
    if near:
        return f"; did you mean {' or '.join(dict.fromkeys(near[:3]))}? `yolo26-et list` shows all"
    return "; names look like yolo26n, yolo26s-seg, yolo26x-cls; `yolo26-et list` shows all"
