from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support import make_manifest, network, save_checkpoint
from yolo26_executorch import cli
from yolo26_executorch.artifacts.manifest import Manifest
from yolo26_executorch.errors import CheckpointError, DownloadError, UnknownVariantError, UsageError
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.checkpoints import (
    Checkpoint,
    CheckpointRecord,
    Source,
    check_archive,
    find_checkpoint,
    find_sources,
    find_weights,
)
from yolo26_executorch.models.variants import ALL_VARIANTS

NAMES = {0: "cat", 1: "dog", 2: "été | <b>"}


def random(name: str, seed: int) -> Checkpoint:
    return checkpoints.load(Source(name, ALL_VARIANTS[name], None), weights_dir=None, random=True, seed=seed)


# ---- files that are no checkpoint ------------------------------------------------------------------------------------


def archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (entries or {"archive/data.pkl": b"x" * 4000}).items():
            file.writestr(name, content)
    return path


def truncated(path: Path) -> None:
    path.write_bytes(archive(path).read_bytes()[:2000])


def corrupt(path: Path) -> None:
    content = bytearray(archive(path).read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.touch(), "truncated, corrupt or no PyTorch checkpoint"),
    "truncated": (truncated, "truncated, corrupt or no PyTorch checkpoint"),
    "corrupt": (corrupt, "its entry archive/data.pkl fails its checksum"),
    "no zip": (lambda path: path.write_text("<html>404</html>"), "truncated, corrupt or no PyTorch checkpoint"),
    "a bare pickle": (lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n."), "no PyTorch checkpoint"),
    "a zip of something": (
        lambda path: archive(path, **{"photo.jpg": b"x"}), "it is a zip file without a PyTorch checkpoint inside"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_by_the_command_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    make, said = BROKEN[kind]
    path = tmp_path / "best.pt"
    make(path)
    out = tmp_path / "out"
    assert cli.main(["export", "--backend", "xnnpack", "--base-path", str(out), "--models", "yolo26n", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"yolo26-et: error: {path} cannot be read: ")
    assert said in line
    assert line.endswith("; copy or download the file again")
    assert not out.exists()


def test_a_missing_file_names_its_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("best.pt", "yolo.pt", "best.onnx"):
        (tmp_path / name).touch()
    path = tmp_path / "besst.pt"
    assert cli.main(["export", "--backend", "xnnpack", "--models", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"yolo26-et: error: no such checkpoint file: {path}; did you mean best.pt?"
    with pytest.raises(CheckpointError, match=r"no such checkpoint file: .*nowhere/best\.pt$"):
        check_archive(tmp_path / "nowhere" / "best.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        check_archive(tmp_path)


def test_a_whole_checkpoint_passes_the_first_check(tmp_path: Path) -> None:
    check_archive(save_checkpoint(tmp_path / "best.pt", nn.Linear(1, 1)))


# ---- what is asked for -----------------------------------------------------------------------------------------------


def test_names_wildcards_and_paths_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "best.pt")
    monkeypatch.chdir(tmp_path)
    sources = find_sources(["yolo26n-cls", str(path), "yolo26[ns]", "best.pt", "yolo26n"])
    assert [source.name for source in sources] == ["yolo26n-cls", f"{tmp_path.name}-best", "yolo26n", "yolo26s"]
    assert [source.path for source in sources] == [None, path, None, None]
    for source in sources:
        assert Source.from_json(source.to_json()) == source


def test_a_path_of_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "best.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_sources(["~/best.pt"])[0].path == tmp_path / "best.pt"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownVariantError, match="did you mean yolo26n-seg"):
        find_sources(["yolo26n", "yolo26n-sge"])


@pytest.mark.parametrize(("first", "second"), [("a/mine.pt", "b/mine.pt"), ("yolo26n", "a/yolo26n.pt")])
def test_two_that_would_share_a_folder_are_refused(tmp_path: Path, first: str, second: str) -> None:
    models = []
    for word in (first, second):
        if word.endswith(".pt"):
            (tmp_path / word).parent.mkdir()
            word = str(archive(tmp_path / word))
        models.append(word)
    with pytest.raises(UsageError) as caught:
        find_sources(models)
    for word in (*models, "rename one of the files"):
        assert word in str(caught.value)
    assert caught.value.exit_status == 2


# ---- published weights -----------------------------------------------------------------------------------------------


@pytest.fixture
def default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoints, "default_weights_dir", lambda: tmp_path / "default")
    return tmp_path / "default"


def downloading(monkeypatch: pytest.MonkeyPatch, download: Callable[[Path], object]) -> None:
    def attempt(file: str | Path, **settings: Any) -> str:
        download(Path(file))
        return str(file)

    monkeypatch.setattr("ultralytics.utils.downloads.attempt_download_asset", attempt)


def test_weights_that_are_there_are_not_downloaded(
    tmp_path: Path, default_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloading(monkeypatch, lambda path: pytest.fail("a download was tried"))
    variant = ALL_VARIANTS["yolo26n"]
    default_folder.mkdir()
    known = archive(default_folder / "yolo26n.pt")
    assert find_weights(variant, None) == find_weights(variant, tmp_path / "mine") == known
    (tmp_path / "mine").mkdir()
    first = archive(tmp_path / "mine" / "yolo26n.pt")
    assert find_weights(variant, tmp_path / "mine") == first


def test_weights_are_downloaded_to_the_folder(
    tmp_path: Path, default_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloading(monkeypatch, archive)
    folder = tmp_path / "new" / "weights"
    assert find_weights(ALL_VARIANTS["yolo26n-seg"], folder) == folder / "yolo26n-seg.pt"
    assert [path.name for path in folder.iterdir()] == ["yolo26n-seg.pt"]
    check_archive(folder / "yolo26n-seg.pt")
    assert find_weights(ALL_VARIANTS["yolo26s"], None) == default_folder / "yolo26s.pt"


def offline(path: Path) -> None:
    raise ConnectionError("Download failure for yolo26n.pt. Environment is not online.\nmore words")


@pytest.mark.parametrize(
    ("download", "cause"),
    [
        (offline, "Environment is not online."),
        (lambda path: None, "no such checkpoint file"),
        (truncated, "truncated, corrupt"),
        (lambda path: path.write_text("<html>"), "truncated, corrupt"),
    ],
)
def test_a_failed_download_says_where_the_file_belongs(
    tmp_path: Path,
    default_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    download: Callable[[Path], object],
    cause: str,
) -> None:
    downloading(monkeypatch, download)
    folder = tmp_path / "weights"
    source = Source("yolo26n", ALL_VARIANTS["yolo26n"], None)
    with pytest.raises(DownloadError) as caught:
        checkpoints.load(source, weights_dir=folder, random=False, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"yolo26n.pt is not in {folder}", cause, "by hand", "--weights-dir", "--random-weights"):
        assert part in message
    assert caught.value.exit_status == 1
    assert [*folder.iterdir()] == []


def test_published_weights_are_marked_as_such(tmp_path: Path, default_folder: Path) -> None:
    save_checkpoint(tmp_path / "yolo26n-cls.pt", network("yolo26n-cls.yaml", NAMES))
    source = Source("yolo26n-cls", ALL_VARIANTS["yolo26n-cls"], None)
    checkpoint = checkpoints.load(source, weights_dir=tmp_path, random=False, seed=0)
    assert (checkpoint.origin, checkpoint.file, checkpoint.names) == ("published", "yolo26n-cls.pt", NAMES)


def test_an_architecture_without_published_weights_is_told_and_a_file_of_its_name_is_taken(
    tmp_path: Path, default_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloading(monkeypatch, lambda path: pytest.fail("nothing is to be downloaded"))
    source = Source("yolo26n-p2", ALL_VARIANTS["yolo26n-p2"], None)
    with pytest.raises(CheckpointError, match=r"no weights of yolo26n-p2; train yolo26n-p2\.yaml .* --random-weights"):
        checkpoints.load(source, weights_dir=tmp_path, random=False, seed=0)
    (tmp_path / "yolo26n-p2.pt").write_bytes(b"?")
    with pytest.raises(CheckpointError, match="it is truncated, corrupt"):
        checkpoints.load(source, weights_dir=tmp_path, random=False, seed=0)


# ---- an artifact's checkpoint ----------------------------------------------------------------------------------------


def made_from(path: Path, **changes: Any) -> Manifest:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    identity = replace(CheckpointRecord("user", path.name, sha256, None), **changes)
    return make_manifest("detect", "xnnpack", "user", checkpoint=identity)


def test_an_artifact_s_checkpoint_is_found_by_name_and_hash(
    tmp_path: Path, default_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = save_checkpoint(tmp_path / "best.pt", network("yolo26n.yaml", NAMES))
    manifest = made_from(given)
    assert find_checkpoint(manifest, given).sha256 == manifest.checkpoint.sha256
    assert find_checkpoint(manifest, weights_dir=tmp_path).names == NAMES
    with pytest.raises(
        CheckpointError, match=r"best was made from best\.pt with SHA-256 .*, and no such file in .*; name"
    ):
        find_checkpoint(manifest)
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(manifest).origin == "user"
    other = given.rename(tmp_path / "mine.pt")
    assert find_checkpoint(manifest, other).file == "mine.pt"
    # A file of that name that is another one hides none further on.
    (tmp_path / "best.pt").write_bytes(b"another")
    with pytest.raises(CheckpointError, match=r"best\.pt has another SHA-256; name the file with --checkpoint"):
        find_checkpoint(manifest)
    default_folder.mkdir(exist_ok=True)
    other.rename(default_folder / "best.pt")
    assert find_checkpoint(manifest).sha256 == manifest.checkpoint.sha256
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        find_checkpoint(manifest, tmp_path / "none.pt")


def test_a_manifest_does_not_lead_out_of_the_folders(tmp_path: Path, default_folder: Path) -> None:
    path = save_checkpoint(tmp_path / "best.pt", network("yolo26n.yaml", NAMES))
    (tmp_path / "inside").mkdir()
    with pytest.raises(CheckpointError, match="no such file"):
        find_checkpoint(made_from(path, file="../best.pt"), weights_dir=tmp_path / "inside")


def test_random_weights_are_made_again() -> None:
    manifest = make_manifest("classify", "xnnpack", "random")
    again = find_checkpoint(manifest)
    expected = random("yolo26n-cls", 3).network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.network.state_dict().items())
    with pytest.raises(
        CheckpointError, match=r"random weights \(seed 3\) and was made from no file; leave --checkpoint"
    ):
        find_checkpoint(manifest, Path("best.pt"))
