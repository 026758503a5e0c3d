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
    """Base of every error this package raises on purpose; `exit_status` is what the command exits with.

    Examples:
        >>> try:
        ...     load_manifest("nothing-here")
        ... except Yolo26Error as error:
        ...     print(error.exit_status, error)
        1 no artifact at nothing-here: it has no manifest.json; `yolo26-et export` makes one
    """

    exit_status = 1
    transient = False
    """Whether the cause may pass by itself, so that the same thing is worth another try."""


class UsageError(Yolo26Error):
    """The command was wrong and nothing was done.

    Examples:
        >>> try:
        ...     export("yolo26?")
        ... except UsageError as error:
        ...     print(error.exit_status, error)
        2 yolo26?: expected one model, given a wildcard; call export for each
    """

    exit_status = 2


class UnknownVariantError(UsageError):
    """A name or pattern fits no variant and is no checkpoint's path.

    Examples:
        >>> try:
        ...     find_variants(["yolo27n"])
        ... except UnknownVariantError as error:
        ...     print(error)
        no variant fits 'yolo27n'; did you mean ...
    """


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged, or holds something other than a YOLO26 model.

    Examples:
        >>> try:
        ...     export("nothing-here.pt", backend="xnnpack")
        ... except CheckpointError as error:
        ...     print(error)
        no such checkpoint file: nothing-here.pt
    """


class OptionError(UsageError):
    """An option has a value that is not legal.

    Examples:
        >>> try:
        ...     ExportOptions(batch=0)
        ... except OptionError as error:
        ...     print(error)
        --batch 0: expected a whole number from 1 up; try --batch 1
    """


class BackendError(UsageError):
    """A backend was asked for that this machine cannot serve.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     folder = export("best.pt", backend="cuda")
        ... except BackendError:
        ...     folder = export("best.pt", backend="xnnpack")
    """


class ExportError(Yolo26Error):
    """One variant could not be exported.

    Examples:
        >>> for name in ("yolo26n", "yolo26s"):  # doctest: +SKIP
        ...     try:
        ...         export(name)
        ...     except ExportError as error:
        ...         print(error)
    """


class DownloadError(ExportError):
    """A variant's weights could not be downloaded.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     export("yolo26n", retries=0)
        ... except DownloadError:
        ...     export("yolo26n", weights_dir="weights")
    """

    transient = True


class BusyError(ExportError):
    """Another process is exporting the same variant to the same place.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     export("best.pt", no_wait=True)
        ... except BusyError as error:
        ...     print(error)
    """


class LimitError(ExportError):
    """An export needs more time, memory or disk space than there is.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     export("yolo26x", time_limit=10, memory_limit=8)
        ... except LimitError as error:
        ...     print(error)
    """


class GpuMemoryError(ExportError):
    """The GPU's memory ran out; others may be using it.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     export("yolo26x", batch=16)
        ... except GpuMemoryError:
        ...     export("yolo26x", batch=8)
    """

    transient = True


class LoweringError(ExportError):
    """Operators stayed outside the delegate, or a compiler failed.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     export("best.pt", debug=True)
        ... except LoweringError as error:
        ...     print(error)
    """


class ParityError(ExportError):
    """The exported model does not give the numbers that PyTorch gives.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     export("best.pt", precision="fp16")
        ... except ParityError:
        ...     export("best.pt", precision="fp32")
    """


class ArtifactError(Yolo26Error):
    """A folder is not a complete and intact artifact.

    Examples:
        >>> try:
        ...     verify("nothing-here")
        ... except ArtifactError as error:
        ...     print(error)
        no artifact at nothing-here: it has no manifest.json; `yolo26-et export` makes one
    """


class IntegrityError(ArtifactError):
    """A file differs from what the manifest says of it.

    Examples:
        >>> try:
        ...     print(verify("yolo26_cuda_exports/yolo26n").name)
        ... except IntegrityError as error:
        ...     print(error, "- copy or export it again")
        yolo26n...
    """


class CompatibilityError(ArtifactError):
    """The artifact cannot run on this machine.

    Examples:
        >>> try:  # doctest: +SKIP
        ...     model = YOLO26("from-another-gpu/yolo26n")
        ... except CompatibilityError as error:
        ...     print(error)
    """


class InputError(Yolo26Error):
    """An input is not what the model takes.

    Examples:
        >>> with YOLO26("yolo26_cuda_exports/yolo26n") as model:
        ...     try:
        ...         model.predict("nothing-here.jpg")
        ...     except InputError as error:
        ...         print(error)
        nothing-here.jpg: no such file
    """


def first_line(error: BaseException) -> str:
    """Return what an error says in one short, printable line; of an OSError, the system's words."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    return printable((text.splitlines() or [type(error).__name__])[0][:200])


def printable(text: str) -> str:
    """Return a foreign text (a file's, a folder's or a class' name, …) without what would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
