"""Where a cluster's artifacts go: a folder of this machine, or any place that fsspec can write to.

A place in a store is named `NAME`, or `ARCHITECTURE/NAME` where each GPU architecture has artifacts of its own.
"""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...artifacts.locks import locked
from ...artifacts.manifest import MANIFEST, Manifest
from ...artifacts.reading import load_manifest, verify
from ...artifacts.writing import Draft, prepare_base_path, remove_abandoned
from ...errors import ArtifactError, UsageError, first_line
from ..child_process import LOGS

Files = Mapping[str, NDArray[np.uint8]]
"""An artifact's files, the manifest among them: name → bytes (n,)."""


class Store(Protocol):
    """Where artifacts go."""

    def where(self, place: str) -> str:
        """Return a place in words that lead there."""
        ...

    def prepare(self, places: Iterable[str]) -> None:
        """Make sure, before any work, that artifacts can be written to places; raises UsageError."""
        ...

    def hold(self, place: str) -> AbstractContextManager[None]:
        """Keep other exports from a place, as far as the store can; raises BusyError where one has it."""
        ...

    def manifest(self, place: str) -> Manifest | None:
        """Return the manifest in a place, None where there is none that can be read."""
        ...

    def there(self, place: str) -> Manifest | None:
        """Return the manifest of the whole artifact in a place, None where there is none."""
        ...

    def publish(self, place: str, files: Files) -> Manifest:
        """Put an artifact in its place once its files are found to be those of its manifest; raises ArtifactError."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write a file that is no artifact's; raises OSError."""
        ...


def open_store(base_path: Path | str) -> Store:
    """Return the store of a base path: a folder, or a URL with "://"; raises UsageError where fsspec knows no such."""
    return Bucket(base_path) if isinstance(base_path, str) else Folder(base_path)


class Folder:
    """A folder of this machine: atomic, locked, and every byte verified, as exports of one machine are."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def where(self, place: str) -> str:
        """Return the folder."""
        return str(self._base / place)

    def prepare(self, places: Iterable[str]) -> None:
        """Make the folders, and clean up what killed exports left; raises UsageError."""
        names: dict[Path, list[str]] = {}
        for path in map(self._base.joinpath, places):
            names.setdefault(path.parent, []).append(path.name)
        for folder in names:
            prepare_base_path(folder, names[folder])
            remove_abandoned(folder)

    def hold(self, place: str) -> AbstractContextManager[None]:
        """Hold the place's lock."""
        path = self._base / place
        return locked(path.parent, path.name, waiting=None)

    def manifest(self, place: str) -> Manifest | None:
        """Read it."""
        try:
            return load_manifest(self._base / place)
        except ArtifactError:
            return None

    def there(self, place: str) -> Manifest | None:
        """Verify what is there."""
        try:
            return verify(self._base / place)
        except ArtifactError:
            return None

    def publish(self, place: str, files: Files) -> Manifest:
        """Write the files aside, verify them, and rename them into place."""
        path = self._base / place
        with Draft(path.parent, path.name) as draft:
            for name, data in files.items():
                if Path(name).name != name:
                    raise ArtifactError(f"{place}: a file named {name!r} came from the cluster")
                data.tofile(draft.folder / name)
            manifest = verify(draft.folder)
            draft.commit(manifest)
        return manifest

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        (self._base / path).parent.mkdir(parents=True, exist_ok=True)
        (self._base / path).write_bytes(data)


class Bucket:
    """A place that fsspec can write to, such as s3://bucket/folder.

    Object stores have neither renames nor locks. The former manifest goes first and the new one comes last, so that a
    place without a manifest is unfinished; whoever exports to one place from two machines gets the later's artifact, or
    one that `verify` refuses.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self._url = url
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UsageError(f"--base-path {url}: {first_line(error)}") from error
        self._root: str = root.rstrip("/")

    def where(self, place: str) -> str:
        """Return the URL."""
        return f"{self._url.rstrip('/')}/{place}"

    def prepare(self, places: Iterable[str]) -> None:
        """Write and remove a small file; only trying tells. Raises UsageError."""
        try:
            self.write(".yolo26-et", b"")
            self._files.rm_file(self._path(".yolo26-et"))
        except Exception as error:  # each implementation has classes of its own: credentials, network, …
            raise UsageError(f"--base-path {self._url}: cannot be written to ({first_line(error)})") from error

    def hold(self, place: str) -> AbstractContextManager[None]:
        """Do nothing: there are no locks."""
        return contextlib.nullcontext()

    def manifest(self, place: str) -> Manifest | None:
        """Download it."""
        try:
            return Manifest.decode(self._files.cat_file(self._path(place, MANIFEST)))
        except (ArtifactError, OSError, ValueError, RecursionError):
            return None

    def there(self, place: str) -> Manifest | None:
        """Compare the files' sizes with the manifest; their hashes would take a download."""
        if (manifest := self.manifest(place)) is None:
            return None
        try:
            sizes = {name: self._files.size(self._path(place, name)) for name in manifest.files}
        except OSError:
            return None
        return manifest if sizes == {name: record.bytes for name, record in manifest.files.items()} else None

    def publish(self, place: str, files: Files) -> Manifest:
        """Verify the files in a folder of this machine, then upload them, the manifest last."""
        with tempfile.TemporaryDirectory(prefix="yolo26-et-") as private:
            folder = Path(private)
            manifest = Folder(folder).publish(place, files)
            try:
                self._files.makedirs(self._path(place), exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(self._path(place, MANIFEST))
                for name in (*manifest.files, MANIFEST):
                    self._files.put_file(str(folder / place / name), self._path(place, name))
            except Exception as error:  # as in `prepare`
                raise ArtifactError(f"{self.where(place)} cannot be written ({first_line(error)})") from error
        if self.there(place) != manifest:
            raise ArtifactError(f"{self.where(place)} does not hold what was written there; export it again")
        return manifest

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        target = self._path(path)
        self._files.makedirs(posixpath.dirname(target), exist_ok=True)
        self._files.pipe_file(target, data)

    def _path(self, *names: Any) -> str:
        return posixpath.join(self._root, *names)


def log_of(place: str) -> str:
    """Return the path of a place's log in its store."""
    folder, _, name = place.rpartition("/")
    return posixpath.join(folder, LOGS, f"{name}.log")
