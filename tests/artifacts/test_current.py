from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import support
from support import make_manifest
from yolo26_executorch.artifacts.current import Identity, State, Wanted
from yolo26_executorch.artifacts.manifest import PROGRAM, Platform
from yolo26_executorch.artifacts.reading import verify

MANIFEST = make_manifest(platform=Platform("Linux", "x86_64", ("8.6",), ("8.9",)))
WANTED = Wanted(Identity(True, seed=3, variant="yolo26n"), MANIFEST.options, True, "Linux", "x86_64", ("9.0",))


def test_what_was_made_by_the_same_export_is_current() -> None:
    assert WANTED.state_of(MANIFEST) is State.CURRENT


@pytest.mark.parametrize(
    "manifest, state",
    [
        ({"checkpoint": replace(MANIFEST.checkpoint, seed=4)}, State.OTHER_CHECKPOINT),
        ({"checkpoint": support.CHECKPOINTS["user"]}, State.OTHER_CHECKPOINT),
        ({"variant": "yolo26s"}, State.OTHER_CHECKPOINT),  # of the same seed, but not the same weights
        ({"options": replace(MANIFEST.options, batch=2)}, State.OTHER_OPTIONS),
        ({"options": replace(MANIFEST.options, imgsz=(320, 320))}, State.OTHER_OPTIONS),
        ({"platform": Platform("Linux", "aarch64", ("8.6",), ("8.9",))}, State.UNFIT),
        ({"platform": Platform("Windows", "x86_64", ("8.6",), ("8.9",))}, State.UNFIT),
        ({"platform": Platform("Linux", "x86_64", ("8.6",), ())}, State.UNFIT),
        ({"test": None}, State.UNTESTED),
    ],
)
def test_what_differs_is_told(manifest: dict[str, Any], state: State) -> None:
    assert WANTED.state_of(replace(MANIFEST, **manifest)) is state


@pytest.mark.parametrize(
    "wanted, state",
    [
        ({"capabilities": ("8.0", "9.0")}, State.CURRENT),  # one of the machine's GPUs runs it
        ({"capabilities": ("8.0", "7.5")}, State.UNFIT),
        ({"capabilities": ()}, State.CURRENT),
        ({"architectures": ("8.6", "10.0")}, State.CURRENT),
        ({"architectures": ("8.0", "9.0")}, State.UNFIT),  # each one was asked for
        ({"machine": "aarch64"}, State.UNFIT),
        ({"system": None, "machine": None}, State.CURRENT),
        ({"options": replace(MANIFEST.options, imgsz=None)}, State.CURRENT),  # detect's own size is 640
    ],
)
def test_an_artifact_must_fit_who_runs_it(wanted: dict[str, Any], state: State) -> None:
    assert replace(WANTED, **wanted).state_of(MANIFEST) is state


def test_the_native_size_is_the_variant_s() -> None:
    name = "yolo26n-sem-ade20k"
    manifest = replace(make_manifest("semantic", "xnnpack"), variant=name)
    options = replace(manifest.options, imgsz=(512, 512))  # and the task's is 1024 x 2048
    wanted = replace(WANTED, checkpoint=Identity(True, seed=3, variant=name), options=replace(options, imgsz=None))
    assert wanted.state_of(replace(manifest, options=options)) is State.CURRENT
    assert wanted.state_of(replace(manifest, options=replace(options, imgsz=(1024, 2048)))) is State.OTHER_OPTIONS


def test_published_weights_that_are_not_here_are_told_by_name() -> None:
    published = make_manifest(origin="published")
    wanted = replace(WANTED, checkpoint=Identity(False, variant="yolo26n"), options=published.options, capabilities=())
    assert wanted.state_of(published) is State.CURRENT
    assert wanted.state_of(make_manifest(origin="user", options=published.options)) is State.OTHER_CHECKPOINT
    named = replace(published, variant="yolo26s")  # another variant's, by --name in the same place
    assert wanted.state_of(named) is State.OTHER_CHECKPOINT


def test_cpu_artifacts_fit_any_machine() -> None:
    manifest = make_manifest(backend="xnnpack")
    wanted = replace(WANTED, options=manifest.options, system="Darwin", machine="arm64")
    assert wanted.state_of(manifest) is State.CURRENT


def test_only_an_intact_artifact_is_found(tmp_path: Path) -> None:
    folder = support.publish(tmp_path, MANIFEST)
    untested = replace(WANTED, tested=False)
    assert WANTED.find(folder) == untested.find(folder) == verify(folder)
    assert replace(WANTED, machine="aarch64").find(folder) is None
    assert WANTED.find(tmp_path / "yolo26s") is None
    (folder / PROGRAM).write_bytes(b"damaged")
    assert WANTED.find(folder) is None
