"""Dataclasses as plain data, which JSON can hold, and back: strict about types, open to fields that are added later.

Fields without a default must be there; fields of other names are passed over. Nothing is converted but what JSON cannot
say: lists become tuples, keys become numbers, whole numbers become floats, texts become paths, where the dataclass's
annotations want them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from ..errors import printable

T = TypeVar("T")

_MISSING = re.compile(r"Object missing required field (\w+)")
_WRONG = re.compile(r"(?P<what>.*?)(?: - at `?(?P<where>.+?)`?)?", re.DOTALL)


def to_plain(value: object) -> Any:
    """Return dataclasses, and whatever they hold, as dictionaries, lists, texts and numbers."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_text)


def from_plain(data: object, kind: type[T]) -> T:
    """Return plain data as a dataclass.

    Raises:
        ValueError: it is not of that form; says in one line where and why.
        Yolo26Error: what the dataclass itself refuses.
    """
    try:
        return msgspec.convert(data, kind, str_keys=True, dec_hook=_path)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(_in_words(error)) from error


def decode(text: bytes, kind: type[T]) -> T:
    """Return JSON as a dataclass; errors are those of `from_plain`."""
    try:
        return msgspec.json.decode(text, type=kind, dec_hook=_path)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(_in_words(error)) from error


def _text(value: object) -> str:
    if isinstance(value, (str, Path)):  # msgspec knows no subclasses of str, such as PyTorch's version
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


def _path(kind: type, value: object) -> Any:
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, given {type(value).__name__}")


def _in_words(error: Exception) -> str:
    """Return what msgspec says as "options.batch: expected int, given str"."""
    if not isinstance(error, msgspec.MsgspecError):
        return "it is nested too deep" if isinstance(error, RecursionError) else "it is not UTF-8"
    found = cast("re.Match[str]", _WRONG.fullmatch(str(error)))
    where = (found["where"] or "").replace("`", "").replace("$.", "").replace("$", "").replace("key in ", "keys of ")
    what = found["what"].replace("`", "").replace(", got ", ", given ")
    if missing := _MISSING.fullmatch(what):
        where, what = ".".join(filter(None, (where, missing[1]))), "missing"
    return printable(f"{where}: {what[:1].lower()}{what[1:]}" if where else what)
