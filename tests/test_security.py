"""What a stranger's artifact, checkpoint or folder must not be able to do."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import support
from support import make_manifest, publish, run_python, xnnpack_program
from support.program_files import Net, cuda_program, data_file, payload
from yolo26_executorch import runtime
from yolo26_executorch.artifacts import program_file, reading
from yolo26_executorch.artifacts.manifest import LARGEST_MANIFEST, MANIFEST, PROGRAM, WEIGHTS, FileRecord, Manifest
from yolo26_executorch.artifacts.reading import Artifact, check_tree, contents, load_manifest
from yolo26_executorch.cli import console, main
from yolo26_executorch.errors import ArtifactError, CheckpointError, IntegrityError, Yolo26Error
from yolo26_executorch.exporter import progress
from yolo26_executorch.exporter.jobs import Record
from yolo26_executorch.models.checkpoints import find_checkpoint
from yolo26_executorch.models.tasks import TensorSpec
from yolo26_executorch.runtime import executorch
from yolo26_executorch.system.reports import write_report

SPEC = TensorSpec("images", (1, 3, 8, 8), "float32", "")
OUTPUTS = (TensorSpec("sums", (1, 4, 6, 6), "float32", ""), TensorSpec("features", (1, 4, 6, 6), "float32", ""))
ESCAPE = "\x1b]0;owned\x07\x1b[31m"


@pytest.fixture(scope="module")
def program() -> bytes:
    return xnnpack_program(Net(), torch.zeros(1, 3, 8, 8))


# ---- looking at a stranger's artifact --------------------------------------------------------------------------------

LOOK = """
    import os, pickle, sys
    from yolo26_executorch.artifacts.program_file import quiet
    with quiet():  # what libraries do when they are imported is no business of the artifact's
        import torch, executorch.exir._serialize
        from executorch.extension.flat_tensor.serialize import serialize

    from yolo26_executorch.artifacts import program_file
    from yolo26_executorch.cli import main

    def refuse(*_, **__):
        raise AssertionError("a pickle was read")

    for module in (pickle, torch, torch.jit):
        for name in ("load", "loads", "Unpickler"):
            if hasattr(module, name):
                setattr(module, name, refuse)

    folders = sys.argv[1:]

    def watch(event, words):
        if event in ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "socket.connect"):
            print("EVENT", event, words, flush=True)
        if event in ("ctypes.dlopen", "import") and any(folder in str(words) for folder in folders):
            print("EVENT", event, words, flush=True)
        # Numbers are descriptors that are open already: the copies in memory, which are no files.
        if event == "open" and not isinstance(words[0], int) and words[1] and set(words[1]) & set("wax+"):
            print("EVENT", event, words, flush=True)

    sys.addaudithook(watch)
    for command in (["list"], ["check", *folders], *(["inspect", folder] for folder in folders)):
        print(command[0], main(command))
    program_file._READING_BYTES = 100_000_000
    print("bomb", main(["inspect", folders[0] + "-bomb"]))
