"""The errors this package raises on purpose.

    Yolo26Error                    base: one line for people, `exit_status` for shells
    ├── UsageError          (2)    the command was wrong; nothing was done
    │   ├── UnknownVariantError    no variant of that name; near matches named
    │   ├── CheckpointError        no such file, or not a checkpoint that can be loaded
    │   ├── OptionError            an option's value is not legal; the nearest legal one named
    │   └── BackendError           this machine cannot serve the backend asked for
    ├── ExportError         (1)    one variant could not be exported; the others go on
    │   ├── DownloadError          its weights could not be downloaded
    │   ├── BusyError              another process is exporting to the same place
    │   ├── LimitError             it took longer, or more memory or disk, than it may
    │   ├── GpuMemoryError         the GPU's memory ran out
    │   ├── LoweringError          operators were left outside the delegate, or the compiler failed
    │   └── ParityError            the exported model does not give PyTorch's numbers
    ├── ArtifactError       (1)    a folder is not a complete, intact artifact
    │   ├── IntegrityError         a file's size or SHA-256 is not the manifest's
    │   └── CompatibilityError     the artifact cannot run on this machine
    └── InputError          (1)    an input's shape, dtype or range is not the model's

A user's mistake is one line on standard error and an exit status; a traceback is a defect.
"""

from __future__ import annotations


class Yolo26Error(Exception):
    """Base of every error this package raises on purpose; `exit_status` is what the command exits with."""

    exit_status = 1
    transient = False
    """Whether the cause may pass by itself, so that the same thing is worth another try."""


class UsageError(Yolo26Error):
    """The command was wrong and nothing was done."""

    exit_status = 2


class UnknownVariantError(UsageError):
    """A name or pattern fits no variant and is no checkpoint's path."""


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged, or holds something other than a YOLO26 model."""


class OptionError(UsageError):
    """An option has a value that is not legal."""


class BackendError(UsageError):
    """A backend was asked for that this machine cannot serve."""


class ExportError(Yolo26Error):
    """One variant could not be exported."""


class DownloadError(ExportError):
    """A variant's weights could not be downloaded."""

    transient = True


class BusyError(ExportError):
    """Another process is exporting the same variant to the same place."""


class LimitError(ExportError):
    """An export needs more time, memory or disk space than there is."""


class GpuMemoryError(ExportError):
    """The GPU's memory ran out; others may be using it."""

    transient = True


class LoweringError(ExportError):
    """Operators stayed outside the delegate, or a compiler failed."""


class ParityError(ExportError):
    """The exported model does not give the numbers that PyTorch gives."""


class ArtifactError(Yolo26Error):
    """A folder is not a complete and intact artifact."""


class IntegrityError(ArtifactError):
    """A file differs from what the manifest says of it."""


class CompatibilityError(ArtifactError):
    """The artifact cannot run on this machine."""


class InputError(Yolo26Error):
    """An input is not what the model takes."""


def first_line(error: BaseException) -> str:
    """Return what an error says in one short, printable line; of an OSError, the system's words."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    return printable((text.splitlines() or [type(error).__name__])[0][:200])


def printable(text: str) -> str:
    """Return a foreign text (a file's, a folder's or a class' name, …) without what would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
