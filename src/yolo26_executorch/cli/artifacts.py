"""What was probably meant where a command names an artifact that is not there."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError, Yolo26Error
from ..models.variants import ALL_VARIANTS


def find_artifact(given: Path, argv: Sequence[str], prog: str) -> None:
    """Say what was probably meant where a command names an artifact that is not there.

    Raises:
        UsageError: the word is a checkpoint or a variant, which must be exported first, or another folder holds an
            artifact of that name; the message holds the line to type.
    """
    from ..artifacts.manifest import MANIFEST

    word = str(given)
    if (given / MANIFEST).exists():
        return

    def line(right: str, *more: str) -> str:
        spelled = {word: right, **{f"{key}={word}": f"{key}={right}" for key in ("model", "--model", "weights")}}
        return f"`{prog} {shlex.join([*(spelled.get(one, one) for one in argv), *more])}`"

    if given.is_file() and (given.parent / MANIFEST).exists():
        raise UsageError(f"{word} is a file of an artifact; type {line(str(given.parent))}")
    if given.is_dir() and (made := sorted(path.parent for path in given.glob(f"*/{MANIFEST}"))):
        raise UsageError(f"{word} is a folder of artifacts; type {line(str(made[0]))}")

    if given.suffix == ".pt" or word in ALL_VARIANTS:
        if given.suffix == ".pt" and not given.is_file() and given.stem not in ALL_VARIANTS:
            raise UsageError(f"no such artifact or checkpoint: {word}; `{prog} export CHECKPOINT` makes an artifact")
        if made := _places_of_model(given):
            if (own := artifact_of(given)) is None:
                again = f"`{prog} export {shlex.quote(word)} --force`"
                raise UsageError(
                    f"{word} is no artifact, and {made[0]}, which has its name, was made from another file: "
                    f"type {again} to replace it, or {line(str(made[0]))} to use it"
                )
            raise UsageError(f"{word} is no artifact, and {own} was made from it: type {line(str(own))}")
        first = f"`{prog} export {shlex.quote(word)}`"
        way = f"type {line(word, '--export')}, or {first} first" if "predict" in argv[:2] else f"type {first} first"
        raise UsageError(f"{word} is to be exported before it can run: {way}")
    if not given.exists() and (made := _places_of(given.name)):
        raise UsageError(f"no artifact at {word}; did you mean {line(str(made[0]))}?")


def artifact_of(model: Path) -> Path | None:
    """Return the artifact here that was made from a checkpoint's very file or a variant's weights, or None."""
    if not (places := _places_of_model(model)):
        return None
    from ..artifacts.reading import load_manifest
    from ..exporter.existing import identity_of
    from ..models.checkpoints import Source
    from ..models.options import ExportOptions

    name = model.name.removesuffix(".pt")
    source = Source(name, None, model) if model.is_file() else Source(name, ALL_VARIANTS.get(name), None)
    identity = identity_of(source, ExportOptions(), None)
    for place in places:
        try:
            manifest = load_manifest(place)
        except Yolo26Error:
            continue  # a damaged one is none
        if not identity.differs(manifest):
            return place
    return None


def _places_of_model(model: Path) -> list[Path]:
    """Return the artifacts here that have the name that a checkpoint's or variant's would get."""
    from ..models import naming

    names = naming.names_of(model.absolute()) if model.is_file() else (model.name.removesuffix(".pt"),)
    return [place for name in names for place in _places_of(name)]


def _places_of(name: str) -> list[Path]:
    """Return the artifacts of a name in this folder and in those below it, where exports usually go first."""
    from ..artifacts.manifest import MANIFEST
    from ..exporter.request import BASE_PATH

    here = Path()
    found = [path.parent for path in (BASE_PATH / name / MANIFEST, here / name / MANIFEST) if path.exists()]
    found += sorted(path.parent for path in here.glob(f"*/{glob.escape(name)}/{MANIFEST}"))
    return list(dict.fromkeys(found))
