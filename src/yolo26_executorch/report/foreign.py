"""Reading data that anybody may have written: what is not of its type counts as not there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..errors import first_line

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading a foreign file of JSON may raise."""


def number(value: object) -> float | None:
    """Return a finite number as it is, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None  # NaN is not, either


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; none for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def time(text: object) -> datetime:
    """Read an ISO 8601 time; raises ValueError or TypeError."""
    if not isinstance(text, str):
        raise TypeError(f"no time: {text!r}")
    found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)  # Python 3.10 reads no Z
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def cause(error: Exception) -> str:
    """Say in a few words what made data unreadable."""
    return f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