"""


def bomb() -> bytes:
    """Return a program of a few kilobytes whose 1500 methods, one and the same, have 1500 operators each."""
    import flatbuffers

    count = 1500
    builder = flatbuffers.Builder()

    def table(field: int, value: int) -> int:
        builder.StartObject(16)
        builder.PrependUOffsetTRelativeSlot(field, value, 0)
        return int(builder.EndObject())

    def vector(value: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(value)
        return int(builder.EndVector())

    operator = table(0, builder.CreateString("aten::x"))
    method = table(6, vector(operator))
    builder.Finish(table(1, vector(method)), file_identifier=b"ET12")
    return bytes(builder.Output())


@pytest.mark.slow
def test_looking_neither_unpickles_nor_runs_nor_writes_anything(tmp_path: Path, program: bytes) -> None:
    """Nor does it take more memory than it may."""
    stored = data_file(tmp_path / "data", {"cuda_fqn_weight:cuda:matrix": bytes(96)})
    calling = cuda_program(tmp_path / "program", program, payload())
    first = publish(tmp_path / "one", make_manifest(backend="xnnpack"), program)
    second = publish(tmp_path / "two", make_manifest(), calling.read_bytes(), stored.read_bytes())
    assert len(bomb()) < 20_000
    large = publish(tmp_path / "three", make_manifest(backend="xnnpack"), bomb())
    large.rename(f"{first}-bomb")
    done = run_python(LOOK, str(first), str(second))
    assert "EVENT" not in done.stdout, done.stdout
    for line in ("list 0", "check 0", "inspect 0", "bomb 1"):
        assert line in done.stdout.splitlines(), done.stdout + done.stderr
    assert "so_key" in done.stdout  # it did look inside
    assert done.stderr.count("yolo26-et: error: ") == 1
    # Where the last bytes went is chance: the reader may be able to name the file, or not even that.
    assert re.search(r"yolo26-et: error: .*-bomb(/model.pte)? is damaged: MemoryError", done.stderr), done.stderr


def test_memory_that_runs_out_while_it_is_said_is_said_afterwards(tmp_path: Path) -> None:
    said = "is damaged: MemoryError: its files describe more than 4 GB"
    with pytest.raises(ArtifactError, match=said), program_file.LittleMemory(tmp_path):
        raise MemoryError


def test_the_limit_of_memory_is_lifted_again(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(KeyError), program_file.LittleMemory(tmp_path):
        assert resource.getrlimit(resource.RLIMIT_AS)[0] != before[0]
        raise KeyError
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_blocks_that_overlap_or_lie_outside_are_refused(tmp_path: Path) -> None:
    """As many views of all of a file would fill any memory; what is cut off must not read as shorter weights."""
    path = data_file(tmp_path / "data.ptd", {name: bytes([i]) * 1000 for i, name in enumerate("abcd")})
    whole = path.read_bytes()
    size = (1000).to_bytes(8, "little")
    assert whole.count(size) >= 4
    for damaged, said in (
        (whole.replace(size, (3000).to_bytes(8, "little"), 3), "overlap"),
        (whole[:-1], "a block of 1000 at"),
        (whole.replace(size, b"\xff" * 8), "a block of 18446744073709551615 at"),
        (whole[:4] + b"FT02" + whole[8:], "does not start as such a file does"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=said):
            program_file.read_named_data(path)


@pytest.mark.parametrize(
    "view", [(20, (4, 6), (6, 1)), (-1, (4,), (1,)), (0, (4,), (-1,)), (0, (2, 2), (2**62, 1)), (0, (-4,), (1,))]
)
def test_weights_outside_their_block_are_refused(view: tuple[int, tuple[int, ...], tuple[int, ...]]) -> None:
    offset, sizes, strides = view
    weight = program_file.Weight("w", bytes(96), torch.float32, offset, sizes, strides)
    assert not weight.fits()
    assert replace(weight, offset=0, sizes=(4, 6), strides=(6, 1)).fits()
    assert replace(weight, offset=24, sizes=(4, 0), strides=(6, 1)).fits()


# ---- names and sizes -------------------------------------------------------------------------------------------------


def test_a_manifest_of_ten_gigabytes_is_not_read(tmp_path: Path) -> None:
    folder = publish(tmp_path, make_manifest())
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(10_000_000_000)  # sparse
    began = time.process_time()
    with pytest.raises(ArtifactError, match=f"10000000000 bytes, and an export writes at most {LARGEST_MANIFEST}"):
        load_manifest(folder)
    assert time.process_time() - began < 1  # of the processor's time, whatever else the machine does


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": {"load": 10**15}},
        {"test": {"runs": [{"count": 10**400}]}},
        {"test": {"count": -(10**15)}},
        {"delegate": {"name": "CudaBackend", "delegated": 10**15, "outside": {}}},
        *(
            {"checkpoint": asdict(replace(support.CHECKPOINTS["random"], file=name))}
            for name in ("", ".", "..", "../best.pt", "/etc/best.pt", "best\0.pt", "ü" * 128)
        ),
    ],
)
def test_values_that_break_what_shows_or_looks_for_them_are_refused(change: dict[str, Any]) -> None:
    data = make_manifest(files={name: FileRecord("a" * 64, 1) for name in (PROGRAM, WEIGHTS)}).to_json()
    assert Manifest.from_json(data)
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json({**data, **change})
    assert len(str(caught.value)) < 300


def test_figures_that_are_nested_too_deep_are_refused() -> None:
    data = make_manifest(files={name: FileRecord("a" * 64, 1) for name in (PROGRAM, WEIGHTS)}).to_json()
    for levels, fits in ((40, True), (60, False), (900, False), (100_000, False)):
        deep: Any = []
        for _ in range(levels):
            deep = [deep]
        given = {**data, "test": {"x": deep}}
        with contextlib.nullcontext() if fits else pytest.raises(ArtifactError, match=r"levels deep|plain JSON"):
            Manifest.from_json(given)


def test_a_checkpoint_is_looked_for_in_the_folders_alone(tmp_path: Path) -> None:
    """Even if a manifest that names another place came past its check."""
    (tmp_path / "inside").mkdir()
    secret = tmp_path / "secret.pt"
    secret.write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    manifest = make_manifest(origin="user", checkpoint=replace(support.CHECKPOINTS["user"], sha256=digest))
    for name in ("../secret.pt", str(secret), "..", "secret.pt/../../secret.pt"):
        asked = replace(manifest, checkpoint=replace(manifest.checkpoint, file=name))
        with pytest.raises(CheckpointError, match="no such file in"):
            find_checkpoint(asked, weights_dir=tmp_path / "inside")


def test_a_tree_is_not_left_and_nothing_in_it_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "tree", make_manifest())
    publish(tmp_path / "elsewhere", make_manifest())
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "elsewhere")
    odd = tmp_path / "tree" / "odd"
    odd.mkdir()
    os.mkfifo(odd / MANIFEST)
    (odd / PROGRAM).symlink_to("/dev/zero")
    closed = tmp_path / "tree" / "closed"
    closed.mkdir()
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == closed:  # as its mode would have it, for all but root
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = {checked.folder.name: checked.problem for checked in check_tree(tmp_path / "tree")}
    assert found.keys() == {"yolo26n", "odd", "closed"}
    assert found["yolo26n"] is None
    assert "plain files only" in str(found["odd"])
    assert found["closed"] == "it cannot be read: Permission denied"


# ---- between the check and the use -----------------------------------------------------------------------------------


def exchange(folder: Path) -> None:
    publish(folder.parent, replace(make_manifest(), classes={0: "other"}))


def write(folder: Path) -> None:
    content = (folder / PROGRAM).read_bytes()
    (folder / PROGRAM).write_bytes(content)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [exchange, write, remove])
def test_what_happens_to_the_folder_after_it_was_opened_changes_nothing(
    tmp_path: Path, program: bytes, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    """What is loaded are the very bytes that were hashed, in a runner, too."""
    folder = publish(tmp_path, make_manifest(backend="xnnpack", input=SPEC, outputs=OUTPUTS), program)
    expected = {name: output.clone() for name, output in run_once(folder).items()}
    with Artifact.open(folder) as artifact:
        change(folder)
        assert artifact.read(PROGRAM) == Path(artifact.path(PROGRAM)).read_bytes() == program
        assert contents(artifact).methods[0].delegate_calls == {"XnnpackBackend": 1}
        given = run_once(artifact)
    assert all(torch.equal(given[name], output) for name, output in expected.items())


def run_once(artifact: Any) -> dict[str, torch.Tensor]:
    with runtime.open_runner(artifact) as runner:
        return runner(torch.full(SPEC.shape, 0.5))


@pytest.mark.parametrize("change", [exchange, write, remove])
def test_a_folder_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    """Between the manifest and the files; an exchange may also leave the former artifact, whole."""
    folder = publish(tmp_path, make_manifest())
    before, read = load_manifest(folder), reading._manifest

    def read_and_change(*words: Any) -> Manifest:
        found = read(*words)
        change(folder)
        return found

    monkeypatch.setattr(reading, "_manifest", read_and_change)
    with pytest.raises(IntegrityError), Artifact.open(folder) as artifact:
        assert artifact.manifest == before
        assert artifact.read(PROGRAM) == b"program"
        raise IntegrityError("the former artifact, whole")


@pytest.mark.skipif(sys.platform != "linux", reason="sealed memory is Linux'")
def test_nobody_can_write_to_what_was_verified(tmp_path: Path) -> None:
    with Artifact.open(publish(tmp_path, make_manifest())) as artifact:
        path = artifact.path(PROGRAM)
        for open_to_write in (lambda: os.open(path, os.O_RDWR), lambda: os.open(path, os.O_WRONLY | os.O_TRUNC)):
            with pytest.raises(PermissionError):
                os.write(open_to_write(), b"x")
        with pytest.raises(PermissionError):
            os.truncate(path, 0)
        assert artifact.read(PROGRAM) == b"program"
    assert not Path(path).exists() or Path(path).read_bytes() != b"program"


def test_without_sealed_memory_the_copies_are_private_files_that_closing_removes(
    tmp_path: Path, program: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", missing, raising=False)
    folder = publish(tmp_path, make_manifest(backend="xnnpack", input=SPEC, outputs=OUTPUTS), program)
    with Artifact.open(folder) as artifact:
        path = Path(artifact.path(PROGRAM))
        assert path.parent == Path(tempfile.gettempdir())
        assert path.stat().st_mode & 0o777 == 0o400
        remove(folder)
        assert artifact.read(PROGRAM) == program
        assert run_once(artifact).keys() == {"sums", "features"}
    assert not path.exists()


def test_opening_and_closing_leaves_no_descriptor(tmp_path: Path, program: bytes) -> None:
    folder = publish(tmp_path, make_manifest(backend="xnnpack", input=SPEC, outputs=OUTPUTS), program)
    run_once(folder)
    before = len([*Path("/dev/fd").iterdir()])
    for _ in range(5):
        run_once(folder)
    (folder / PROGRAM).write_bytes(program[:-1] + b"x")
    with pytest.raises(IntegrityError):
        runtime.open_runner(folder)
    assert len([*Path("/dev/fd").iterdir()]) == before


# ---- the official runtime's own refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [MemoryError(), KeyError("forward"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), RuntimeError("a\x1b\nb")],
)
def test_whatever_the_runtime_says_of_a_program_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_program(*_: object, **named: Any) -> None:
        assert named["program_verification"] == "internal consistency"
        raise error

    levels = SimpleNamespace(InternalConsistency="internal consistency")
    monkeypatch.setattr(
        executorch, "_bindings", lambda: SimpleNamespace(_load_program=load_program, Verification=levels)
    )
    with (
        Artifact.open(publish(tmp_path, make_manifest(backend="xnnpack"))) as artifact,
        pytest.raises(ArtifactError, match="ExecuTorch could not load") as caught,
    ):
        executorch.ExecuTorchRunner(artifact)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"outputs": OUTPUTS[:1]}, "is not what its manifest says"),
        ({"outputs": (replace(OUTPUTS[0], shape=(1, 4, 6, 5)), OUTPUTS[1])}, "is not what its manifest says"),
        ({"input": replace(SPEC, shape=(1, 3, 9, 8))}, "could not run"),
        ({"input": replace(SPEC, shape=(3, 8, 8))}, "could not run"),
    ],
)
def test_a_manifest_of_another_program_is_found_out(
    tmp_path: Path, program: bytes, changes: dict[str, Any], said: str
) -> None:
    manifest = make_manifest(backend="xnnpack", **{"input": SPEC, "outputs": OUTPUTS, **changes})
    with runtime.open_runner(publish(tmp_path, manifest, program)) as runner:
        with pytest.raises(ArtifactError, match=said) as caught:
            runner(torch.zeros(runner.input.shape))
        assert str(caught.value).isprintable()


# ---- temporary files -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA artifacts are Linux'")
def test_the_shared_object_is_loaded_from_a_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from yolo26_executorch.runtime import shared_object

    seen: list[Path] = []

    def load(path: str, mode: int) -> None:
        if path.endswith("model.so"):
            assert Path(path).read_bytes() == b"code"
            assert Path(path).parent.stat().st_mode & 0o777 == 0o700
            assert Path(path).parent.stat().st_uid == os.getuid()
            seen.append(Path(path))

    monkeypatch.setattr(ctypes, "CDLL", load)
    for _ in range(2):
        shared_object._load(b"code")
    assert seen[0] != seen[1]
    assert not any(path.parent.exists() for path in seen)


def test_a_report_is_not_written_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / f".report.json.{os.getpid()}.tmp").symlink_to(other)
    write_report(tmp_path / "report.json", {"a": 1})
    assert other.read_text() == "mine"
    assert (tmp_path / "report.json").read_text() == '{\n  "a": 1\n}\n'
    assert len(list(tmp_path.iterdir())) == 2


# ---- the terminal ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_steers(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail where something that was printed would steer a terminal."""
    yield
    out, err = capsys.readouterr()
    assert "owned" in out + err
    assert not set(out + err) & {"\x1b", "\x07", "\x9b"}


