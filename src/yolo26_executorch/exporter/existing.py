"""What lies where an artifact is to go: whether it is current, or another checkpoint's that would be replaced."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..artifacts.current import Identity, State, Wanted
from ..artifacts.manifest import Manifest
from ..errors import UsageError, printable
from ..models import naming
from ..models.checkpoints import Source, default_weights_dir
from ..models.options import ExportOptions
from ..system.files import sha256_of
from .jobs import Job


def file_of(source: Source, options: ExportOptions, weights_dir: Path | None) -> Path | None:
    """Return the file of weights that a source will be loaded from; None where there is none on this machine."""
    if source.path is not None or source.variant is None:
        return source.path
    if options.random_weights:
        return None
    places = [folder / source.variant.checkpoint for folder in (weights_dir, default_weights_dir()) if folder]
    return next((path for path in places if path.is_file()), None)


def identity_of(source: Source, options: ExportOptions, weights_dir: Path | None) -> Identity:
    """Return what is known of a source's checkpoint; reads the whole file."""
    variant = source.variant.name if source.variant else None
    if source.path is None and options.random_weights:
        return Identity(True, seed=options.seed, variant=variant)
    path = file_of(source, options, weights_dir)
    return Identity(path is not None, sha256_of(path) if path else None, variant=variant)


def identity_in(manifest: Manifest) -> Identity:
    """Return what an artifact says of the checkpoint that it was made from."""
    return Identity(True, manifest.checkpoint.sha256, manifest.checkpoint.seed, manifest.variant)


def stale(manifest: Manifest, job: Job, identity: Identity, *, here: bool = True) -> str | None:
    """Say why an intact artifact is not what a job would make; None where it is, and can be skipped.

    Args:
        manifest: the artifact's.
        job: what is asked for.
        identity: of the job's checkpoint.
        here: whether this machine will run it; on a cluster it is not known which will.
    """
    wanted = Wanted(
        checkpoint=identity,
        options=job.options,
        tested=job.test,
        system=platform.system() if here else None,
        machine=platform.machine() if here else None,
        capabilities=job.capabilities,
        architectures=job.architectures,
    )
    state = wanted.state_of(manifest)
    return None if state is State.CURRENT else str(state.value)


def is_another_runs(source: Source, manifest: Manifest, identity: Identity) -> bool:
    """Whether a name is taken by the checkpoint of another training; one that was trained on keeps its name."""
    runs = (manifest.checkpoint.folder, naming.run_of(source.path) if source.path else None)
    return identity.differs(manifest) and runs[0] != runs[1]


def refuse_to_replace(found: Iterable[tuple[str, Manifest, Identity]]) -> None:
    """Refuse to replace artifacts that were made from other checkpoints.

    Args:
        found: for each place where something lies, in words that lead there, its manifest and the checkpoint that is
            to be exported.

    Raises:
        UsageError: one of them is another checkpoint's.
    """
    others = [(where, manifest, identity) for where, manifest, identity in found if identity.differs(manifest)]
    if not others:
        return
    where, manifest, identity = others[0]
    former = identity_in(manifest)
    file = f"{printable(manifest.checkpoint.file)}, " if manifest.checkpoint.file else ""
    more = f", and so do {_listed([one for one, *_ in others[1:]])}" if others[1:] else ""
    raise UsageError(
        f"{where} holds an artifact that was made from another checkpoint ({file}{former}; this one: {identity})"
        f"{more}; replace it with --force, or export to another folder with --name NAME"
    )


def _listed(places: Sequence[str]) -> str:
    return ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
