from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from yolo26_executorch.system import files


@pytest.mark.parametrize("size", [0, 7, 8, 20])
def test_the_sha256_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(files, "_BLOCK", 8)
    content = bytes(range(size))
    (tmp_path / "file").write_bytes(content)
    assert files.sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
