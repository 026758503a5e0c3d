from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from support import make_manifest, publish
from support.stub_hub import TOKEN, Hub, serving
from yolo26_executorch.cli import main

# huggingface_hub's own, in how it calls its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TO = ["--repo-prefix", "my-org"]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def artifact(base: Path, task: str = "detect", origin: str = "published", **changes: object) -> str:
    return str(publish(base, make_manifest(task, "xnnpack", origin, **changes)))


def test_every_artifact_goes_to_a_repository_of_its_own(
    stub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [artifact(tmp_path), artifact(tmp_path, "pose")]
    assert main(["push", *folders, *TO, "--private", "--revision", "v2"]) == 0
    names = ["my-org/yolo26n-ExecuTorch-XNNPACK", "my-org/yolo26n-pose-ExecuTorch-XNNPACK"]
    assert [commit[:2] for commit in stub.commits] == [(name, "v2") for name in names]
    assert stub.private == dict.fromkeys(names, True)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines() == [
        f"{folders[0]} → {names[0]}, branch v2, private",
        "  README.md  6 B",
        f"  manifest.json  {(Path(folders[0]) / 'manifest.json').stat().st_size / 1e3:.1f} kB",
        "  model.pte  7 B",
        f"  {stub.address}/{names[0]}",
        f"{folders[1]} → {names[1]}, branch v2, private",
        "  README.md  6 B",
        f"  manifest.json  {(Path(folders[1]) / 'manifest.json').stat().st_size / 1e3:.1f} kB",
        "  model.pte  7 B",
        f"  {stub.address}/{names[1]}",
        "2 sent, 0 not",
    ]


def test_a_failure_is_a_line_and_the_others_go_on(
    stub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [artifact(tmp_path, task) for task in ("detect", "segment", "pose")]
    folders += [artifact(tmp_path, "obb", "random"), str(tmp_path / "nothing")]
    (Path(folders[0]) / "model.pte").write_bytes(b"progrom")
    stub.refuses["my-org/yolo26n-seg-ExecuTorch-XNNPACK"] = 403
    assert main(["push", *folders, *TO]) == 1
    captured = capsys.readouterr()
    assert [commit[0] for commit in stub.commits] == ["my-org/yolo26n-pose-ExecuTorch-XNNPACK"]
    assert captured.out.endswith("\n1 sent, 4 not\n")
    lines = captured.err.splitlines()
    told = ("was changed", "--allow-random", "no artifact at", "refused it (403")
    assert len(lines) == len(told)
    for line, words in zip(lines, told, strict=True):
        assert line.startswith("yolo26-et: error: ") and words in line


def test_random_weights_go_where_they_are_allowed(stub: Hub, tmp_path: Path) -> None:
    assert main(["push", artifact(tmp_path, origin="random"), *TO, "--allow-random"]) == 0
    assert len(stub.commits) == 1


def test_a_dry_run_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = artifact(tmp_path)
    assert main(["push", folder, *TO, "--dry-run"]) == 0
    assert main(["push", folder, str(tmp_path / "nothing"), *TO, "--dry-run"]) == 1


def test_a_dry_run_says_what_would_go_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = artifact(tmp_path, command="yolo26-et export --base-path /home/me/exports")
    assert main(["push", folder, *TO, "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{folder} → my-org/yolo26n-ExecuTorch-XNNPACK\n  README.md  6 B\n")
    assert "1 would be sent" in captured.out and captured.out.endswith("; nothing was\n")
    assert captured.err == (
        f"yolo26-et: warning: {folder}: its card and manifest show the command, which names folders of this machine\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repo-prefix", "my org"], "--repo-prefix my org: expected a user or an organisation"),
        ([], "--repo-prefix"),
        ([*TO, "--token", "hf_x"], "--token"),
    ],
)
def test_a_wrong_command_sends_nothing(
    stub: Hub, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", artifact(tmp_path), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert captured.out == "" and not stub.asked


def test_two_for_one_repository_are_refused(stub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", artifact(tmp_path / "a"), artifact(tmp_path / "b"), *TO]) == 2
    assert "would all go to my-org/yolo26n-ExecuTorch-XNNPACK" in capsys.readouterr().err
    assert not stub.asked


def test_the_library_takes_address_and_token_from_where_it_always_does(tmp_path: Path) -> None:
    """A process of its own, told of the Hub by HF_ENDPOINT alone, with a token in the library's file."""
    home = tmp_path / "hugging"
    home.mkdir()
    (home / "token").write_text(TOKEN)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    with serving() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "yolo26_executorch", "push", artifact(tmp_path), *TO],
            env={**clean, "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [commit[0] for commit in hub.commits] == ["my-org/yolo26n-ExecuTorch-XNNPACK"]
    assert TOKEN not in done.stdout
