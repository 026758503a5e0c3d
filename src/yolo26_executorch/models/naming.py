"""How an artifact's folder is named after the checkpoint that it is made from.

A published variant gives its own name, a file its name without `.pt`. Training leaves `RUN/weights/best.pt` and
`last.pt`, whose names tell nothing: they are named `RUN-best`, and `PROJECT-RUN-best` where that is taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from .checkpoints import Source

_NAMELESS = ("best", "last")
"""What Ultralytics names every training's checkpoints."""


def names_of(path: Path) -> tuple[str, ...]:
    """Return the names for the artifact of a checkpoint file, an absolute path, the preferred one first.

    Raises:
        CheckpointError: the file's name has no letter or digit that a folder's may have.
    """
    stem = _plain(path.stem)
    if not stem:
        raise CheckpointError(f"{path}: its name gives no folder name; rename the file")
    if stem not in _NAMELESS:
        return (stem,)
    folders = [_plain(folder) for folder in path.parent.parts if _plain(folder)]
    if path.parent.name == "weights":
        folders.pop()
    longer = ["-".join([*folders[-count:], stem]) for count in (1, 2) if count <= len(folders)]
    return tuple(longer) or (stem,)


def run_of(path: Path) -> str:
    """Return the folders that tell one training's checkpoint from another's, such as `segment/train2/weights`."""
    return "/".join(path.parent.parts[-3:]).lstrip("/")


def tell_apart(
    sources: Sequence[Source], is_taken: Callable[[str, Source], bool] = lambda name, source: False
) -> list[Source]:
    """Return the sources, each once and under a name of its own.

    Args:
        sources: as they were asked for.
        is_taken: whether a name may not be given to a source, since the artifact of another checkpoint has it.

    Raises:
        UsageError: two of them can only be written to the same folder.
    """
    distinct = list(dict.fromkeys(sources))
    names = [(source.name,) if source.path is None else names_of(source.path) for source in distinct]
    while True:
        wanted = Counter(options[0] for options in names)
        shorter = [
            options[1:] if len(options) > 1 and (wanted[options[0]] > 1 or is_taken(options[0], source)) else options
            for source, options in zip(distinct, names, strict=True)
        ]
        if shorter == names:
            break
        names = shorter
    named = [replace(source, name=options[0]) for source, options in zip(distinct, names, strict=True)]
    unique: dict[str, Source] = {}
    for source in named:
        other = unique.setdefault(source.name, source)
        if other is not source:
            raise UsageError(
                f"{other.path or other.name} and {source.path or source.name} would both be written to the folder "
                f"{source.name!r}; export them one by one with --name, or rename one of the files"
            )
    return named


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")
