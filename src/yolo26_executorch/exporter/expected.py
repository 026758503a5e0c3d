"""How long exports take, judged by earlier ones: the manifests in the base path, and what has ended since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.manifest import MANIFEST
from ..artifacts.reading import load_manifest
from ..errors import ArtifactError
from ..models.options import ExportOptions
from ..models.variants import ALL_VARIANTS, SIZES

if TYPE_CHECKING:
    from typing_extensions import Self

    from .jobs import Job, Record

_PER_SIZE = 1.2
"""How many times as long the next larger size takes; see `seconds` in results/h100-80gb-tf32.json."""


@dataclass(frozen=True)
class Earlier:
    """An export that has ended well."""

    name: str
    variant: str | None
    task: str | None
    seconds: Mapping[str, float]
    """Time spent in each stage."""
    imgsz: tuple[int, int] | None


class History:
    """Earlier exports for one backend."""

    def __init__(self, earlier: Iterable[Earlier] = ()) -> None:
        self._earlier = [*earlier]

    @classmethod
    def of(cls, base_path: Path, options: ExportOptions) -> Self:
        """Read the manifests of a base path; damaged ones are passed over."""
        found = []
        for path in sorted(base_path.glob(f"*/{MANIFEST}")):
            try:
                manifest = load_manifest(path.parent)
            except ArtifactError:
                continue
            made = manifest.options
            if (made.backend, made.autotune) == (options.backend, options.autotune):
                found.append(
                    Earlier(manifest.name, manifest.variant, manifest.task, manifest.seconds, manifest.options.imgsz)
                )
        return cls(found)

    def add(self, record: Record, options: ExportOptions) -> None:
        """Take in what has just ended."""
        if record.outcome == "exported":
            name = record.name.rpartition("/")[2]
            self._earlier.append(Earlier(name, record.variant, record.task, record.seconds, options.imgsz))

    def expected(self, job: Job) -> dict[str, float]:
        """Return seconds for each of a job's stages, those of the most similar export; empty where there is none."""
        variant = job.source.variant.name if job.source.variant else None
        task = job.source.variant.task.name if job.source.variant else None

        def likeness(earlier: Earlier) -> tuple[bool, bool, bool, int]:
            return (
                (earlier.name, earlier.variant) == (job.source.name, variant),
                earlier.imgsz == job.options.imgsz,
                earlier.task == task,
                -abs(_sizes_between(earlier.variant, variant)),
            )

        stages = job.stages
        known = [earlier for earlier in self._earlier if all(stage in earlier.seconds for stage in stages)]
        if not known:
            return {}
        nearest = max(reversed(known), key=likeness)  # of equals the latest
        factor = _PER_SIZE ** _sizes_between(nearest.variant, variant)
        return {stage: nearest.seconds[stage] * factor for stage in stages}


def _sizes_between(first: str | None, second: str | None) -> int:
    """Return by how many sizes the second variant is larger; 0 where one is a checkpoint of the user's own."""
    if first is None or second is None:
        return 0
    return SIZES.index(ALL_VARIANTS[second].size) - SIZES.index(ALL_VARIANTS[first].size)
