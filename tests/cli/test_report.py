"""The command: its flags, words and exit statuses; `tests/report/` has what it reads and the page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support import publish
from support.tree_of_exports import make_tree, manifest, write_val
from yolo26_executorch import runtime
from yolo26_executorch.cli import main
from yolo26_executorch.errors import ArtifactError
from yolo26_executorch.models.preprocess import sample_images


def test_a_page_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_tree(tmp_path / "exports")
    (base / "stray.val.json").write_text("{}")
    assert main(["report", str(base), "--no-pictures"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"page: {base / 'report.html'}\n"
    [line] = printed.err.splitlines()
    assert line.startswith("yolo26-et: warning: ") and "stray.val.json is no report of `yolo26-et val`" in line
    assert not [path for path in base.iterdir() if path.name.startswith(".report")]
    before = (base / "report.html").read_text(encoding="utf-8")
    assert "stray.val.json" in before and "No sample picture" not in before
    # Once more over the former page, of which nothing is read.
    assert main(["report", str(base), "--no-pictures"]) == 0
    assert len(json.loads(points(base / "report.html"))) == 8


def points(path: Path) -> str:
    found = re.search('<script type="application/json" id="points">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found
    return found[1]


def test_output_and_measurements_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "exports", manifest())
    given = write_val(tmp_path / "given.json", manifest(), 0.625)
    output = tmp_path / "new" / "page.html"
    words = ["report", str(tmp_path / "exports"), "--no-pictures", "--output", str(output), "--val", str(given)]
    assert main(words) == 0
    assert capsys.readouterr() == (f"page: {output}\n", "")
    assert '"accuracy": 0.625' in points(output)


def test_what_cannot_run_costs_its_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: Path, **_: object) -> None:
        raise ArtifactError("this ExecuTorch has no CudaBackend")

    publish(tmp_path, manifest())
    monkeypatch.setattr(runtime, "open_runner", refuse)
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No sample picture: it cannot run here. this ExecuTorch has no CudaBackend" in text


def test_a_real_artifact_is_shown_a_picture(tmp_path: Path, exported: Callable[[str], Path]) -> None:
    folder = exported("detect")
    shutil.copytree(folder, tmp_path / folder.name)
    assert main(["report", str(tmp_path)]) == 0
    assert "none of its classes is on the photograph" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(tmp_path), "--picture", str(sample_images()[0])]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(
        f'<img src="data:image/jpeg;base64,[^"]+" width="480" height="640" alt="What {folder.name} sees', text
    )
    [point] = json.loads(points(tmp_path / "report.html"))
    assert point["latency_ms"] > 0 and point["size_mb"] > 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nowhere"], 2, "nowhere: expected a folder of artifacts"),
        (["empty"], 2, "empty holds no exports; `yolo26-et export --base-path"),
        (["exports", "--val", "missing.json"], 2, "missing.json is no report of `yolo26-et val`"),
        (["exports", "--output", "empty"], 2, "expected a file's name, and this is a folder; try --output"),
        (["exports", "--output", "file/page.html"], 2, "cannot be written"),
        (["exports", "--no-pictures", "--picture", "x.jpg"], 2, "leave one of them out"),
        (["exports", "--picture", "x.jpg"], 1, "no image at x.jpg"),
        (["exports", "--picture", "file"], 1, "file cannot be read as an image"),
        ([], 2, "BASE"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], status: int, message: str,
) -> None:  # fmt: skip
    publish(tmp_path / "exports", manifest())
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("yolo26-et: error: ") and message in line
    assert not (tmp_path / "exports" / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    publish(tmp_path, manifest())
    (tmp_path / "report.html").write_text("former")
    monkeypatch.setattr(Path, "replace", full)
    assert main(["report", str(tmp_path), "--no-pictures"]) == 1
    assert "the page could not be written (No space left on device)" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "former"
    assert not list(tmp_path.glob(".report*"))
