"""Reading an artifact that anybody may have written: its manifest, its hashes, and `Artifact`, which is opened once.

Every file's size and SHA-256 is compared with the manifest before anything is loaded, what is loaded afterwards are the
very bytes that were hashed, and nothing here ever unpickles.
"""

from __future__ import annotations

import contextlib
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import ArtifactError, IntegrityError, UsageError, first_line, printable
from ..models.variants import ALL_VARIANTS
from . import program_file
from .files import PrivateCopy, open_plain, plain_sha256, plain_size
from .manifest import LARGEST_MANIFEST, MANIFEST, PROGRAM, WEIGHTS, Manifest

if TYPE_CHECKING:
    from typing_extensions import Self


class Artifact:
    """An artifact that was opened once: its manifest, and the very bytes whose hashes were found to be right.

    The bytes are private copies. Whatever happens to the folder after `open`, an export into the same place included,
    they stay what they are. A context manager, or closed by hand; what loaded a file from its `path` may go on using it
    afterwards.

    Examples:
        >>> with Artifact.open("yolo26_cuda_exports/yolo26n") as artifact:
        ...     print(artifact.manifest.task, len(artifact.read("model.pte")) > 0, "model.pte" in artifact)
        ...     place, file = artifact.path("model.pte"), artifact.file("model.pte")
        detect True True
        >>> artifact.close()  # which the context did
    """

    folder: Path
    manifest: Manifest

    def __init__(self, folder: Path, manifest: Manifest, copies: Mapping[str, PrivateCopy]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._copies = copies

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Read a folder's files, once, and check them against its manifest.

        Raises:
            ArtifactError: the folder or its manifest is missing or damaged.
            IntegrityError: a file is missing, unknown, a link, or differs in size or SHA-256.
        """
        copies: dict[str, PrivateCopy] = {}
        with contextlib.ExitStack() as stack:

            def copy(path: Path, directory: int) -> str:
                with open_plain(path, directory) as file:
                    copies[path.name] = PrivateCopy(file)
                stack.callback(copies[path.name].close)
                return copies[path.name].sha256

            manifest = _verified(Path(folder), copy)
            stack.pop_all()
        return cls(Path(folder), manifest, copies)

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return self._copies[name].read()

    def path(self, name: str) -> str:
        """Return where this process can open a file's verified bytes, until `close`."""
        return self._copies[name].path

    def file(self, name: str) -> VerifiedFile:
        """Return a file as what only reads it wants it."""
        return VerifiedFile(self, name)

    def close(self) -> None:
        """Give the copies back."""
        for copy in self._copies.values():
            copy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class VerifiedFile:
    """One file of an opened artifact, read like a `Path`; as text it is where the file lay."""

    artifact: Artifact
    name: str

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return Path(self.name).suffix

    def read_bytes(self) -> bytes:
        """Return the verified bytes."""
        return self.artifact.read(self.name)

    def __str__(self) -> str:
        return str(self.artifact.folder / self.name)


@contextlib.contextmanager
def opened(artifact: Artifact | Path | str) -> Iterator[Artifact]:
    """Open a folder for the length of a context; an artifact that is open already is passed on and stays open.

    Raises:
        ArtifactError: as `Artifact.open`.
    """
    if isinstance(artifact, Artifact):
        yield artifact
        return
    with Artifact.open(artifact) as own:
        yield own


def load_manifest(folder: Path | str) -> Manifest:
    """Return what an artifact says of itself; its other files are not looked at (`verify` does that).

    Raises:
        ArtifactError: no such folder, or its manifest is missing or damaged.

    Examples:
        >>> load_manifest("yolo26_cuda_exports/yolo26n").classes[0]
        '...'
    """
    with _directory(Path(folder)) as directory:
        return _manifest(Path(folder), directory)


def verify(folder: Path | str) -> Manifest:
    """Return the manifest of an artifact whose files are all there, whole and unchanged.

    Names first, then all sizes, then all SHA-256: a truncated file is found before any is read. Hidden entries
    (`.DS_Store`, `.cache`, …) are passed over, since no program of ours writes or opens them; any other file that the
    manifest does not name is refused. Who goes on to use the files opens them with `Artifact.open` instead.

    Raises:
        ArtifactError: the folder or its manifest is missing or damaged.
        IntegrityError: a file is missing, unknown, a link, or differs in size or SHA-256.

    Examples:
        >>> sorted(verify("yolo26_cuda_exports/yolo26n").files)
        ['README.md', 'model.pte']
    """
    return _verified(Path(folder), plain_sha256)


@dataclass(frozen=True)
class Checked:
    """One folder of a tree, and whether it is a whole artifact."""

    folder: Path
    manifest: Manifest | None
    """None where it cannot be read."""
    problem: str | None
    """What is wrong with it, in one line."""


def check_tree(base_path: Path) -> list[Checked]:
    """Verify every artifact in a tree, as `verify` does; nothing of them is loaded. Hidden folders are passed over.

    Raises:
        UsageError: no such folder.
    """
    if not base_path.is_dir():
        raise UsageError(f"{base_path}: expected a folder of artifacts; `yolo26-et export --base-path` makes one")
    found = []

    def unreadable(error: OSError) -> None:
        found.append(Checked(Path(error.filename), None, f"it cannot be read: {first_line(error)}"))

    for folder, inner, files in os.walk(base_path, onerror=unreadable):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if {PROGRAM, WEIGHTS, MANIFEST} & set(files):
            found.append(_checked(Path(folder)))
    return found


@dataclass(frozen=True)
class Contents:
    """What is inside an artifact's files."""

    methods: tuple[program_file.Method, ...]
    program_data: dict[str, int]
    """Named data inside the program → bytes."""
    weights_data: dict[str, int]
    """Named data in the file of weights → bytes."""


def contents(artifact: Artifact | Path | str) -> Contents:
    """Look inside an artifact's files, once they were found intact; nothing of them is run.

    Raises:
        ArtifactError: the folder is no intact artifact, or ExecuTorch's readers cannot make sense of a file.
    """
    with opened(artifact) as held, program_file.LittleMemory(held.folder):

        def sizes(name: str) -> dict[str, int]:
            return {key: len(data) for key, data in program_file.read_named_data(held.file(name)).items()}

        return Contents(
            methods=program_file.read_methods(held.file(PROGRAM)),
            program_data=sizes(PROGRAM),
            weights_data=sizes(WEIGHTS) if WEIGHTS in held else {},
        )


def _checked(folder: Path) -> Checked:
    manifest, problem = None, None
    try:
        with _directory(folder) as directory:
            manifest = _manifest(folder, directory)
            _check_files(folder, directory, manifest, plain_sha256)
    except ArtifactError as error:
        problem = printable(str(error))
    return Checked(folder, manifest, problem)


@contextlib.contextmanager
def _directory(folder: Path) -> Iterator[int]:
    """Open a folder, so that all that is read comes from one, whatever takes its place meanwhile."""
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_artifact(folder) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} cannot be read: {first_line(error)}") from error
    try:
        yield directory
    finally:
        os.close(directory)


