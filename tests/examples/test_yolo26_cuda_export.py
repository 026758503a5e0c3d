from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "models" / "yolo26_cuda_export.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)


def test_it_has_the_flags_of_the_command() -> None:
    command = [sys.executable, "-m", "yolo26_executorch", "export", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--base-path" in help_text
    assert run("--help").stdout == help_text


@pytest.mark.parametrize("words", [["--models", "yolo27n"], ["--imgsz", "600"], ["--nonsense"]])
def test_a_mistake_is_one_line_and_status_2(words: list[str], tmp_path: Path) -> None:
    done = run("--base-path", str(tmp_path / "out"), "--backend", "xnnpack", *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("yolo26-et: error: ")
    assert not (tmp_path / "out").exists()
