from __future__ import annotations

import dataclasses
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from support import CHECKPOINTS, make_manifest
from yolo26_executorch.artifacts.current import Identity
from yolo26_executorch.artifacts.manifest import Platform
from yolo26_executorch.errors import UsageError
from yolo26_executorch.exporter.existing import identity_of, is_another_runs, refuse_to_replace, stale
from yolo26_executorch.exporter.jobs import Job
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.variants import VARIANTS
from yolo26_executorch.system.files import sha256_of

VARIANT = Source("yolo26n", VARIANTS["yolo26n"], None)
SAME = "c" * 64


@pytest.mark.parametrize(
    ("identity", "origin", "differs"),
    [
        (Identity(True, seed=3, variant="yolo26n"), "random", False),
        (Identity(True, seed=4, variant="yolo26n"), "random", True),
        (Identity(True, seed=3, variant="yolo26s"), "random", True),
        (Identity(True, seed=3, variant="yolo26n"), "published", True),
        (Identity(True, SAME), "published", False),
        (Identity(True, SAME), "user", False),  # the same file, named another way
        (Identity(True, "d" * 64), "user", True),
        (Identity(True, SAME), "random", True),
        (Identity(False, variant="yolo26n"), "published", False),
        (Identity(False, variant="yolo26s"), "published", True),
        (Identity(False, variant="yolo26n"), "random", True),
        (Identity(False, variant="yolo26n"), "user", True),
    ],
)
def test_checkpoints_are_told_by_hash_or_by_seed_and_variant(identity: Identity, origin: str, differs: bool) -> None:
    assert identity.differs(make_manifest(origin=origin)) is differs


def test_what_is_known_of_a_checkpoint_before_it_is_loaded(tmp_path: Path) -> None:
    assert identity_of(VARIANT, ExportOptions(random_weights=True, seed=7), None) == Identity(
        True, seed=7, variant="yolo26n"
    )
    options = ExportOptions()
    assert not identity_of(VARIANT, options, tmp_path).known
    path = tmp_path / "yolo26n.pt"
    path.write_bytes(b"weights")
    assert identity_of(VARIANT, options, tmp_path) == Identity(True, sha256_of(path), variant="yolo26n")
    assert identity_of(Source("mine", None, path), options, None) == Identity(True, sha256_of(path))


def test_another_trainings_artifact_is_told_from_an_older_one_of_the_same() -> None:
    source = Source("train-best", None, Path("/r/segment/train/weights/best.pt"))
    former = replace(CHECKPOINTS["user"], folder="detect/train/weights")
    manifest = make_manifest(origin="user", checkpoint=former)
    retrained = make_manifest(origin="user", checkpoint=replace(former, folder="segment/train/weights"))
    changed = Identity(True, "d" * 64)
    assert is_another_runs(source, manifest, changed)
    assert not is_another_runs(source, retrained, changed)
    assert not is_another_runs(source, manifest, Identity(True, SAME))  # a copy of it


def test_refusals_name_what_is_there_what_is_wanted_and_what_to_type() -> None:
    manifest = make_manifest(origin="user")
    refuse_to_replace([("out/mine", manifest, Identity(True, SAME))])
    places = [(f"out/{name}", manifest, Identity(True, "d" * 64)) for name in ("mine", "b", "c", "d", "e")]
    with pytest.raises(UsageError) as caught:
        refuse_to_replace(places)
    said = str(caught.value)
    assert said.startswith(
        "out/mine holds an artifact that was made from another checkpoint (best.pt, SHA-256 cccccccc"
    )
    for words in ("this one: SHA-256 dddddddd", "so do out/b, out/c, out/d, …", "--force", "--name NAME"):
        assert words in said
    with pytest.raises(UsageError, match=r"\(random weights of seed 3; this one: the published weights\)"):
        refuse_to_replace([("out/yolo26n", make_manifest(), Identity(False))])


def test_what_is_skipped_fits_this_machine() -> None:
    here, elsewhere = platform.system(), "Plan9"
    identity = Identity(True, seed=3, variant="yolo26n")
    options = ExportOptions(backend="cuda", random_weights=True, seed=3)
    job = Job(VARIANT, Path(), options, None, True, True, False, "", capabilities=("7.5", "8.6"))
    manifest = make_manifest(platform=Platform(here, platform.machine(), ("8.0",), ()))
    assert stale(manifest, job, identity) is None  # 8.6 runs what was made for 8.0
    assert stale(manifest, dataclasses.replace(job, capabilities=("9.0",)), identity) == "for other machines"
    foreign = make_manifest(platform=Platform(elsewhere, platform.machine(), ("8.0",), ()))
    assert stale(foreign, job, identity) == "for other machines"
    assert stale(foreign, job, identity, here=False) is None
    assert stale(manifest, job, Identity(True, seed=4, variant="yolo26n")) == "made from another checkpoint"
    other = dataclasses.replace(job, options=dataclasses.replace(options, batch=2))
    assert stale(manifest, other, identity) == "made with other options"
