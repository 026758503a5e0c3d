"""Random damage to all that is read of an artifact: it is refused in one clean line, or read; nothing crashes or hangs.

Two regimes: damage that the manifest's hashes tell, which is refused before anything is opened, and damage that was
sealed anew, as a defect of ours or an attacker would. A failure names the seed of its case.
"""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from rich.console import Console

from support import make_manifest, publish, run_python, xnnpack_program
from support.fuzz import SEED, case, damage, junk, refusal, seeds
from support.manifests import mutate, valid
from support.program_files import MATRIX, Net, cuda_program, data_file, payload
from yolo26_executorch.artifacts import program_file, reading
from yolo26_executorch.artifacts.card import render
from yolo26_executorch.artifacts.manifest import MANIFEST, PROGRAM, WEIGHTS, Manifest
from yolo26_executorch.artifacts.reading import Contents, contents, load_manifest, verify
from yolo26_executorch.cli import inspect
from yolo26_executorch.errors import CheckpointError, IntegrityError
from yolo26_executorch.models.checkpoints import check_archive
from yolo26_executorch.models.tasks import TensorSpec


@pytest.fixture(scope="module")
def program() -> bytes:
    return xnnpack_program(Net(), torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory, program: bytes) -> Path:
    """Return an artifact of the CUDA delegate with real files, though its shared object is none."""
    base = tmp_path_factory.mktemp("cuda")
    blocks = {f"cuda_fqn_weight:cuda:{name}": bytes([index]) * 160 for index, name in enumerate(("a", "b", "été"))}
    stored = data_file(base / "data", {"cuda_fqn_weight:cuda:matrix": MATRIX.numpy().tobytes(), **blocks})
    calling = cuda_program(base / "program", program, payload())
    return publish(base / "exports", make_manifest(), calling.read_bytes(), stored.read_bytes())


# ---- manifests -------------------------------------------------------------------------------------------------------


def test_manifests_with_damaged_fields() -> None:
    """What is accepted can be shown, put on a card and written again."""
    console = Console(file=io.StringIO(), markup=False)
    inside = Contents((), {}, {})
    refused = 0
    whole = valid()
    for number, seed in enumerate(seeds(200)):
        with case(seed) as chance:
            data = copy.deepcopy(whole)
            for _ in range(chance.randint(1, 3)):
                mutate(data, chance, [junk(chance)])
            if refusal(lambda data=data: Manifest.from_json(data)):  # type: ignore[misc]
                refused += 1
                continue
            manifest = Manifest.from_json(data)
            assert Manifest.from_json(manifest.to_json()) == manifest
            if number % 4 == 0:
                render(manifest)
            for title, rows in inspect._sections(manifest, inside).items():
                inspect._print(console, title, rows)
    assert 80 < refused < 200


def test_manifests_with_damaged_bytes(cuda: Path, tmp_path: Path) -> None:
    whole = (cuda / MANIFEST).read_bytes()
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / MANIFEST
    refused = 0
    for seed in seeds(200):
        with case(seed) as chance:
            path.write_bytes(damage(whole, chance))
            refused += refusal(lambda: load_manifest(path.parent)) is not None
    assert 80 < refused < 200


# ---- damage that hashes tell -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS])
def test_every_damage_is_refused_before_anything_is_opened(
    cuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reading, "program_file", None)
    folder = publish(tmp_path, make_manifest(), (cuda / PROGRAM).read_bytes(), (cuda / WEIGHTS).read_bytes())
    whole = (folder / name).read_bytes()
    verify(folder)
    for seed in seeds(100):
        with case(seed) as chance:
            (folder / name).write_bytes(damage(whole, chance))
            said = refusal(lambda: verify(folder), IntegrityError)
            assert said is not None
            assert name in said


# ---- damage that was sealed ------------------------------------------------------------------------------------------


def sealed(cuda: Path, base: Path, **files: bytes) -> Path:
    """Publish the artifact with other files, whose hashes are right."""
    given = {"program": (cuda / PROGRAM).read_bytes(), "weights": (cuda / WEIGHTS).read_bytes(), **files}
    return publish(base, make_manifest(), **given)


