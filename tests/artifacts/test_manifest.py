from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import CHECKPOINTS, make_manifest
from support.manifests import RECORD, valid
from yolo26_executorch.artifacts.manifest import MANIFEST, PROGRAM, WEIGHTS, Manifest, Platform
from yolo26_executorch.errors import ArtifactError
from yolo26_executorch.models.options import ExportOptions
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
    "no option": (drop("options", "precision"), "options.precision: missing"),
    "newer schema": (put("schema", value=3), "schema: expected 1 or 2, given 3"),
    "older schema": (put("schema", value=0), "schema: expected 1 or 2, given 0"),
    "schema is true": (put("schema", value=True), "schema"),
    "name is a path": (put("name", value="../x"), "name"),
    "name is a number": (put("name", value=3), "name: expected str, given int"),
    "unknown variant": (put("variant", value="yolo27n"), "variant"),
    "variant of another task": (put("variant", value="yolo26n-seg"), "variant"),
    "unknown task": (put("task", value="track"), "task"),
    "unknown backend": (put("backend", value="metal"), "backend"),
    "backend differs from options": (put("options", "backend", value="xnnpack"), "options.backend"),
    "illegal option": (put("options", "precision", value="int4\nx"), "options: --precision int4"),
    "option of another type": (put("options", "batch", value="1"), "options.batch: expected int, given str"),
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
    "input shape is text": (put("input", "shape", value="1,3"), "input.shape: expected array, given str"),
    "negative shape": (put("input", "shape", value=[1, -3]), "shape"),
    "no outputs": (put("outputs", value=[]), "outputs"),
    "scalar output": (put("outputs", 0, "shape", value=[]), "shape"),
    "strange dtype": (put("outputs", 0, "dtype", value="os.system"), "dtype"),
    "glibc is a word": (put("platform", "glibc", value="2.28; rm"), "platform.glibc"),
    "driver is a word": (put("platform", "driver", value="new"), "platform.driver"),
    "architecture is a word": (put("platform", "architectures", value=["sm_90"]), "platform.architectures"),
    "delegate count is text": (put("delegate", "delegated", value="7"), "delegate.delegated"),
    "negative count": (put("delegate", "outside", "aten::x", value=-1), "delegate"),
    "system is no name": (put("platform", "system", value="Linux\n"), "platform"),
    "capability is a word": (put("platform", "gpu_binaries", value=["sm_90"]), "platform.gpu_binaries"),
    "PTX is a word": (put("platform", "gpu_ptx", value=["9"]), "platform.gpu_ptx"),
    "version is a number": (put("versions", "torch", value=2.13), "versions[...]"),
    "seconds are text": (put("seconds", "load", value="1"), "seconds[...]"),
    "seconds are endless": (put("seconds", "load", value=10**400), "seconds[...]"),
    "created without a zone": (put("created", value="2026-11-22T08:00:00"), "created"),
    "created is no time": (put("created", value="yesterday"), "created"),
    "files is a list": (put("files", value=[]), "files"),
    "no program": (drop("files", PROGRAM), "files"),
    "no weights": (drop("files", WEIGHTS), "files"),
    "file outside": (put("files", "../../etc/passwd", value={"sha256": "a" * 64, "bytes": 1}), "files"),
    "file with a separator": (put("files", "a/b", value={"sha256": "a" * 64, "bytes": 1}), "files"),
    "absolute file": (put("files", "/etc/passwd", value={"sha256": "a" * 64, "bytes": 1}), "files"),
    "file '..'": (put("files", "..", value={"sha256": "a" * 64, "bytes": 1}), "files"),
    "hidden file": (put("files", ".x", value={"sha256": "a" * 64, "bytes": 1}), "files"),
    "names itself": (put("files", MANIFEST, value={"sha256": "a" * 64, "bytes": 1}), "files"),
    "hash too short": (put("files", PROGRAM, "sha256", value="ab"), "files[...].sha256"),
    "size is true": (put("files", PROGRAM, "bytes", value=True), "files[...].bytes: expected int, given bool"),
    "size is negative": (put("files", PROGRAM, "bytes", value=-1), "files[...].bytes"),
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


def test_fields_of_a_newer_version_are_passed_over() -> None:
    data = valid()
    known = Manifest.from_json(data)
    for place in (data, data["options"], data["platform"], data["checkpoint"], data["input"], data["files"][PROGRAM]):
        place["colour"] = {"red": [1, 2]}
    assert Manifest.from_json(data) == known


def test_fields_that_were_added_may_be_missing() -> None:
    data = valid()
    for place, names in (("platform", ("architectures", "glibc", "glibcxx", "driver")), ("checkpoint", ("folder",))):
        for name in names:
            del data[place][name]
    platform = Manifest.from_json(data).platform
    assert (platform.architectures, platform.glibc, platform.glibcxx, platform.driver) == ((), None, None, None)


def test_a_manifest_of_schema_1_is_read() -> None:
    """As the version before wrote it."""
    path = Path(__file__).with_name("manifest-schema-1.json")
    stored = json.loads(path.read_bytes())
    assert stored["schema"] == 1
    manifest = Manifest.decode(path.read_bytes())
    written = manifest.to_json()
    assert written["schema"] == 2  # what is written of it is what is known of it
    assert Manifest.from_json(written) == manifest

    def same(old: Any, new: Any) -> None:
        if isinstance(old, dict):
            for name in old:
                same(old[name], new[name])
        else:
            assert new == old

    same({name: value for name, value in stored.items() if name != "schema"}, json.loads(json.dumps(written)))


@pytest.mark.parametrize("field", ["platform", "files", "delegate", "seconds", "classes"])
def test_schema_1_is_read_as_strictly(field: str) -> None:
    stored = json.loads(Path(__file__).with_name("manifest-schema-1.json").read_bytes())
    del stored[field]
    with pytest.raises(ArtifactError, match=f"{field}: missing"):
        Manifest.from_json(stored)


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


@pytest.mark.parametrize(
    ("backend", "named", "binaries", "ptx", "computed"),
    [
        ("xnnpack", "tf32", (), (), "fp32"),
        ("xnnpack", "fp32", (), (), "fp32"),
        ("cuda", "tf32", ("9.0a",), (), "tf32"),
        ("cuda", "tf32", ("8.0",), ("8.0",), "tf32"),
        ("cuda", "tf32", ("7.5",), (), "fp32"),
        ("cuda", "tf32", ("7.0", "7.5"), ("7.5",), "fp32"),
        ("cuda", "tf32", ("7.5", "10.0a"), (), "tf32"),
        ("cuda", "fp16", ("7.5",), (), "fp16"),
        ("cuda", "fp32", ("9.0",), (), "fp32"),
    ],
)
def test_the_precision_is_what_is_computed_in(
    backend: str, named: str, binaries: tuple[str, ...], ptx: tuple[str, ...], computed: str
) -> None:
    """GPUs before compute capability 8.0, and CPUs, have no TF32; what was asked for stays in the options."""
    system, machine = ("Linux", "x86_64") if backend == "cuda" else ("any", "any")
    options = ExportOptions(backend=backend, precision=named)
    manifest = make_manifest(backend=backend, options=options, platform=Platform(system, machine, binaries, ptx))
    assert manifest.precision == computed
    assert manifest.to_json()["options"]["precision"] == named
