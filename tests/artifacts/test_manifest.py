from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support import CHECKPOINTS, make_manifest
from support.manifests import RECORD, valid
from yolo26_executorch.artifacts.manifest import MANIFEST, PROGRAM, WEIGHTS, Manifest, Platform
from yolo26_executorch.errors import ArtifactError
from yolo26_executorch.models.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("origin", CHECKPOINTS)
@pytest.mark.parametrize("backend", ["cuda", "xnnpack"])
def test_a_manifest_survives_json(task: str, backend: str, origin: str) -> None:
    manifest = make_manifest(task, backend, origin, files={PROGRAM: RECORD, WEIGHTS: RECORD})
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


DAMAGE = {
    **{f"no {name}": (drop(name), name) for name in valid()},
    "foreign field": (put("colour", value="red"), "colour"),
    "other schema": (put("schema", value=2), "schema: expected 1, given 2"),
    "schema is true": (put("schema", value=True), "schema"),
    "name is a path": (put("name", value="../x"), "name"),
    "name is a number": (put("name", value=3), "name: expected str, given 3"),
    "unknown variant": (put("variant", value="yolo27n"), "variant"),
    "variant of another task": (put("variant", value="yolo26n-seg"), "variant"),
    "unknown task": (put("task", value="depth"), "task"),
    "unknown backend": (put("backend", value="metal"), "backend"),
    "backend differs from options": (put("options", "backend", value="xnnpack"), "options.backend"),
    "illegal option": (put("options", "precision", value="int4\nx"), "options: --precision int4"),
    "option of another type": (put("options", "batch", value="1"), "options.batch: expected int, given '1'"),
    "size is a float": (put("options", "imgsz", value=[640.0, 640]), "options.imgsz[0]"),
    "size has one side": (put("options", "imgsz", value=[640]), "options.imgsz"),
    "size unresolved": (put("options", "imgsz", value=None), "options.imgsz"),
    "unknown origin": (put("checkpoint", "origin", value="moon"), "checkpoint.origin"),
    "random weights with a hash": (put("checkpoint", "sha256", value="a" * 64), "checkpoint.sha256"),
    "published weights without a hash": (put("checkpoint", "origin", value="published"), "checkpoint.sha256"),
    "random weights without a seed": (put("checkpoint", "seed", value=None), "checkpoint.seed"),
    "class index is a word": (put("classes", "two", value="x"), "classes"),
    "class index is missing": (drop("classes", "0"), "classes"),
    "no classes": (put("classes", value={}), "classes"),
    "keypoint shape of one": (put("keypoint_shape", value=[17]), "keypoint_shape"),
    "keypoint shape of zero": (put("keypoint_shape", value=[0, 3]), "keypoint_shape"),
    "input shape is text": (put("input", "shape", value="1,3"), "input.shape: expected tuple[int, ...]"),
    "negative shape": (put("input", "shape", value=[1, -3]), "shape"),
    "no outputs": (put("outputs", value=[]), "outputs"),
    "scalar output": (put("outputs", 0, "shape", value=[]), "shape"),
    "strange dtype": (put("outputs", 0, "dtype", value="os.system"), "dtype"),
    "delegate count is text": (put("delegate", "delegated", value="7"), "delegate.delegated"),
    "negative count": (put("delegate", "outside", "aten::x", value=-1), "delegate"),
    "system is no name": (put("platform", "system", value="Linux\n"), "platform"),
    "capability is a word": (put("platform", "gpu_binaries", value=["sm_90"]), "platform.gpu_binaries"),
    "PTX is a word": (put("platform", "gpu_ptx", value=["9"]), "platform.gpu_ptx"),
    "version is a number": (put("versions", "torch", value=2.13), "versions['torch']"),
    "seconds are text": (put("seconds", "load", value="1"), "seconds['load']"),
    "seconds are endless": (put("seconds", "load", value=10**400), "seconds['load']"),
    "created without a zone": (put("created", value="2026-11-22T08:00:00"), "created"),
    "created is no time": (put("created", value="yesterday"), "created"),
    "files is a list": (put("files", value=[]), "files"),
    "no program": (drop("files", PROGRAM), "files"),
    "no weights": (drop("files", WEIGHTS), "files"),
    "file outside": (put("files", "../../etc/passwd", value={"sha256": "a" * 64, "bytes": 1}), "files (names)"),
    "file with a separator": (put("files", "a/b", value={"sha256": "a" * 64, "bytes": 1}), "files (names)"),
    "absolute file": (put("files", "/etc/passwd", value={"sha256": "a" * 64, "bytes": 1}), "files (names)"),
    "file '..'": (put("files", "..", value={"sha256": "a" * 64, "bytes": 1}), "files (names)"),
    "hidden file": (put("files", ".x", value={"sha256": "a" * 64, "bytes": 1}), "files (names)"),
    "names itself": (put("files", MANIFEST, value={"sha256": "a" * 64, "bytes": 1}), "files (names)"),
    "hash too short": (put("files", PROGRAM, "sha256", value="ab"), "files (SHA-256)"),
    "size is true": (put("files", PROGRAM, "bytes", value=True), "files['model.pte'].bytes: expected int"),
    "size is negative": (put("files", PROGRAM, "bytes", value=-1), "files (sizes)"),
    "test is a list": (put("test", value=[1]), "test"),
    "figure is infinite": (put("test", "x", value=float("inf")), "plain JSON"),
    "text is broken Unicode": (put("command", value="\ud800"), "plain JSON"),
    "not JSON at all": (put("test", "x", value=object()), "plain JSON"),
}


@pytest.mark.parametrize("change, said", DAMAGE.values(), ids=DAMAGE)
def test_damaged_manifest_is_refused(change: Callable[[dict[str, Any]], None], said: str) -> None:
    data = valid()
    assert Manifest.from_json(data)
    change(data)
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json(data)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [None, [], "x", 1, True, {}, {"schema": 1}])
def test_foreign_data_is_no_manifest(data: object) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    ("binaries", "ptx", "capability", "runs"),
    [
        (("9.0",), (), (9, 0), True),
        (("8.0",), (), (8, 6), True),
        (("8.6",), (), (8, 0), False),
        (("9.0",), (), (8, 6), False),
        (("8.0",), (), (9, 0), False),
        (("8.0",), ("8.0",), (9, 0), True),
        (("9.0",), ("9.0",), (8, 9), False),
        ((), ("7.5",), (7, 5), True),
        ((), ("7.5",), (7, 0), False),
        (("8.0", "9.0"), (), (9, 0), True),
        (("9.0",), ("9.0",), (10, 0), True),
        (("10.0a",), (), (10, 0), True),
        (("10.0a",), (), (10, 3), False),
        ((), (), (9, 0), False),
    ],
)
def test_gpu_rule(binaries: tuple[str, ...], ptx: tuple[str, ...], capability: tuple[int, int], runs: bool) -> None:
    assert Platform("Linux", "x86_64", binaries, ptx).runs_on(capability) is runs
