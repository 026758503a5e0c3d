"""The command `yolo26-et`: a module for each subcommand, each with its arguments and one call."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ..errors import UsageError, Yolo26Error, printable
from ..system.probe import package_version

if TYPE_CHECKING:
    from rich.console import Console

PROG = "yolo26-et"

COMMANDS = (
    "export", "predict", "val", "verify", "bench", "report", "card", "push", "list", "inspect", "check", "doctor",
)  # fmt: skip
"""Modules of this package, in the order of the help; each has `add_parser(subparsers)`."""

WIDTH = 140
"""Columns of a table that goes into a pipe or a file."""

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviated flags and raises UsageError, so that every mistake is reported alike."""

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
    # Ultralytics would otherwise run pip for whatever module a checkpoint names.
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    debug = "--debug" in words  # looked for here so that errors in the arguments are covered, too
    try:
        args = _parser().parse_args(words)
        args.argv = words
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Yolo26Error as error:
        if debug:
            traceback.print_exc()
        print(f"{PROG}: error: {_one_line(error)}", file=sys.stderr)
        return error.exit_status
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"{type(error).__name__}: {_one_line(error)}"
        print(f"{PROG}: error: unexpected {what}; this is a defect, please report it", file=sys.stderr)
        return 1


def warn(message: str) -> None:
    """Print a warning of one line on standard error."""
    print(f"{PROG}: warning: {printable(message)}", file=sys.stderr, flush=True)


def console() -> Console:
    """Return a console on standard output that prints text as it is, wide enough for tables where it is no terminal."""
    from rich.console import Console

    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, emoji=False, width=WIDTH)


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        description="Export Ultralytics YOLO26 models to ExecuTorch's CUDA and XNNPACK backends, and test them.",
        epilog=f"`{PROG} COMMAND --help` shows a command's flags.",
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {package_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"{__name__}.{name}").add_parser(subparsers)
    return parser


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()))