@pytest.mark.parametrize("part, count", [("program", 50), ("weights", 100)])
def test_looking_inside_never_crashes(
    cuda: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, count: int
) -> None:
    monkeypatch.setattr(program_file, "_READING_BYTES", 500_000_000)
    path = tmp_path / ("x.pte" if part == "program" else "x.ptd")
    whole = (cuda / (PROGRAM if part == "program" else WEIGHTS)).read_bytes()
    refused = 0

    def look() -> None:
        program_file.read_named_data(path)
        if part == "program":
            program_file.read_methods(path)

    def decode() -> None:
        files = (path, cuda / WEIGHTS) if part == "program" else (cuda / PROGRAM, path)
        for weight in program_file.read_cuda_payload(*files).weights:
            weight.tensor("cpu")

    with program_file.LittleMemory(tmp_path):
        for seed in seeds(count):
            with case(seed) as chance:
                path.write_bytes(damage(whole, chance, chance.choice((None, 100, 600))))
                said = refusal(look)
                refused += said is not None
                assert "MemoryError" not in (said or refusal(decode) or "")
    assert count / 8 < refused < count


def test_inspecting_sealed_damage(cuda: Path, tmp_path: Path) -> None:
    """From the hashes to what is shown."""
    whole = {"program": (cuda / PROGRAM).read_bytes(), "weights": (cuda / WEIGHTS).read_bytes()}
    refused = 0
    for seed in seeds(20):
        with case(seed) as chance:
            part = chance.choice(list(whole))
            folder = sealed(cuda, tmp_path / str(seed % 2), **{part: damage(whole[part], chance, 600)})
            refused += refusal(lambda folder=folder: contents(folder)) is not None  # type: ignore[misc]
    assert 0 < refused < 20


RUN = """
    import json, os, random, resource, signal, sys
    from pathlib import Path
    import torch
    from support import unverified
    from support.fuzz import damage
    from yolo26_executorch.artifacts.reading import load_manifest
    from yolo26_executorch.errors import ArtifactError
    from yolo26_executorch.runtime import executorch

    folder, count, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    path = folder / "model.pte"
    manifest, whole = load_manifest(folder), path.read_bytes()
    native = executorch._bindings()

    class Watched:  # says how far the native code has come
        Verification = native.Verification

        def _load_program(self, *args, **named):
            loaded = native._load_program(*args, **named)
            os.write(said, b"verified ")
            return loaded

    executorch._bindings = Watched
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for seed in range(first, first + count):
        chance = random.Random(seed)
        path.write_bytes(whole[: chance.randrange(len(whole))] if seed % 4 == 0 else damage(whole, chance))
        read, said = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(nowhere, 1), os.dup2(nowhere, 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(60)
            try:
                with executorch.ExecuTorchRunner(unverified(folder, manifest)) as runner:
                    runner(torch.zeros(1, 3, 8, 8))
                os.write(said, b"ran")
            except ArtifactError as error:
                os.write(said, b"refused" if str(error).isprintable() else b"not printable")
            except BaseException as error:
                os.write(said, repr(error).encode())
            os._exit(0)
        os.close(said)
        status = os.waitpid(child, 0)[1]
        words = os.read(read, 1000).decode().split(" ", 1)
        os.close(read)
        died = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
        print(json.dumps({"seed": seed, "cut": seed % 4 == 0, "verified": words[0] == "verified",
                          "end": died or words[-1]}))
"""


@pytest.mark.slow
def test_the_official_runtime_on_sealed_damage(program: bytes, tmp_path: Path) -> None:
    """Its check of the program's tables never crashes, and finds every cut.

    What it lets pass (operators' names, constants, what a delegate makes of its own part) may still end the process,
    as a few in a hundred do here: an artifact is code, and running one means trusting who made it.
    """
    specs = (TensorSpec("sums", (1, 4, 6, 6), "float32", ""), TensorSpec("features", (1, 4, 6, 6), "float32", ""))
    given = TensorSpec("images", (1, 3, 8, 8), "float32", "")
    folder = publish(tmp_path, make_manifest(backend="xnnpack", input=given, outputs=specs), program)
    count = 24
    done = run_python(RUN, str(folder), str(count), str(SEED * 1_000_000))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count, done.stderr[-2000:]
    crashes = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"}
    for row in found:
        assert row["end"] in {"ran", "refused"} | (crashes if row["verified"] else set()), row
        assert not row["cut"] or row["end"] == "refused", row
    ends = [row["end"] for row in found]
    assert ends.count("refused") > count / 3
    assert sum(end in crashes for end in ends) < count / 2


# ---- checkpoints, as far as they are looked at without being unpickled -----------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_checkpoints_that_are_damaged_archives(tmp_path: Path, method: int) -> None:
    path = tmp_path / "best.pt"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("best/data.pkl", "best/data/0", "best/été"):
            archive.writestr(name, name.encode() * 20)
    check_archive(path)
    whole = path.read_bytes()
    refused = 0
    for seed in seeds(60):
        with case(seed) as chance:
            path.write_bytes(damage(whole, chance))
            refused += refusal(lambda: check_archive(path), CheckpointError) is not None
    assert refused > 20