def _no_artifact(folder: Path) -> ArtifactError:
    if folder.suffix == ".pt" or str(folder) in ALL_VARIANTS:
        return ArtifactError(
            f"{folder} is to be exported before it can run: `yolo26-et export {folder}`, or in Python "
            f'export("{folder}"), which returns the folder of the artifact'
        )
    if (folder.parent / MANIFEST).exists():
        return ArtifactError(f"{folder} is a file of an artifact; give its folder, {folder.parent}")
    inside = sorted(str(found.parent) for found in folder.glob(f"*/{MANIFEST}"))[:3]
    hint = f"did you mean {' or '.join(inside)}?" if inside else "`yolo26-et export` makes one"
    return ArtifactError(f"no artifact at {folder}: it has no {MANIFEST}; {hint}")


def _manifest(folder: Path, directory: int) -> Manifest:
    path = folder / MANIFEST
    try:
        if (size := plain_size(path, directory)) > LARGEST_MANIFEST:
            raise ArtifactError(f"it has {size} bytes, and an export writes at most {LARGEST_MANIFEST}")
        with open_plain(path, directory) as file:
            return Manifest.decode(file.read(LARGEST_MANIFEST))
    except FileNotFoundError:
        raise _no_artifact(folder) from None
    except (ArtifactError, OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {first_line(error)}; copy or export it again") from error


def _verified(folder: Path, digest_of: Callable[[Path, int], str]) -> Manifest:
    with _directory(folder) as directory:
        manifest = _manifest(folder, directory)
        _check_files(folder, directory, manifest, digest_of)
    return manifest


def _check_files(folder: Path, directory: int, manifest: Manifest, digest_of: Callable[[Path, int], str]) -> None:
    """Compare a folder's files with its manifest; each is read once, by `digest_of`, which returns its SHA-256."""
    try:
        found = {name for name in os.listdir(directory) if not name.startswith(".")} - {MANIFEST}
        if missing := sorted(manifest.files.keys() - found):
            raise IntegrityError(f"{folder} lacks {', '.join(missing)}; export it again")
        if unknown := sorted(found - manifest.files.keys()):
            names = ", ".join(map(reprlib.repr, unknown[:5]))
            raise IntegrityError(f"{folder} holds {names}, which its manifest does not name; move it elsewhere")
        for name, record in manifest.files.items():
            if (size := plain_size(folder / name, directory)) != record.bytes:
                raise IntegrityError(
                    f"{folder / name} has {size} bytes, its manifest says {record.bytes}; copy or export it again"
                )
        for name, record in manifest.files.items():
            if (digest := digest_of(folder / name, directory)) != record.sha256:
                raise IntegrityError(
                    f"{folder / name} was changed: its SHA-256 is {digest}, its manifest says {record.sha256}; "
                    "copy or export it again"
                )
    except OSError as error:
        raise IntegrityError(f"{folder} cannot be read: {first_line(error)}") from error
