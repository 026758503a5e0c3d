from __future__ import annotations

import argparse
import errno
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from yolo26_executorch import cli
from yolo26_executorch.errors import ArtifactError, IntegrityError, UsageError

LIGHT = """
import sys
from yolo26_executorch.cli import main
status = main({words!r})
heavy = {{"torch", "executorch", "ultralytics", "numpy", "cv2"}} & set(sys.modules)
sys.exit(status or (f"imported {{heavy}}" if heavy else 0))
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"], ["export", "--help"], ["doctor", "--help"]])
def test_light_commands_import_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=words)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"usage: yolo26-et {command}" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command; `yolo26-et export best.pt` exports"),
        (["exprot"], "exprot"),
        (["list", "--nonsense"], "--nonsense"),
        (["export", "--batch", "two"], "invalid int value: 'two'"),
        (["export", "--modle", "yolo26n"], "did you mean --models?"),
        (["export", "--backend", "tpu"], "'tpu'"),
        (["export", "--models"], "--models"),
        (["export", "--debug", "--precision", "int8"], "int8"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("yolo26-et: error: ")
    assert message in last
    assert "--debug" in words or len(captured.err.splitlines()) == 1


def list_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `yolo26-et list` raise an error."""

    def run(args: argparse.Namespace) -> int:
        raise error

    from yolo26_executorch.cli import list as module

    monkeypatch.setattr(module, "run", run)


def test_our_errors_have_their_own_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    list_command(monkeypatch, IntegrityError("model.pte is\ndamaged"))
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err == "yolo26-et: error: model.pte is damaged\n"


def test_a_defect_is_no_traceback_either(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    list_command(monkeypatch, ZeroDivisionError("division by\nzero"))
    assert cli.main(["list"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "unexpected ZeroDivisionError: division by zero" in line


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    list_command(monkeypatch, KeyboardInterrupt())
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "yolo26-et: interrupted\n"


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--models", "yolo27n", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("yolo26-et: error: no variant fits 'yolo27n'")


def test_a_reader_who_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "yolo26_executorch", "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["--help"],
        pytest.param(["inspect", "detect"], marks=pytest.mark.slow),
        pytest.param(["doctor"], marks=pytest.mark.slow),
    ],
)
def test_a_terminal_of_plain_letters(words: list[str], exported: Callable[[str], Path]) -> None:
    if words[0] == "inspect":
        words = ["inspect", str(exported("detect"))]
    command = [sys.executable, "-m", "yolo26_executorch", *words]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("ascii")
    assert text.strip()
    if words == ["list"]:
        assert "640x640" in text
    if words[0] == "inspect":
        assert "1 x 3 x 320 x 320" in text


def test_errors_are_in_plain_letters_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "yolo26_executorch", "inspect", "bïld×"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 1 and b"no artifact at bildx: " in done.stderr


def test_what_the_system_refuses_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, message in (
        (OSError(errno.ENOSPC, "No space left on device", "out/a.jpg"), "out/a.jpg: No space left on device"),
        (MemoryError(), "there is not enough memory"),
    ):
        list_command(monkeypatch, error)
        assert cli.main(["list"]) == 1
        assert capsys.readouterr().err == f"yolo26-et: error: {message}\n"


def test_noise_of_c_is_kept_away_unless_something_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with cli.without_native_noise(debug=False):
        os.write(2, b"noise")
        print("words", file=sys.stderr)
    assert capfd.readouterr().err == "words\n"
    with cli.without_native_noise(debug=True):
        os.write(2, b"noise")
    assert capfd.readouterr().err == "noise"
    for error, shown in ((ArtifactError("it"), "noise"), (ValueError("it"), "noise"), (UsageError("it"), "")):
        with pytest.raises(type(error), match="it"), cli.without_native_noise(debug=False):
            os.write(2, b"noise")
            raise error
        os.write(2, b"!")
        assert capfd.readouterr().err == f"{shown}!"


def test_the_package_s_warnings_are_lines_and_others_are_for_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        logging.getLogger("yolo26_executorch").warning("%s was left out", "a.jpg")
        warnings.warn("noise", FutureWarning, stacklevel=1)
        return 0

    from yolo26_executorch.cli import list as module

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(sys, "warnoptions", [])
    for _ in range(2):  # handlers do not stack
        assert cli.main(["list"]) == 0
        assert capsys.readouterr().err == "yolo26-et: warning: a.jpg was left out\n"
    assert not logging.getLogger("yolo26_executorch").handlers


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "yolo26_executorch", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("yolo26-et ")
