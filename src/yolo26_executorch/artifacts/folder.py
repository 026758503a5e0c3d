"""A finished export on disk: one folder, its manifest, and the rules for writing and trusting it.

    NAME/model.pte             the ExecuTorch program
    NAME/aoti_cuda_blob.ptd    its weights (CUDA only)
    NAME/README.md             the model card
    NAME/manifest.json         what all of it is; written last

A folder is complete or absent. `Draft` builds it in a private folder beside its place and renames it, so that a crash,
a full disk or a kill at any point leaves the former artifact or none. Reading goes the other way: `verify` compares
every file's size and SHA-256 with the manifest before anything is loaded, and nothing here ever unpickles.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import reprlib
import shutil
import socket
import stat
import tempfile
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, BusyError, CompatibilityError, IntegrityError, UsageError, first_line, printable
from ..models.options import ExportOptions
from ..system.files import sha256_of
from . import program_file
from .locks import locked
from .manifest import CARD, LARGEST_MANIFEST, MANIFEST, PLAIN_NAME, PROGRAM, WEIGHTS, FileRecord, Manifest, Platform

if TYPE_CHECKING:
    from typing_extensions import Self


def load_manifest(folder: Path) -> Manifest:
    """Return what an artifact says of itself; its other files are not looked at (`verify` does that).

    Raises:
        ArtifactError: no such folder, or its manifest is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        if (size := _file_size(path)) > LARGEST_MANIFEST:
            raise ArtifactError(f"it has {size} bytes, and an export writes at most {LARGEST_MANIFEST}")
        return Manifest.from_json(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = sorted(str(found.parent) for found in folder.glob(f"*/{MANIFEST}"))[:3]
        hint = f"did you mean {' or '.join(inside)}?" if inside else "`yolo26-et export` makes one"
        raise ArtifactError(f"no artifact at {folder}: it has no {MANIFEST}; {hint}") from error
    except (ArtifactError, OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {first_line(error)}; copy or export it again") from error


def verify(folder: Path) -> Manifest:
    """Return the manifest of an artifact whose files are all there, whole and unchanged.

    Names first, then all sizes, then all SHA-256: a truncated file is found before any is read. Hidden entries
    (`.DS_Store`, `.cache`, …) are passed over, since no program of ours writes or opens them; any other file that the
    manifest does not name is refused.

    Raises:
        ArtifactError: the folder or its manifest is missing or damaged.
        IntegrityError: a file is missing, unknown, a link, or differs in size or SHA-256.
    """
    manifest = load_manifest(folder)
    try:
        found = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} - {MANIFEST}
        if missing := sorted(manifest.files.keys() - found):
            raise IntegrityError(f"{folder} lacks {', '.join(missing)}; export it again")
        if unknown := sorted(found - manifest.files.keys()):
            names = ", ".join(map(reprlib.repr, unknown[:5]))
            raise IntegrityError(f"{folder} holds {names}, which its manifest does not name; move it elsewhere")
        for name, record in manifest.files.items():
            if (size := _file_size(folder / name)) != record.bytes:
                raise IntegrityError(
                    f"{folder / name} has {size} bytes, its manifest says {record.bytes}; copy or export it again"
                )
        for name, record in manifest.files.items():
            if (digest := _sha256(folder / name)) != record.sha256:
                raise IntegrityError(
                    f"{folder / name} was changed: its SHA-256 is {digest}, its manifest says {record.sha256}; "
                    "copy or export it again"
                )
    except OSError as error:
        raise IntegrityError(f"{folder} cannot be read: {first_line(error)}") from error
    return manifest


@contextlib.contextmanager
def intact(folder: Path) -> Iterator[Manifest]:
    """Verify an artifact, and make sure that what was read of it inside the context is what was verified.

    Raises:
        ArtifactError: as `verify`.
        IntegrityError: at the end, where a file was written or exchanged in the meantime, as by an export to the same
            place; what was read may be of two artifacts.
    """
    before = _stamps(folder)
    yield verify(folder)
    if _stamps(folder) != before:
        raise IntegrityError(f"{folder} was changed while it was being read; try again")


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


def check_platform(manifest: Manifest, *, system: str, machine: str, capability: tuple[int, int] | None) -> None:
    """Refuse an artifact that cannot run on a machine, before it is loaded.

    Args:
        manifest: the artifact's.
        system: `platform.system()` of the machine.
        machine: `platform.machine()` of the machine.
        capability: compute capability (major, minor) of its GPU; None without one.

    Raises:
        CompatibilityError: naming what the artifact is for and what the machine is.
    """
    platform = manifest.platform
    wanted, here = (platform.system, platform.machine), (system, machine)
    if any(want not in ("any", have) for want, have in zip(wanted, here, strict=True)):
        raise CompatibilityError(
            f"{manifest.name} holds native code for {' '.join(wanted)}; this machine is {' '.join(here)}: "
            f"{_export_again(manifest)}"
        )
    if manifest.backend != "cuda":
        return
    compiled = f"{manifest.name} was compiled for compute capability {_capabilities(platform)}"
    if capability is None:
        raise CompatibilityError(
            f"{compiled}, and no CUDA GPU is seen here: `yolo26-et doctor` says why, and --backend xnnpack exports "
            "for the CPU"
        )
    if not platform.runs_on(capability):
        raise CompatibilityError(f"{compiled}; this GPU is {capability[0]}.{capability[1]}: {_export_again(manifest)}")


def prepare_base_path(path: Path, names: Iterable[str] = ()) -> None:
    """Make sure, before any work, that artifacts can be written to a folder.

    The folder is created where it is not there. Nothing of the user's own is ever replaced: a place that is taken by
    something other than an artifact is refused.

    Raises:
        UsageError: `path` is no folder that can be written to, or a name's place is taken.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Only trying tells: permissions, read-only mounts and quotas all show here.
        with tempfile.TemporaryFile(dir=path):
            pass
        for name in names:
            _check_place(path / name)
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else first_line(error)
        raise UsageError(
            f"--base-path {path}: cannot be written to ({why}); name a folder of your own, such as "
            "--base-path ~/yolo26_exports"
        ) from error


def remove_abandoned(base_path: Path) -> list[str]:
    """Remove drafts and locks that killed exports have left in a base path, on whatever machine; returns their names.

    A draft whose name nobody has locked is nobody's.
    """
    removed: dict[str, None] = {}
    for path in sorted(base_path.glob(".*")):
        match = re.fullmatch(r"\.(.+)\.(lock|tmp-[A-Za-z0-9._]+-\d+-\w+)", path.name)
        if match and PLAIN_NAME.fullmatch(match[1]) and not path.is_symlink():
            with contextlib.suppress(BusyError), locked(base_path, match[1], waiting=None):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                removed[match[1]] = None  # `locked` removes its own file
    return list(removed)


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
        if not {PROGRAM, WEIGHTS, MANIFEST} & set(files):
            continue
        manifest, problem = None, None
        try:
            manifest = load_manifest(Path(folder))
            verify(Path(folder))
        except ArtifactError as error:
            problem = printable(str(error))
        found.append(Checked(Path(folder), manifest, problem))
    return found


class Draft:
    """An artifact in the making: `with Draft(base_path, "yolo26n") as draft`, write into `draft.folder`, then `commit`.

    The folder lies in a private one (mode 0700) inside `base_path`, on the same file system as its place. Leaving the
    context without `commit` removes it; what a killed process left is removed by the next draft of that name.
    """

    folder: Path

    def __init__(self, base_path: Path, name: str) -> None:
        self.base_path = base_path
        self.name = name

    def __enter__(self) -> Self:
        """Make the folder; raises UsageError as `prepare_base_path` does."""
        if not PLAIN_NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} cannot be an artifact's name; use letters, digits, '.', '_' and '-'")
        prepare_base_path(self.base_path, [self.name])
        owner = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
        self._remove_abandoned(owner)
        prefix = f".{self.name}.tmp-{owner}-{os.getpid()}-"
        try:
            self._private = Path(tempfile.mkdtemp(prefix=prefix, dir=self.base_path))
            # The folder that gets published is one below, so that it has the mode of any folder made here.
            self.folder = self._private / self.name
            self.folder.mkdir()
        except OSError as error:
            raise UsageError(f"--base-path {self.base_path}: cannot be written to ({first_line(error)})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        """Remove what was not published; a full disk becomes an ArtifactError."""
        shutil.rmtree(self._private, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise self._unwritable(error) from error

    def records(self) -> dict[str, FileRecord]:
        """Return size and SHA-256 of every file written so far; raises IntegrityError for what is no plain file."""
        paths = sorted(path for path in self.folder.iterdir() if path.name != MANIFEST)
        return {path.name: FileRecord(_sha256(path), _file_size(path)) for path in paths}

    def seal(self, manifest: Manifest) -> Manifest:
        """Write the manifest of the files as they are, so that the folder can be verified and tested before `commit`.

        Returns the manifest with its `files` filled in.

        Raises:
            ArtifactError: it cannot be written (disk full, …), or could not be read back.
        """
        try:
            sealed = replace(manifest, files=self.records())
            data = sealed.to_json()
            Manifest.from_json(data)
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        except ArtifactError as error:
            raise ArtifactError(f"{self.name} cannot be written: {error}") from error
        return sealed

    def commit(self, manifest: Manifest, card: str | None = None) -> Path:
        """Publish the folder and return its place; a former artifact there is replaced in one step.

        Args:
            manifest: its `files` are filled in here.
            card: the text of README.md.

        Raises:
            ArtifactError: as `seal`.
            UsageError: its place was meanwhile taken by something that is no artifact.
        """
        target = self.base_path / self.name
        try:
            if card is not None:
                (self.folder / CARD).write_text(card, encoding="utf-8")
            for name in (*self.seal(manifest).files, MANIFEST, "."):
                _sync(self.folder / name)
            _check_place(target)
            _put_in_place(self.folder, target)
            _sync(self.base_path)
        except OSError as error:
            raise self._unwritable(error) from error
        return target

    def _unwritable(self, error: OSError) -> ArtifactError:
        return ArtifactError(
            f"{self.base_path / self.name} cannot be written ({first_line(error)}); make room or name another "
            "--base-path, and export it again"
        )

    def _remove_abandoned(self, owner: str) -> None:
        """Remove drafts of this name whose process, on this machine, has ended."""
        pattern = re.compile(rf"{re.escape(f'.{self.name}.tmp-{owner}-')}(\d{{1,9}})-\w+")
        for path in self.base_path.glob(".*"):
            match = pattern.fullmatch(path.name)
            if match and not _is_running(int(match[1])):
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Contents:
    """What is inside an artifact's files."""

    methods: tuple[program_file.Method, ...]
    program_data: dict[str, int]
    """Named data inside the program → bytes."""
    weights_data: dict[str, int]
    """Named data in the file of weights → bytes."""


def contents(folder: Path) -> Contents:
    """Look inside an artifact's files, once `verify` has found them intact; nothing of them is run.

    Raises:
        ArtifactError: the folder is no intact artifact, or ExecuTorch's readers cannot make sense of a file.
    """

    def sizes(name: str) -> dict[str, int]:
        return {key: len(data) for key, data in program_file.read_named_data(folder / name).items()}

    with intact(folder) as manifest, program_file.LittleMemory(folder):
        return Contents(
            methods=program_file.read_methods(folder / PROGRAM),
            program_data=sizes(PROGRAM),
            weights_data=sizes(WEIGHTS) if WEIGHTS in manifest.files else {},
        )


def _put_in_place(new: Path, target: Path) -> None:
    """Rename a folder to its place; what was there ends beside `new`, in its private folder."""
    try:
        new.rename(target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    try:
        _exchange(new, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        # No swap on this system: for a moment there is no artifact at all, but never half of one.
        former = new.parent / "former"
        target.rename(former)
        try:
            new.rename(target)
        except OSError:
            former.rename(target)
            raise


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders in one step, by Linux' renameat2(2); raises OSError where the system cannot."""
    at_working_folder, exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = os.fsencode(first), os.fsencode(second)
    if renameat2(at_working_folder, paths[0], at_working_folder, paths[1], exchange) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _check_place(target: Path) -> None:
    """Refuse to replace anything but an artifact, whole or damaged; raises UsageError."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{target} is in the way, and no folder; move it, or name another --base-path")
    ours = {PROGRAM, WEIGHTS, MANIFEST, CARD}
    found = list(target.iterdir())
    foreign = sorted(p.name for p in found if p.name not in ours and (p.is_dir() or not p.name.startswith(".")))
    if foreign or (found and not {PROGRAM, MANIFEST} & {p.name for p in found}):
        names = ", ".join(map(reprlib.repr, foreign[:5])) or "no artifact"
        raise UsageError(f"{target} is in the way: it holds {names}; move that elsewhere, or name another --base-path")


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do it for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _file_size(path: Path) -> int:
    """Size in bytes; raises IntegrityError for links, folders, pipes and devices, which an artifact never holds."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = "link" if stat.S_ISLNK(status.st_mode) else "folder or special file"
        raise IntegrityError(f"{path} is a {kind}; an artifact holds plain files only")
    return status.st_size


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what tells a file that was written to, or exchanged, from the one that was there; {} for no folder."""
    stamps: dict[str, tuple[int, ...]] = {}
    with contextlib.suppress(OSError):  # whoever reads it says so
        for path in folder.glob("[!.]*"):
            status = path.lstat()
            stamps[path.name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return stamps


def _sha256(path: Path) -> str:
    _file_size(path)
    return sha256_of(path)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _capabilities(platform: Platform) -> str:
    names = [*platform.gpu_binaries, *(f"{name} and newer" for name in platform.gpu_ptx)]
    return ", ".join(names) or "none"


def _export_again(manifest: Manifest) -> str:
    again = f"yolo26-et export --models {manifest.variant} --backend {manifest.backend}" if manifest.variant else ""
    return f"export it again here, with `{again}`" if again else "export it again here, from its checkpoint"
