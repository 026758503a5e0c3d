"""Validation with eager PyTorch in the artifact's place, against Ultralytics' own; and of XNNPACK artifacts."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shapes import dataset
from shapes.scenes import NAMES
from support import SLOW, each_task, make_manifest, publish, shapes_checkpoint
from yolo26_executorch import runtime
from yolo26_executorch.errors import ArtifactError, CheckpointError, UsageError
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.checkpoints import Source
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.runtime.eager import EagerRunner
from yolo26_executorch.vision.torchvision_shim import import_torchvision
from yolo26_executorch.vision.validate import ValReport, validate

PICTURES = 16

Place = Callable[..., Path]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What validation takes as `data`, by task; drawn once."""
    made: dict[str, Path] = {}

    def get(task: str) -> Path:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            made[task] = dataset.write(folder, task, {"train": 6, "val": PICTURES}, seed=3)
        return made[task]

    return get


def load(task: str) -> checkpoints.Checkpoint:
    return checkpoints.load(Source("shapes", None, shapes_checkpoint(task)), weights_dir=None, random=False, seed=0)


@pytest.fixture
def eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Makes an artifact of a task's checkpoint whose runner is the model itself, damaged."""

    def make(task: str, damage: Callable[[ExportModel], object] = lambda model: None, **options: Any) -> Path:
        path = shapes_checkpoint(task)
        settings: dict[str, Any] = {"precision": "fp32", "imgsz": (320, 320), **options}
        model = ExportModel(load(task), ExportOptions(**settings))
        with torch.no_grad():
            damage(model)
        identity = checkpoints.CheckpointRecord("user", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), None)
        manifest = make_manifest(
            task, "xnnpack", "user", options=model.options, classes=model.names, keypoint_shape=model.keypoint_shape,
            input=model.input_spec, outputs=model.output_specs, checkpoint=identity,
        )  # fmt: skip
        monkeypatch.setattr(runtime, "open_runner", lambda folder, runner, device=None: EagerRunner(model))
        return publish(tmp_path / "-".join(map(str, [task, *options])), manifest)

    return make