@pytest.mark.parametrize("state", ["whole", "broken"])
def test_a_foreign_folders_name_in_check(tmp_path: Path, nothing_steers: None, state: str) -> None:
    folder = publish(tmp_path / f"x{ESCAPE}", make_manifest())
    if state == "broken":
        (folder / PROGRAM).write_bytes(b"")
    assert main(["check", str(tmp_path)]) == (state == "broken")


@pytest.mark.parametrize("command", ["inspect", "check", "list", "predict", "verify"])
def test_names_in_messages(tmp_path: Path, nothing_steers: None, command: str) -> None:
    more = {"predict": ["x.jpg"]}.get(command, [])
    assert main([command, f"{tmp_path}/x{ESCAPE}", *more]) in (1, 2)


def test_what_workers_say_of_foreign_checkpoints(capsys: pytest.CaptureFixture[str], nothing_steers: None) -> None:
    record = Record(
        "best", None, None, "xnnpack", "tf32", "failed", stage="load", message=f"it holds {ESCAPE}", attempts=1
    )
    face = progress.Display(progress.Tracker([]))
    face.show("best", {"event": "answer", "lines": [f"bus.jpg: {ESCAPE} 0.9"]})
    face.show("best", {"event": "record", "record": record.to_json()})
    face.show("best", {"event": "retry", "message": ESCAPE, "in_s": 1})
    progress.print_summary(console(), [record], make_manifest().options)


def test_every_error_of_ours_is_printed_as_one_line(monkeypatch: pytest.MonkeyPatch, nothing_steers: None) -> None:
    from yolo26_executorch.cli import list as listing

    def fail(args: Any) -> int:
        raise Yolo26Error(f"first {ESCAPE}\nsecond")

    monkeypatch.setattr(listing, "run", fail)
    assert main(["list"]) == 1
