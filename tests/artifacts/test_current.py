from __future__ import annotations

import dataclasses
from pathlib import Path

import support
from support import make_manifest
from yolo26_executorch.artifacts.current import is_current
from yolo26_executorch.artifacts.manifest import PROGRAM
from yolo26_executorch.artifacts.reading import verify


def test_current_only_with_same_options_checkpoint_and_test(tmp_path: Path) -> None:
    manifest = verify(support.publish(tmp_path, make_manifest()))
    folder, options, checkpoint = tmp_path / "yolo26n", manifest.options, manifest.checkpoint
    assert is_current(folder, options, checkpoint, tested=True)
    assert is_current(folder, options, {**checkpoint, "file": "elsewhere.pt"}, tested=True)
    assert not is_current(folder, dataclasses.replace(options, batch=2), checkpoint, tested=True)
    for key, value in {"origin": "user", "sha256": "a" * 64, "seed": 4}.items():
        assert not is_current(folder, options, {**checkpoint, key: value}, tested=True)
    assert not is_current(tmp_path / "yolo26s", options, checkpoint, tested=True)
    (folder / PROGRAM).write_bytes(b"damaged")
    assert not is_current(folder, options, checkpoint, tested=True)


def test_untested_artifact_is_current_only_for_who_wants_no_test(tmp_path: Path) -> None:
    manifest = verify(support.publish(tmp_path, make_manifest(test=None)))
    folder = tmp_path / "yolo26n"
    assert is_current(folder, manifest.options, manifest.checkpoint, tested=False)
    assert not is_current(folder, manifest.options, manifest.checkpoint, tested=True)