def listing(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- the figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", each_task("segment", "classify"))
def test_figures_are_those_of_ultralytics(
    task: str, eager: Place, drawn: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Ultralytics leaves a cache beside the labels.
    data = tmp_path / "copy"
    shutil.copytree(drawn(task) if drawn(task).is_dir() else drawn(task).parent, data)
    if (data / "data.yaml").exists():
        text = (data / "data.yaml").read_text().replace(str(drawn(task).parent), str(data))
        (data / "data.yaml").write_text(text)
    source = data / "data.yaml" if (data / "data.yaml").exists() else data
    before = listing(data)
    report = validate(eager(task), source)
    assert listing(data) == before
    assert capfd.readouterr() == ("", "")
    assert (report.pictures, report.skipped, report.split, report.task) == (PICTURES, {}, "val", task)
    assert report.instances > PICTURES if TASKS[task].ranked else report.instances == PICTURES

    import_torchvision()
    from ultralytics import YOLO

    # Left to itself it takes the other head and suppression, a picture's own shape, and a memory format of its own.
    theirs = YOLO(shapes_checkpoint(task)).val(
        data=str(source), nms=False, rect=False, imgsz=320, batch=1, channels_last=False, device="cpu", workers=0,
        plots=False, save_dir=str(tmp_path / "theirs"),
    )  # fmt: skip
    expected = {key: float(value) for key, value in theirs.results_dict.items() if key != "fitness"}
    assert report.artifact.metrics == pytest.approx(expected, abs=1e-6)
    assert report.primary in expected
    assert expected[report.primary] > 0


@pytest.mark.parametrize("task", each_task("detect"))
def test_an_artifact_is_as_accurate_as_pytorch(
    task: str, exported: Callable[[str], Path], drawn: Callable[[str], Path]
) -> None:
    report = validate(exported(task), drawn(task), against_pytorch=True, checkpoint=shapes_checkpoint(task))
    assert report.pytorch is not None
    assert (report.artifact.runner, report.pytorch.runner) == ("executorch", "eager")
    assert report.artifact.metrics[report.primary] > {"semantic": 0.2}.get(task, 0.4)  # it has learnt something
    assert report.largest_difference is not None
    assert report.largest_difference <= 0.0005
    found = report.agreement
    assert found is not None
    assert (found.images, found.missing, found.extra) == (PICTURES, 0, 0)
    kind = TASKS[task].kind
    if kind in ("rankings", "probabilities"):
        assert found.objects > PICTURES if TASKS[task].ranked else found.objects == PICTURES
        assert found.confidence is not None
        assert found.confidence.worst < 0.001
    assert (found.pixels is not None and found.pixels.worst >= 0.999) == (kind == "class_map")
    assert (found.depth_relative is not None and found.depth_relative.worst <= 0.005) == (kind == "depth_map")
    for distance in (found.box_px, found.keypoint_px):
        assert distance is None or distance.worst < 0.1
    if task == "segment":
        assert found.mask_iou is not None
        assert found.mask_iou.mean >= 0.999
        assert found.mask_iou.worst >= 0.99
    assert report.disagreements == []
    data = report.to_json()
    assert json.loads(json.dumps(data, allow_nan=False))["differences"] == report.differences
    assert data["primary"] == report.primary
    assert set(report.artifact.speed_ms) == {"preprocess", "inference", "postprocess"}


def test_masks_are_the_same_named_and_raw(eager: Place, drawn: Callable[[str], Path]) -> None:
    named, raw = (
        validate(eager("segment", outputs=outputs), drawn("segment")).artifact.metrics
        for outputs in ("named", "ultralytics")
    )
    assert [key for key in named if key.endswith("(M)")]
    assert named == pytest.approx(raw, abs=1e-6)


@pytest.mark.parametrize("task", ["pose", "classify"])
def test_batches_and_bytes_change_nothing(task: str, eager: Place, drawn: Callable[[str], Path]) -> None:
    """Five does not go into the number of pictures.

    A batch of five is summed in another order on some CPUs, and precision and recall are read between two confidences,
    so that the last digits of a score show in them: 1.1e-6 was seen. One object found or missed is far more.
    """
    one = validate(eager(task), drawn(task)).artifact.metrics
    five = validate(eager(task, batch=5, input="uint8"), drawn(task)).artifact.metrics
    assert five == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
def test_the_input_need_not_be_square(eager: Place, drawn: Callable[[str], Path]) -> None:
    square = validate(eager("detect"), drawn("detect"))
    wide = validate(
        eager("detect", imgsz=(320, 448)), drawn("detect"), against_pytorch=True, checkpoint=shapes_checkpoint("detect")
    )
    assert wide.imgsz == (320, 448)
    assert wide.largest_difference == pytest.approx(0, abs=1e-5)
    assert wide.disagreements == []
    # The shapes are as large as before: no picture is wider than it was.
    assert wide.artifact.metrics == pytest.approx(square.artifact.metrics, abs=0.15)


def test_damage_shows(eager: Place, drawn: Callable[[str], Path]) -> None:
    def damage(model: ExportModel) -> None:
        next(module for module in model.modules() if isinstance(module, nn.Conv2d)).weight *= 0.3

    report = validate(
        eager("detect", damage), drawn("detect"), against_pytorch=True, checkpoint=shapes_checkpoint("detect")
    )
    assert report.largest_difference is not None
    assert report.differences is not None
    assert report.largest_difference == abs(report.differences["metrics/mAP50-95(B)"]) > 0.001


class MasksAlone(EagerRunner):
    """An artifact of the first version: masks at a quarter of the resolution, and nothing to make others from."""

    def __init__(self, model: ExportModel) -> None:
        super().__init__(model)
        self._every = self.outputs
        self.outputs = self.outputs[:2]

    def __call__(self, images: Any, **wanted: Any) -> dict[str, Tensor]:
        (self.outputs, kept) = (self._every, self.outputs)
        try:
            return super().__call__(images, **wanted)
        finally:
            self.outputs = kept


class Shifted(EagerRunner):
    """Prototypes one pixel beside their place."""

    def __call__(self, images: Any, **wanted: Any) -> dict[str, Tensor]:
        given = super().__call__(images, **wanted)
        return {name: values.roll(1, -1) if name == "protos" else values for name, values in given.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MasksAlone, Shifted])
def test_masks_that_are_not_pytorch_s_are_seen(
    kind: type[EagerRunner], eager: Place, drawn: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics hardly show it: both of these are within 0.02."""
    folder = eager("segment")
    model = ExportModel(load("segment"), ExportOptions(precision="fp32", imgsz=(320, 320)))
    monkeypatch.setattr(runtime, "open_runner", lambda folder, runner, device=None: kind(model))
    report = validate(folder, drawn("segment"), against_pytorch=True, checkpoint=shapes_checkpoint("segment"))
    assert report.agreement is not None
    assert report.agreement.missing == 0
    assert report.agreement.mask_iou is not None
    assert report.agreement.mask_iou.mean < 0.98
    assert [words for words in report.disagreements if "the masks' mean IoU is 0." in words]


class Beside(EagerRunner):
    """Maps a little beside their place: logits by a cell to the right, depths by a hundredth farther away."""

    def __call__(self, images: Any, **wanted: Any) -> dict[str, Tensor]:
        given = super().__call__(images, **wanted)
        moved = {"logits": lambda values: values.roll(1, -1), "depth": lambda values: values * 1.01}
        return {name: moved.get(name, lambda values: values)(values) for name, values in given.items()}


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("semantic", "of the pixels are of the same class"),
        pytest.param("depth", "worst depth is off by 1.0", marks=SLOW),
    ],
)
def test_maps_that_are_not_pytorch_s_are_seen(
    task: str, words: str, eager: Place, drawn: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A depth's own metrics do not: they scale each image's depths first."""
    folder = eager(task)
    same = validate(folder, drawn(task), against_pytorch=True, checkpoint=shapes_checkpoint(task))
    assert (same.disagreements, same.largest_difference) == ([], 0)
    model = ExportModel(load(task), ExportOptions(precision="fp32", imgsz=(320, 320)))
    monkeypatch.setattr(runtime, "open_runner", lambda folder, runner, device=None: Beside(model))
    report = validate(folder, drawn(task), against_pytorch=True, checkpoint=shapes_checkpoint(task))
    assert [told for told in report.disagreements if words in told]


@pytest.mark.parametrize(("task", "folder", "value"), [("semantic", "masks", 255), ("depth", "depth", 0)])
def test_maps_without_labels_measure_nothing(
    task: str, folder: str, value: int, eager: Place, small: Callable[..., Path]
) -> None:
    from PIL import Image

    data = small(task)
    for path in (data.parent / folder / "val").iterdir():
        with Image.open(path) as image:
            Image.fromarray(np.full_like(np.array(image), value)).save(path)
    with pytest.raises(UsageError, match="the val images have no labels"):
        validate(eager(task), data)


@SLOW
def test_polygons_are_maps_too(eager: Place, small: Callable[..., Path]) -> None:
    """Ultralytics draws them over a class of its own, the background, which is the model's last."""
    folder = eager("semantic")
    outlined, drawn = (validate(folder, small(task)).artifact.metrics for task in ("segment", "semantic"))
    assert outlined == pytest.approx(drawn, abs=0.02)


def test_depths_have_no_classes_to_compare(eager: Place, small: Callable[..., Path]) -> None:
    assert validate(eager("depth"), small("depth", names=["metres"])).pictures == 3
    with pytest.raises(UsageError, match="not labelled with the classes of best: expected 7"):
        validate(eager("semantic"), small("depth"))


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set of three pictures and changes its data.yaml."""

    def make(task: str = "detect", **changes: Any) -> Path:
        import yaml

        path = dataset.write(tmp_path / f"small {task}", task, {"train": 1, "val": 3})
        if path.is_file():
            content = {**yaml.safe_load(path.read_text()), **changes}
            path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return make


@pytest.mark.slow
def test_plots_are_drawn_where_they_are_wanted(
    eager: Place, small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = eager("detect")
    validate(folder, small())
    assert not (tmp_path / "runs").exists()
    validate(folder, small(), plots=True, against_pytorch=True, checkpoint=shapes_checkpoint("detect"))
    for place in (tmp_path / "runs" / "val" / "best", tmp_path / "runs" / "val" / "best" / "pytorch"):
        assert {"confusion_matrix.png", "val_batch0_pred.jpg"} < {path.name for path in place.iterdir()}


# ---- what the data set may not be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"names": ["a", "b"]},
            r"not labelled with the classes of best: expected \d+ \(.*\), given 2 \(a, b\); class 0 is",
        ),
        ({"names": None, "nc": 3}, r"given 3 \(class_0, class_1, class_2\)"),
        ({"names": None}, "either 'names' or 'nc' are required"),
        ({"val": "images/none"}, r"images not found, missing path '.*none'; nothing is downloaded"),
        ({"val": None}, r"data.yaml cannot be used as a data set: 'val:' key missing\. 'train' and 'val' are required"),
        ({"path": "/nowhere"}, "missing path '/nowhere/images/val'"),
        ({"channels": 4}, r"images of 4 channels, and the model takes 3 \(RGB\)"),
        ({"names": [1, {2: []}]}, "given 2 "),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(
    changes: dict[str, Any], said: str, eager: Place, small: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        validate(eager("detect"), small(**changes))
    assert "\n" not in str(caught.value)


def test_classes_without_names_are_counted(eager: Place, small: Callable[..., Path]) -> None:
    folder = eager("detect")
    assert validate(folder, small(names=None, nc=len(NAMES))).pictures == 3


def test_keypoints_must_be_the_model_s(eager: Place, small: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match=r"expected kpt_shape \[5, 3\], given \[4, 3\]"):
        validate(eager("pose"), small("pose", kpt_shape=[4, 3]))
    with pytest.raises(UsageError, match=r"expected kpt_shape \[5, 3\], given none"):
        validate(eager("pose"), small("detect"))


def test_labels_must_be_the_task_s(eager: Place, small: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="cannot be used for segment: Segment dataset requires equal numbers"):
        validate(eager("segment"), small("detect"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yaml", "no data set at .*none.yaml: expected a data.yaml; check the path"),
        ("https://example.com/data.yaml", "is an address: download the data set"),
        ("coco8.yaml", r"coco8.yaml cannot be used as a data set: .*missing path .*; nothing is downloaded"),
        ("picture.jpg", "is no data set for detect: expected a data.yaml"),
        ("broken.yaml", "cannot be used as a data set"),
        ("empty", "cannot be used as a data set: No YAML file found in"),
    ],
)
def test_a_data_set_that_is_not_there_is_refused(
    name: str, said: str, eager: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.jpg").write_bytes(b"")
    (tmp_path / "broken.yaml").write_text("train: [")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=said) as caught:
        validate(eager("detect"), name)
    assert "\n" not in str(caught.value)


def test_a_folder_of_classes_must_fit(eager: Place, small: Callable[..., Path], tmp_path: Path) -> None:
    folder, data = eager("classify"), small("classify")
    with pytest.raises(UsageError, match="has no folder test: there are train, val; choose with --split"):
        validate(folder, data, split="test")
    with pytest.raises(UsageError, match=r"no data set at .*nowhere: expected a folder with a folder val in it"):
        validate(folder, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"given 1 \(train\); the model has no 'train'"):
        data.rename(tmp_path / "val")
        shutil.rmtree(tmp_path / "val" / "val")
        validate(folder, tmp_path)
    (tmp_path / "other" / "val").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"is not sorted by the classes of best: .*, given none"):
        validate(folder, tmp_path / "other")
    assert not list(tmp_path.glob("*_split"))


# ---- what is left alone ----------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_downloaded_run_or_written(
    eager: Place, small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils import downloads

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the network was reached for")

    monkeypatch.setattr("socket.socket.connect", reached)
    monkeypatch.setattr(downloads, "safe_download", reached)
    folder, left = eager("detect"), tmp_path / "left"
    with pytest.raises(UsageError, match="missing path"):
        validate(folder, small(val="images/none", download=f"open({str(left)!r}, 'w')"))
    data = small()
    np.save(data.parent / "labels" / "val.cache", Trap(left), allow_pickle=True)  # type: ignore[arg-type]
    (data.parent / "labels" / "val.cache.npy").rename(data.parent / "labels" / "val.cache")
    before = listing(data.parent)
    assert validate(folder, data).pictures == 3
    assert listing(data.parent) == before
    assert not left.exists()
    pickle.loads(pickle.dumps(Trap(left)))  # noqa: S301
    assert left.exists()


@pytest.mark.parametrize("task", ["detect", "classify", "semantic", "depth"])
def test_damaged_pictures_are_named_and_left_alone(task: str, eager: Place, small: Callable[..., Path]) -> None:
    data = small(task)
    root = data if data.is_dir() else data.parent
    first, second, third = sorted(path for path in root.rglob("*.jpg") if "val" in path.parts)
    first.write_bytes(first.read_bytes()[:-2000])
    second.write_text("no picture")
    third.write_bytes(third.read_bytes() + b"more")  # which is no damage
    before = listing(root)
    report = validate(eager(task), data)
    assert (report.pictures, list(report.skipped)) == (1, [str(first), str(second)])
    assert all(report.skipped.values())
    assert listing(root) == before
    third.unlink()
    with pytest.raises(UsageError, match=rf"the val images cannot be used for {task}: No ") as caught:
        validate(eager(task), data)
    assert "\n" not in str(caught.value)


def test_pictures_without_labels_measure_nothing(eager: Place, small: Callable[..., Path]) -> None:
    data = small()
    for path in (data.parent / "labels" / "val").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="the val images have no labels"):
        validate(eager("detect"), data)


def test_ultralytics_is_as_before(eager: Place, small: Callable[..., Path]) -> None:
    from ultralytics.data import utils
    from ultralytics.engine import validator
    from ultralytics.utils import LOGGER

    def state() -> list[object]:
        return [validator.AutoBackend, validator.check_det_dataset, utils.check_image, *LOGGER.handlers]

    before = state()
    validate(eager("detect"), small())
    assert state() == before
    with pytest.raises(UsageError):
        validate(eager("segment"), small())
    assert state() == before


# ---- the artifact and its checkpoint ---------------------------------------------------------------------------------


def test_artifact_and_checkpoint_are_looked_for_first(
    eager: Place, small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="no artifact at"):
        validate(tmp_path / "none", small())
    folder = eager("detect")
    monkeypatch.setattr(
        "yolo26_executorch.models.checkpoints.default_weights_dir", lambda: tmp_path
    )  # may be this repository's
    with pytest.raises(CheckpointError, match=r"was made from yolo26n-shapes\.pt with SHA-256 .* no such file in"):
        monkeypatch.chdir(tmp_path)
        validate(folder, small(), against_pytorch=True)
    with pytest.raises(CheckpointError, match="has another SHA-256"):
        validate(folder, small(), against_pytorch=True, checkpoint=shapes_checkpoint("classify"))
    report = validate(folder, small(), against_pytorch=True, weights_dir=shapes_checkpoint("detect").parent)
    assert isinstance(report, ValReport)
    assert report.largest_difference == 0
    assert report.versions["ultralytics"]
