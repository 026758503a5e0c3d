"""Commands in a terminal of 60 columns: nothing that answers the question is cut off."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from support import make_manifest, publish
from support.stub_bench import report, row
from yolo26_executorch.models.variants import VARIANTS


def in_a_terminal(*words: str, columns: int = 60) -> str:
    """Return what a command prints into a pseudo-terminal, without escape sequences; fails where it does."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "yolo26_executorch", *words],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:  # Linux: the other end was closed
        pass
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(parts).decode()).replace("\r\n", "\n")
    assert process.wait() == 0, text
    return text


def unfolded(text: str) -> str:
    return "".join(text.split())


def test_list() -> None:
    text = in_a_terminal("list", *VARIANTS)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 60
    for words in ("protos (B, 32, H/4, W/4)", "coefficients (B, 300, 32)", "native input: 1024×1024", "ImageNet"):
        assert unfolded(words) in unfolded(text), words


def test_check(tmp_path: Path) -> None:
    base = tmp_path / "a-folder-of-a-long-name-that-does-not-fit-into-one-line"
    publish(base, make_manifest("segment", backend="xnnpack"))
    text = in_a_terminal("check", str(base))
    for words in (str(base / "yolo26n-seg"), "precision: fp32", "state: whole", "1 whole, 0 broken"):
        assert unfolded(words) in unfolded(text), words


def test_bench(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(report(row(), row("onnxruntime", p50=12.5)).to_json()))
    text = in_a_terminal("bench", "--from", str(path), "--compare", str(path))
    assert "…" not in text
    for words in ("what: onnxruntime", "p50: 12.500", "images/s: 80", "host MB: 1000", "change: +0.0%", "p80: four"):
        assert unfolded(words) in unfolded(text), words


@pytest.mark.slow  # it imports what reads programs
def test_inspect(exported: object, tmp_path: Path) -> None:
    folder: Path = exported("detect")  # type: ignore[operator]
    text = in_a_terminal("inspect", str(folder))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "…" not in text.replace(", …", "")
    for words in ("precision", "fp32", *(file["sha256"] for file in manifest["files"].values())):
        assert unfolded(words) in unfolded(text), words
