"""The command `yolo26-et`: a module for each subcommand, each with its arguments and one call."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import importlib
import io
import logging
import os
import sys
import tempfile
import traceback
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeAlias

from ..errors import InputError, UsageError, Yolo26Error, first_line, printable
from ..system.probe import package_version
from . import arguments, artifacts

if TYPE_CHECKING:
    from rich.console import Console

PROG = "yolo26-et"

COMMANDS = (
    "export", "predict", "val", "verify", "bench", "report", "card", "push", "list", "inspect", "check", "doctor",
)  # fmt: skip
"""Modules of this package, in the order of the help; each has `add_parser(subparsers)`."""

WIDTH = 140
"""Columns of a table that goes into a pipe or a file."""

_PLAIN = {
    "×": "x", "·": "|", "–": "-", "—": "-", "→": "->", "≥": ">=", "≤": "<=", "µ": "u", "±": "+/-", "Δ": "d",
    "“": '"', "”": '"', "‘": "'", "’": "'", **dict.fromkeys("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "*"), **dict.fromkeys("━╸╺─", "-"),
}  # fmt: skip
"""Symbols of ours and of rich's for terminals without them; others lose their accents, or become "?"."""

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviated flags and raises UsageError, so that every mistake is reported alike."""

    commands: Mapping[str, argparse.ArgumentParser]
    """Of the program's parser: each subcommand's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; `{self.prog} --help` shows what it takes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name; None is this process's own) and return its exit status.

    0 done, 1 something failed, 2 the command was wrong, 130 interrupted.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    _print_plainly()
    # Ultralytics would otherwise run pip for whatever module a checkpoint names.
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    debug = "--debug" in words  # looked for here so that errors in the arguments are covered, too
    try:
        args = _parse(words)
        with _warnings_told(debug):
            status = int(args.run(args))
        sys.stdout.flush()
        return status
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        _drop_output()
        return 1
    except Yolo26Error as error:
        if debug:
            traceback.print_exc()
        print(f"{PROG}: error: {_one_line(error)}", file=sys.stderr)
        return error.exit_status
    except (OSError, MemoryError) as error:  # a full disk, a place that may not be read, too many open files, …
        if debug:
            traceback.print_exc()
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        what = first_line(error) if isinstance(error, OSError) else "there is not enough memory"
        print(f"{PROG}: error: {printable(f'{place}{what}')}", file=sys.stderr)
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"{type(error).__name__}: {_one_line(error)}"
        print(f"{PROG}: error: unexpected {what}; this is a defect, please report it", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _warnings_told(debug: bool) -> Iterator[None]:
    """Print what the package logs as warnings of one line; `debug` shows all of it, and other libraries' warnings."""
    log = logging.getLogger(__name__.partition(".")[0])
    handler = _Warnings()
    before, level = log.propagate, log.level
    log.addHandler(handler)
    log.propagate = False
    if debug:
        log.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings():
            if not debug and not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        log.removeHandler(handler)
        log.propagate = before
        log.setLevel(level)


@contextlib.contextmanager
def without_native_noise(debug: bool) -> Iterator[None]:
    """Keep what C and C++ libraries write to standard error away; `sys.stderr` goes on writing there.

    libpng tells of each damaged file what our warning says. All of it is shown with `debug`, and where something fails
    that it may explain.
    """
    if debug:
        yield
        return
    stream = sys.stderr
    stream.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise, contextlib.ExitStack() as stack:
        if _is_fd_2(stream):
            sys.stderr = stack.enter_context(
                open(kept, "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False)
            )
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except (UsageError, InputError, KeyboardInterrupt, BrokenPipeError):
            raise
        except BaseException:
            noise.seek(0)
            os.write(kept, noise.read())
            raise
        finally:
            sys.stderr.flush()
            sys.stderr = stream
            os.dup2(kept, 2)
            stack.close()
            os.close(kept)


def _is_fd_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):
        return False


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            warn(record.getMessage())
        else:
            print(printable(record.getMessage()), file=sys.stderr)


def _print_plainly() -> None:
    """Write plain letters where a terminal's encoding lacks what is to be printed."""
    codecs.register_error("plain", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "plain":
            stream.reconfigure(errors="plain")


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    letters = "".join(_PLAIN.get(char) or unicodedata.normalize("NFKD", char) for char in text)
    plain = "".join(char for char in letters if not unicodedata.combining(char))  # an accent without its letter
    return plain.encode("ascii", "replace").decode(), error.end


def _drop_output() -> None:
    """Write no more to standard output, whose reader has gone or whose disk is full, when Python ends, either."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(message: str) -> None:
    """Print a warning of one line on standard error."""
    print(f"{PROG}: warning: {printable(message)}", file=sys.stderr, flush=True)


def console() -> Console:
    """Return a console on standard output that prints text as it is, wide enough for tables where it is no terminal."""
    from rich.console import Console

    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDTH)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, in our own words; raises UsageError with the line to type where it can be told."""
    command, rest = arguments.split_command(argv, COMMANDS, PROG)
    if command is None:
        return _parser().parse_args(argv)
    parser = _parser((command,))  # the others' modules take a while to import
    typed = arguments.translate(command, parser.commands[command], rest)
    args = parser.commands[command].parse_args(typed.words)
    args.argv = [command, *typed.words]
    for place in _artifacts_of(args):
        artifacts.find_artifact(place, argv, PROG)
    for note in typed.notes:
        warn(note)
    return args


def _artifacts_of(args: argparse.Namespace) -> list[Path]:
    """Return the artifacts that a command is to open."""
    if getattr(args, "export_first", False):
        return []
    return [place for place in [getattr(args, "artifact", None), *(getattr(args, "artifacts", None) or [])] if place]


def _parser(commands: Sequence[str] = COMMANDS) -> Parser:
    parser = Parser(
        prog=PROG,
        description="Export Ultralytics YOLO26 models to ExecuTorch's CUDA and XNNPACK backends, and test them.",
        epilog=f"`{PROG} COMMAND --help` shows a command's flags.",
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {package_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in commands:
        importlib.import_module(f"{__name__}.{name}").add_parser(subparsers)
    parser.commands = subparsers.choices
    return parser


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()))
