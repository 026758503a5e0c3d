"""Whether an artifact is already what an export would make: asked by every exporter."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArtifactError, OptionError
from ..models.options import ExportOptions
from ..models.tasks import TASKS
from ..models.variants import ALL_VARIANTS
from .manifest import Manifest, Platform
from .reading import verify


class State(enum.Enum):
    """How an artifact compares with what is to be exported."""

    CURRENT = "current"
    OTHER_CHECKPOINT = "made from another checkpoint"
    OTHER_OPTIONS = "made with other options"
    UNTESTED = "exported without a test"
    UNFIT = "for other machines"


@dataclass(frozen=True)
class Identity:
    """What tells one checkpoint from another, as far as it is known before it is loaded."""

    known: bool
    """False for published weights that are still to be downloaded."""
    sha256: str | None = None
    seed: int | None = None
    """Of random weights."""
    variant: str | None = None
    """The published variant; None for a checkpoint of the user's own."""

    def __str__(self) -> str:
        if not self.known:
            return "the published weights"
        return f"random weights of seed {self.seed}" if self.sha256 is None else f"SHA-256 {self.sha256[:12]}…"

    def differs(self, manifest: Manifest) -> bool:
        """Whether an artifact was surely made from another checkpoint."""
        made_of = manifest.checkpoint
        if not self.known:
            return (made_of.origin, manifest.variant) != ("published", self.variant)
        if self.sha256 is None:
            return (made_of.origin, made_of.seed, manifest.variant) != ("random", self.seed, self.variant)
        return made_of.sha256 != self.sha256


@dataclass(frozen=True)
class Wanted:
    """What an export would make."""

    checkpoint: Identity
    options: ExportOptions
    """The size need not be settled for the task yet."""
    tested: bool
    """Whether a test is asked for; an artifact that was exported without one is then not current."""
    system: str | None = None
    """`platform.system()` of the machine that will run it; None: not compared."""
    machine: str | None = None
    """`platform.machine()` of that machine; None: not compared."""
    capabilities: Sequence[str] = ()
    """Compute capabilities of that machine's GPUs, such as "9.0": fit is what runs on one of them; none: not
    compared."""
    architectures: Sequence[str] = ()
    """Compute capabilities that were asked for by name: fit is what runs on every one of them."""

    def state_of(self, manifest: Manifest) -> State:
        """Compare an artifact with it."""
        if self.checkpoint.differs(manifest):
            return State.OTHER_CHECKPOINT
        try:
            variant = ALL_VARIANTS.get(self.checkpoint.variant or "")
            options = self.options.resolve(TASKS[manifest.task], native=variant.native if variant else None)
        except OptionError:
            return State.OTHER_OPTIONS
        if (manifest.options, manifest.variant) != (options, self.checkpoint.variant):
            return State.OTHER_OPTIONS
        if not self._fits(manifest.platform, manifest.backend):
            return State.UNFIT
        if self.tested and manifest.test is None:
            return State.UNTESTED
        return State.CURRENT

    def find(self, folder: Path) -> Manifest | None:
        """Return the manifest of the artifact in a folder if it is intact and current."""
        try:
            manifest = verify(folder)
        except ArtifactError:
            return None
        return manifest if self.state_of(manifest) is State.CURRENT else None

    def _fits(self, platform: Platform, backend: str) -> bool:
        for made_for, wanted in ((platform.system, self.system), (platform.machine, self.machine)):
            if wanted is not None and made_for not in ("any", wanted):
                return False
        if backend != "cuda":
            return True
        here, named = ([_numbers(name) for name in names] for names in (self.capabilities, self.architectures))
        return (not here or any(map(platform.runs_on, here))) and all(map(platform.runs_on, named))


def _numbers(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)
