"""Whether a folder already holds what an export would make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..models.options import ExportOptions
from .reading import verify


def is_current(folder: Path, options: ExportOptions, checkpoint: Mapping[str, Any], tested: bool) -> bool:
    """Whether a folder holds what an export with these arguments would make, so that it can be skipped.

    Args:
        folder: the artifact's folder; it may be absent or damaged.
        options: the options, resolved for the task.
        checkpoint: as in `Manifest.checkpoint`; its origin, sha256 and seed are compared.
        tested: whether a test is asked for; an artifact made without one is then not current.
    """
    try:
        manifest = verify(folder)
    except ArtifactError:
        return False
    same = all(manifest.checkpoint[key] == checkpoint.get(key) for key in ("origin", "sha256", "seed"))
    return same and manifest.options == options and (manifest.test is not None or not tested)
