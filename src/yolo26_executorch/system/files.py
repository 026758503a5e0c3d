"""What is asked of a file wherever it lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 20
"""Bytes read at once."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
