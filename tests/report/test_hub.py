from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from support import make_manifest, publish
from support.stub_hub import TOKEN, Hub, serving
from yolo26_executorch.errors import ArtifactError, IntegrityError, UsageError, Yolo26Error
from yolo26_executorch.report import hub

# huggingface_hub's own, in how it calls its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "my-org/yolo26n-seg-ExecuTorch-CUDA"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Serve a Hub that `huggingface_hub` takes for the real one, with a token of the user's."""
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # files go by Git LFS' protocol, which needs no Rust
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def artifact(base: Path, task: str = "segment", backend: str = "cuda", origin: str = "published") -> Path:
    return publish(base, make_manifest(task, backend, origin))


def test_an_artifact_arrives_whole_in_one_commit(stub: Hub, tmp_path: Path) -> None:
    folder = artifact(tmp_path)
    (folder / ".DS_Store").write_text("of the file manager")
    assert hub.send(hub.prepare(folder, "my-org")) == f"{stub.address}/{NAME}"
    assert stub.private == {NAME: False}
    names = ["README.md", "aoti_cuda_blob.ptd", "manifest.json", "model.pte"]
    assert stub.commits == [(NAME, "main", "yolo26n-seg, exported to ExecuTorch for CUDA", names)]
    assert stub.files == {(NAME, "main", name): (folder / name).read_bytes() for name in names}


def test_what_is_there_is_replaced(stub: Hub, tmp_path: Path) -> None:
    for program in (b"first", b"second"):
        folder = publish(tmp_path, make_manifest("segment", origin="published"), program)
        hub.send(hub.prepare(folder, "my-org"))
    assert stub.files[NAME, "main", "model.pte"] == b"second"


def test_a_private_repository_and_a_branch(stub: Hub, tmp_path: Path) -> None:
    upload = hub.prepare(artifact(tmp_path), "my-org")
    for _ in range(2):
        hub.send(upload, private=True, revision="fp16")
    assert stub.private == {NAME: True}
    assert stub.branches == [(NAME, "fp16")]
    assert {(repository, branch) for repository, branch, *_ in stub.commits} == {(NAME, "fp16")}


def test_private_is_no_wish_that_is_passed_over(stub: Hub, tmp_path: Path) -> None:
    stub.private[NAME] = False
    with pytest.raises(Yolo26Error, match=f"{NAME} is there and public; make it private"):
        hub.send(hub.prepare(artifact(tmp_path), "my-org"), private=True)
    assert not stub.commits


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, r"refused it \(403: You don't have the rights to create a model\); log in with"),
        (500, r"refused it \(500"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(stub: Hub, tmp_path: Path, status: int, message: str) -> None:
    stub.refuses[NAME] = status
    with pytest.raises(Yolo26Error, match=message) as raised:
        hub.send(hub.prepare(artifact(tmp_path), "my-org"))
    assert NAME in str(raised.value) and "\n" not in str(raised.value) and TOKEN not in str(raised.value)


def test_no_token_is_said(stub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(Yolo26Error, match="hf auth login"):
        hub.send(hub.prepare(artifact(tmp_path), "my-org"))


def test_a_hub_out_of_reach_is_said(stub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Yolo26Error, match=r"could not be sent \(.*refused"):
        hub.send(hub.prepare(artifact(tmp_path), "my-org"))


@pytest.mark.parametrize(
    ("task", "backend", "name"),
    [
        ("detect", "cuda", "yolo26n-ExecuTorch-CUDA"),
        ("segment", "cuda", "yolo26n-seg-ExecuTorch-CUDA"),
        ("classify", "xnnpack", "yolo26n-cls-ExecuTorch-XNNPACK"),
    ],
)
def test_repositories_are_named_after_variant_and_backend(tmp_path: Path, task: str, backend: str, name: str) -> None:
    upload = hub.prepare(artifact(tmp_path, task, backend), "my-org")
    assert upload.repository == f"my-org/{name}"
    folder = tmp_path / upload.manifest.name
    assert upload.files == {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_damaged_artifact_is_refused(tmp_path: Path) -> None:
    folder = artifact(tmp_path)
    (folder / "model.pte").write_bytes(b"progrom")
    with pytest.raises(IntegrityError, match="was changed"):
        hub.prepare(folder, "my-org")
    with pytest.raises(ArtifactError, match="no artifact"):
        hub.prepare(tmp_path / "nothing", "my-org")


def test_random_weights_have_to_be_allowed(tmp_path: Path) -> None:
    folder = artifact(tmp_path, origin="random")
    with pytest.raises(UsageError, match="--allow-random"):
        hub.prepare(folder, "my-org")
    assert hub.prepare(folder, "my-org", allow_random=True).repository == NAME


def test_a_name_that_no_repository_can_have_is_refused(tmp_path: Path) -> None:
    folder = publish(tmp_path, make_manifest(origin="user", name="best--of"))
    with pytest.raises(UsageError, match=r"best--of.*another file name"):
        hub.prepare(folder, "my-org")


def test_two_for_one_repository_are_refused(tmp_path: Path) -> None:
    uploads = [hub.prepare(artifact(tmp_path / part), "my-org") for part in ("tf32", "fp16")]
    uploads.append(hub.prepare(artifact(tmp_path, "detect"), "my-org"))
    with pytest.raises(UsageError, match=rf"tf32/yolo26n-seg, .*fp16/yolo26n-seg would all go to {NAME}"):
        hub.check_distinct(uploads)
    hub.check_distinct(uploads[1:])


@pytest.mark.parametrize("prefix", ["", "/", "my org", "a/b", "a--b", "-a", "https://huggingface.co/a"])
def test_prefixes_that_cannot_be_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match=r"--repo-prefix .*such as my-org"):
        hub.check_prefix(prefix)


def test_prefixes() -> None:
    assert hub.check_prefix("my-org") == hub.check_prefix("my-org/") == "my-org"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("yolo26-et export --models yolo26n --base-path out/models", False),
        ("yolo26-et export --base-path /home/me/models", True),
        ("yolo26-et export --base-path=/home/me/models", True),
        (r"yolo26-et export --base-path 'C:\models'", True),
    ],
)
def test_folders_of_this_machine_are_noticed(tmp_path: Path, command: str, told: bool) -> None:
    folder = publish(tmp_path, make_manifest(origin="published", command=command))
    assert hub.prepare(folder, "my-org").names_local_folders == told
