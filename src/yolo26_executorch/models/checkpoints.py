"""Find and download the weights of what is to be exported; `loading` reads them, `random_weights` makes others."""

from __future__ import annotations

import difflib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from msgspec import Meta

from ..errors import CheckpointError, DownloadError, first_line, printable
from ..system.files import sha256_of
from . import naming
from .loading import Network, load_network, message_of, silence_ultralytics
from .open_vocabulary import encode_words
from .options import ExportOptions
from .random_weights import random_network
from .variants import ALL_VARIANTS, Variant, find_variants

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Where one model's weights come from: a published variant, or a checkpoint file of the user's own."""

    name: str
    """The artifact's folder; see `naming`."""
    variant: Variant | None
    path: Path | None
    """The user's own checkpoint; None for a published variant."""

    def to_json(self) -> dict[str, str | None]:
        """Return plain data for a worker process."""
        return {
            "name": self.name,
            "variant": self.variant.name if self.variant else None,
            "path": str(self.path) if self.path else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Source:
        """Read back what `to_json` wrote."""
        return cls(
            data["name"],
            ALL_VARIANTS[data["variant"]] if data["variant"] else None,
            Path(data["path"]) if data["path"] else None,
        )


@dataclass(frozen=True)
class CheckpointRecord:
    """Which checkpoint an artifact was made from, for its manifest."""

    origin: str
    """"published", "user" or "random"."""
    file: str | None
    """The file's name."""
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")] | None
    """Of the file; None for random weights."""
    seed: int | None
    """Of random weights."""
    folder: str | None = None
    """The last folders of the path that a user's own file was loaded from."""


@dataclass(frozen=True)
class Checkpoint(Network):
    """A loaded network, with where it came from."""

    origin: str
    """'published', 'user' or 'random'."""
    file: str | None
    sha256: str | None
    seed: int | None


def find_sources(models: Sequence[str], *, published: bool = False) -> list[Source]:
    """Turn names, wildcards and paths of `.pt` files into sources, each once, in the order given.

    Args:
        models: the names, wildcards and paths.
        published: whether a wildcard leaves out what has no published weights.

    Raises:
        UnknownVariantError: a name fits nothing.
        CheckpointError: a path leads to no file, or to a file that is no readable checkpoint.
        UsageError: two of them would be written to the same folder.
    """
    sources: list[Source] = []
    for word in models:
        path = Path(word).expanduser()
        if word.removesuffix(".pt") in ALL_VARIANTS and not path.is_file():
            word = word.removesuffix(".pt")  # what Ultralytics users type for the published weights
        if word.endswith(".pt") or os.sep in word:
            check_archive(path)
            # Links are not followed: their own names are what people gave them.
            path = Path(os.path.abspath(path))  # noqa: PTH100
            sources.append(Source(naming.names_of(path)[0], None, path))
        else:
            sources.extend(
                Source(variant.name, variant, None) for variant in find_variants([word], published=published)
            )
    return naming.tell_apart(sources)


def check_archive(path: Path) -> None:
    """Refuse a file that cannot be a PyTorch checkpoint, without unpickling anything.

    Raises:
        CheckpointError: no such file, not a PyTorch zip archive, or an entry fails its CRC-32.
    """
    if (best := path / "weights" / "best.pt").is_file():
        raise CheckpointError(f"{path} is a training's folder; did you mean {best}?")
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.pt")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=3)
        raise CheckpointError(
            f"no such checkpoint file: {path}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    problem = None
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                problem = "it is a zip file without a PyTorch checkpoint inside"
            elif damaged := archive.testzip():
                problem = f"its entry {printable(damaged)} fails its checksum"
    except Exception as error:  # zipfile lets those of the decompressors and of broken Unicode through, too
        problem = f"it is truncated, corrupt or no PyTorch checkpoint ({first_line(error)[:80].rstrip('.')})"
    if problem:
        raise CheckpointError(f"{path} cannot be read: {problem}; copy or download the file again")


def load(
    source: Source,
    *,
    weights_dir: Path | None,
    random: bool,
    seed: int,
    trusted: bool = False,
    words: Sequence[str] = (),
) -> Checkpoint:
    """Return a source's network.

    Args:
        source: what to load.
        weights_dir: folder to look in first and to download to; None is Ultralytics' own weights folder.
        random: build the architecture with seeded weights instead, for published variants.
        seed: the seed of random weights.
        trusted: allow a user's checkpoint to name classes outside Ultralytics' and PyTorch's own. Unpickling those
            runs whatever code the file's author chose.
        words: the classes of an open-vocabulary model.

    Raises:
        CheckpointError: the file is damaged, refused by the safe loader, or holds no YOLO26 model; or it wants words
            for classes, or takes none.
        DownloadError: a published variant's weights were not found and could not be downloaded.
    """
    silence_ultralytics()
    if source.path is not None:
        return _load_file(source.path, "user", trusted, words, weights_dir)
    if source.variant is None:
        raise CheckpointError(f"{source.name} is no variant and no checkpoint file")
    if random:
        return _with_origin(random_network(source.variant, seed, words), "random", None, None, seed)
    return _load_file(find_weights(source.variant, weights_dir), "published", False, words, weights_dir)


class Exported(Protocol):
    """What of an artifact's manifest says which checkpoint it was made from."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def variant(self) -> str | None: ...  # noqa: D102
    @property
    def checkpoint(self) -> CheckpointRecord: ...  # noqa: D102
    @property
    def options(self) -> ExportOptions: ...  # noqa: D102


def find_checkpoint(
    artifact: Exported, checkpoint: Path | None = None, weights_dir: Path | None = None, trusted: bool = False
) -> Checkpoint:
    """Return the very checkpoint that an artifact was made from, loaded: what the artifact is compared with.

    The manifest has the file's name and SHA-256, and only a file of that hash will do. Nothing is downloaded. Random
    weights are made again from their seed.

    Args:
        artifact: the artifact's manifest.
        checkpoint: the file, whatever its name; None looks for the manifest's name in `weights_dir`, the current
            folder and Ultralytics' own weights folder.
        weights_dir: a folder to look in first.
        trusted: see `load`.

    Raises:
        CheckpointError: no such file, or none of that hash; or the file is damaged or refused by the safe loader.
    """
    silence_ultralytics()
    file, sha256 = artifact.checkpoint.file, artifact.checkpoint.sha256
    if sha256 is None:
        if checkpoint is not None:
            raise CheckpointError(
                f"{artifact.name} has random weights (seed {artifact.checkpoint.seed}) and was made from no file; "
                "leave --checkpoint out"
            )
        assert artifact.checkpoint.seed is not None  # the manifest is checked
        source = Source(artifact.name, ALL_VARIANTS.get(artifact.variant or ""), None)
        return load(source, weights_dir=None, random=True, seed=artifact.checkpoint.seed, words=artifact.options.words)
    if checkpoint is not None:
        check_archive(checkpoint)
        places = [checkpoint]
    else:
        # The manifest may be anybody's: its file's name must not lead out of these folders.
        folders = dict.fromkeys(filter(None, (weights_dir, Path(), default_weights_dir())))
        places = [folder / Path(file).name for folder in folders if file]
    there = [place for place in places if place.is_file()]
    found = next((place for place in there if sha256_of(place) == sha256), None)
    if found is None:
        looked = ", ".join(str(place.parent.absolute()) for place in places)
        state = f"{', '.join(map(str, there))} has another SHA-256" if there else f"no such file in {looked}"
        raise CheckpointError(
            f"{artifact.name} was made from {file} with SHA-256 {sha256[:12]}…, and {state}; name the file with "
            "--checkpoint FILE or its folder with --weights-dir DIR"
        )
    return _load_file(found, artifact.checkpoint.origin, trusted, artifact.options.words, weights_dir)


def default_weights_dir() -> Path:
    """Return Ultralytics' own weights folder."""
    from ultralytics.utils import SETTINGS

    return Path(SETTINGS["weights_dir"])


def find_weights(variant: Variant, weights_dir: Path | None) -> Path:
    """Return a published variant's checkpoint, downloading it to `weights_dir` where it is not there yet.

    Raises:
        CheckpointError: there are no published weights, and no such file.
        DownloadError: naming the file, the folder it was looked for in, and how to put it there.
    """
    if not variant.weights.published and not any((d / variant.checkpoint).is_file() for d in _folders(weights_dir)):
        raise CheckpointError(
            f"Ultralytics publishes no weights of {variant.name}; train {variant.config} and export the checkpoint, or "
            "try --random-weights"
        )
    return find_asset(variant.checkpoint, weights_dir, check_archive)


def _folders(weights_dir: Path | None) -> tuple[Path, ...]:
    return (weights_dir or default_weights_dir(), default_weights_dir())


def find_asset(file: str, weights_dir: Path | None, check: Callable[[Path], object] = lambda path: None) -> Path:
    """Return a file that Ultralytics publishes, downloading it to `weights_dir` where it is not there yet.

    Args:
        file: its name.
        weights_dir: folder to look in first and to download to; None is Ultralytics' own weights folder.
        check: raises where the downloaded file is damaged.

    Raises:
        DownloadError: naming the file, the folder it was looked for in, and how to put it there.
    """
    folder, _ = folders = _folders(weights_dir)
    for known in folders:
        if (known / file).is_file():
            return known / file
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Elsewhere first, so that a cut connection leaves no half file under the real name.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as private:
            got = Path(attempt_download_asset(Path(private) / file, retry=1))
            check(got)
            return got.replace(folder / file)
    except Exception as error:
        raise DownloadError(
            f"{file} is not in {folder} and could not be downloaded ({message_of(error)}); put the file "
            f"there by hand, name its folder with --weights-dir, or try --random-weights"
        ) from error


def _load_file(
    path: Path, origin: str, trusted: bool, words: Sequence[str] = (), weights_dir: Path | None = None
) -> Checkpoint:
    check_archive(path)
    sha256 = sha256_of(path)

    def encode(words: Sequence[str], encoder: str) -> Tensor:
        return encode_words(words, encoder, lambda file: find_asset(file, weights_dir))

    loaded = load_network(path, published=origin == "published", trusted=trusted, words=words, encode=encode)
    return _with_origin(loaded, origin, path.name, sha256, None)


def _with_origin(loaded: Network, origin: str, file: str | None, sha256: str | None, seed: int | None) -> Checkpoint:
    return Checkpoint(loaded.network, loaded.task, loaded.names, loaded.keypoint_shape, origin, file, sha256, seed)
