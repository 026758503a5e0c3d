from __future__ import annotations

import copy
import enum
import os
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support import network, save_checkpoint
from yolo26_executorch.errors import CheckpointError, OptionError
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.checkpoints import Checkpoint, Source, check_archive
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS

NAMES = {0: "cat", 1: "dog", 2: "été | <b>"}


def load(path: Path, trusted: bool = False) -> Checkpoint:
    return checkpoints.load(Source("best", None, path), weights_dir=None, random=False, seed=0, trusted=trusted)


@pytest.mark.parametrize("task", TASKS)
def test_a_fine_tuned_checkpoint_brings_its_classes(tmp_path: Path, task: str) -> None:
    path = save_checkpoint(tmp_path / "best.pt", network(f"yolo26n{TASKS[task].suffix}.yaml", NAMES))
    checkpoint = load(path)
    assert (checkpoint.task.name, checkpoint.names) == (task, NAMES)
    assert (checkpoint.origin, checkpoint.file, checkpoint.seed) == ("user", "best.pt", None)
    assert checkpoint.sha256 is not None and len(checkpoint.sha256) == 64
    assert {parameter.dtype for parameter in checkpoint.network.parameters()} == {torch.float32}
    assert not checkpoint.network.training


def test_a_fine_tuned_checkpoint_brings_its_keypoints(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "best.pt", network("yolo26n-pose.yaml", NAMES, kpt_shape=[4, 2]))
    assert load(path).keypoint_shape == (4, 2)


def test_a_training_in_progress_is_taken_from_its_average(tmp_path: Path) -> None:
    trained = network("yolo26n-cls.yaml", NAMES)
    path = save_checkpoint(tmp_path / "last.pt", trained, model=None, ema=trained.half(), epoch=3)
    assert load(path).names == NAMES


def transforms_in(modules: Callable[[str, Any], None]) -> Any:
    """What Ultralytics attaches to classifiers: torchvision's transforms, without torchvision."""
    names = [
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.transforms",
        "torchvision.transforms.functional",
    ]
    made = {name: types.ModuleType(name) for name in names}
    for name, module in made.items():
        modules(name, module)
    kinds: dict[str, Any] = {}
    for name in ("Compose", "ToTensor", "Resize", "CenterCrop", "Normalize"):
        base = object if name in ("Compose", "ToTensor") else nn.Module
        kinds[name] = type(name, (base,), {"__module__": names[2]})
        setattr(made[names[2]], name, kinds[name])
    InterpolationMode = enum.Enum("InterpolationMode", {"BILINEAR": "bilinear"}, module=names[3])
    made[names[3]].InterpolationMode = InterpolationMode  # type: ignore[attr-defined]
    whole = kinds["Compose"]()
    whole.transforms = [kinds[name]() for name in kinds if name != "Compose"]
    whole.transforms[1].interpolation = InterpolationMode["BILINEAR"]
    whole.transforms[3].mean = torch.zeros(3)
    return whole


@pytest.mark.parametrize("trusted", [False, True])
def test_classifiers_load_without_the_torchvision_that_they_were_trained_with(tmp_path: Path, trusted: bool) -> None:
    trained = network("yolo26n-cls.yaml", NAMES)
    with pytest.MonkeyPatch.context() as patch:
        trained.transforms = transforms_in(lambda name, module: patch.setitem(sys.modules, name, module))
        path = save_checkpoint(tmp_path / "best.pt", trained)
    with zipfile.ZipFile(path) as archive:
        assert b"torchvision.transforms" in archive.read("best/data.pkl")
    before = [name for name in sys.modules if name.startswith("torchvision")]
    assert load(path, trusted).names == NAMES
    assert [name for name in sys.modules if name.startswith("torchvision")] == before


@pytest.mark.parametrize(
    ("config", "held"),
    [
        ("yolo11n.yaml", "a DetectionModel with a Detect head (yolo11n.yaml)"),
        ("yolov8n.yaml", "a DetectionModel with a Detect head (yolov8n.yaml)"),
        ("yolov10n.yaml", "a DetectionModel with a v10Detect head (yolov10n.yaml)"),
        ("yolo11n-cls.yaml", "a ClassificationModel with a Classify head (yolo11n-cls.yaml)"),
        ("yolov8n-cls.yaml", "a ClassificationModel with a Classify head (yolov8n-cls.yaml)"),
        ("yolov8n-seg.yaml", "a SegmentationModel with a Segment head (yolov8n-seg.yaml)"),
        ("yolo11n-pose.yaml", "a PoseModel with a Pose head (yolo11n-pose.yaml)"),
        ("yolo11n-obb.yaml", "a OBBModel with a OBB head (yolo11n-obb.yaml)"),
    ],
)
def test_other_yolos_are_refused_by_what_they_are(tmp_path: Path, config: str, held: str) -> None:
    path = save_checkpoint(tmp_path / "best.pt", network(config))
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert f"{path} holds {held}, not a YOLO26 model" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weight": torch.zeros(2)}, "holds no model"),
        ({"model.0.conv.weight": torch.zeros(2)}, "holds weights alone (a state_dict) and no network; save the whole"),
        ({"model": {"model.0.conv.weight": torch.zeros(2)}}, "holds weights alone (a state_dict)"),
        ({"model": None, "ema": None}, "holds no model"),
        ({"model": "yolo26n"}, "holds a str"),
        ({"model": nn.Sequential(nn.Linear(2, 2))}, "holds a Sequential"),
        (nn.Linear(2, 2), "cannot be loaded"),
        (torch.zeros(2), "cannot be loaded"),
        ([1, 2], "cannot be loaded"),
    ],
)
def test_what_is_no_checkpoint_of_ultralytics_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "best.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert f"{path} {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- class names ----

CLASSES = 3


def cls_checkpoint(path: Path, names: Any) -> Path:
    trained: Any = network("yolo26n-cls.yaml", NAMES)
    if names is None:
        del trained.names
    else:
        trained.names = names
    return save_checkpoint(path, trained)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (["cat", "dog", "ox"], ["cat", "dog", "ox"]),
        (("cat", "dog", "ox"), ["cat", "dog", "ox"]),
        (["ab", "cd", "ef"], ["ab", "cd", "ef"]),  # two letters each: once read as pairs
        ({"0": "cat", "1": "dog", "2": "ox"}, ["cat", "dog", "ox"]),
        ({2.0: "ox", 0.0: "cat", 1.0: "dog"}, ["cat", "dog", "ox"]),
        ({2: "ox", 0: "cat", 1: "dog"}, ["cat", "dog", "ox"]),
        ({0: 2026, 1: False, 2: 1.5}, ["2026", "False", "1.5"]),
    ],
)
def test_names_are_read_whatever_form_they_were_saved_in(tmp_path: Path, stored: Any, read: list[str]) -> None:
    names = load(cls_checkpoint(tmp_path / "best.pt", stored)).names
    assert list(names.items()) == list(enumerate(read))


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (["cat", "dog"], "has 2 class names, numbered 0 to 1; expected 3 names, numbered 0 to 2"),
        ({0: "cat"}, "has 1 class name, numbered 0; expected 3"),
        ({0: "a", 1: "b", 2: "c", 3: "d"}, "has 4 class names, numbered 0 to 3; expected 3"),
        ({1: "cat", 2: "dog", 3: "ox"}, "has 3 class names, numbered 1 to 3; expected 3"),
        ({0: "cat", 1: "dog", 3: "ox"}, "has 3 class names, numbered 0 to 3; expected 3"),
        ({0: "cat", "0": "dog", 1: "ox"}, "has 3 class names, numbered 0 to 1; expected 3"),
        ({"cat": 0, "dog": 1, "ox": 2}, "has 3 class names, numbered 'cat' to 'ox'; expected 3"),
        ({0: "cat", 0.5: "dog", 1: "ox"}, "has 3 class names, numbered 0 to 1; expected 3"),
        ({False: "cat", True: "dog", 2: "ox"}, "has 3 class names, numbered False to 2; expected 3"),
        ({0: "cat", 1: None, 2: "ox"}, "has the class name None, which is no text; expected 3"),
        ([["cat"], "dog", "ox"], "has the class name ['cat'], which is no text; expected 3"),
        ("cat", "has a str for class names; expected 3"),
        ({}, "has no class names; expected 3"),
        (None, "has no class names; expected 3"),
    ],
)
def test_names_that_do_not_fit_the_head_are_refused(tmp_path: Path, stored: Any, found: str) -> None:
    path = cls_checkpoint(tmp_path / "best.pt", stored)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path} {found}")
    assert str(caught.value).endswith("one for each class of its head; fix: set the model's `names` and save it again")
    assert "\n" not in str(caught.value)


def test_names_of_a_detector_are_compared_with_its_last_layers(tmp_path: Path) -> None:
    trained: Any = network("yolo26n.yaml", NAMES)
    trained.names = {0: "cat", 1: "dog"}
    with pytest.raises(CheckpointError, match="has 2 class names, numbered 0 to 1; expected 3 names"):
        load(save_checkpoint(tmp_path / "best.pt", trained))
    trained = network("yolo26n.yaml", NAMES)
    trained.model[-1].nc = 2
    with pytest.raises(CheckpointError, match="has a head of 3 classes that says 2; fix: train it again"):
        load(save_checkpoint(tmp_path / "best.pt", trained))


# ---- channels, heads, strides ----


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("config", ["yolo26n.yaml", "yolo26n-cls.yaml"])
def test_models_of_other_channels_than_three_are_refused(tmp_path: Path, config: str, channels: int) -> None:
    path = save_checkpoint(tmp_path / "best.pt", network(config, NAMES, channels=channels))
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert f"{path} takes images of {channels} channel" in str(caught.value)
    assert "only models of 3 channels, RGB, can be exported; fix: train with `channels: 3`" in str(caught.value)


@pytest.mark.parametrize("suffix", ["", "-seg", "-pose", "-obb"])
def test_a_missing_end_to_end_head_is_told(tmp_path: Path, suffix: str) -> None:
    path = save_checkpoint(tmp_path / "best.pt", network(f"yolo26n{suffix}.yaml", NAMES, end2end=False))
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert "without the end-to-end (one-to-one) head, which is the one that is exported; fix: train with" in message
    assert "not a YOLO26" not in message and "\n" not in message


def test_a_fused_checkpoint_is_exported_where_the_end_to_end_head_is_left(tmp_path: Path) -> None:
    options = ExportOptions(precision="fp32", imgsz=(320, 320))
    trained: Any = network("yolo26n.yaml", NAMES)
    given = []
    for fused in (False, True):
        if fused:
            trained.model[-1].end2end = True
            trained.fuse(verbose=False)
        model = ExportModel(load(save_checkpoint(tmp_path / "best.pt", copy.deepcopy(trained))), options)
        with torch.no_grad():
            given.append(model(random_input(model.input_spec, seed=1))[0])
    torch.testing.assert_close(given[1], given[0], atol=1e-1, rtol=1e-2)  # it is saved in half precision
    trained = network("yolo26n.yaml", NAMES)
    trained.model[-1].end2end = False
    trained.fuse(verbose=False)
    with pytest.raises(CheckpointError, match="without the end-to-end"):
        load(save_checkpoint(tmp_path / "best.pt", trained))


@pytest.mark.parametrize("shape", [[5, 3], [4, 2], [12], [3, 4], [0, 3]])
def test_a_keypoint_shape_that_does_not_fit_the_head_is_refused(tmp_path: Path, shape: list[int]) -> None:
    trained: Any = network("yolo26n-pose.yaml", NAMES, kpt_shape=[4, 3])
    trained.model[-1].kpt_shape = shape
    with pytest.raises(CheckpointError, match=r"has the keypoint shape .* and a head of 12 keypoint values; expected"):
        load(save_checkpoint(tmp_path / "best.pt", trained))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_of_any_precision_are_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    trained = network("yolo26n-cls.yaml", NAMES)
    path = save_checkpoint(tmp_path / "best.pt", copy.deepcopy(trained), model=trained.to(dtype))
    assert {parameter.dtype for parameter in load(path).network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("config", "stride"),
    [("yolo26n.yaml", 32), ("yolo26n-p2.yaml", 32), ("yolo26n-p6.yaml", 64), ("yolo26n-cls.yaml", 32)],
)
def test_the_stride_is_the_checkpoints(tmp_path: Path, config: str, stride: int) -> None:
    checkpoint = load(save_checkpoint(tmp_path / "best.pt", network(config, NAMES)))
    assert checkpoint.stride == stride
    options = ExportOptions(imgsz=(352, 352))
    if stride == 32:
        assert options.resolve(checkpoint.task, checkpoint.stride).size == (352, 352)
    else:
        with pytest.raises(OptionError, match=r"detect takes multiples of 64 .* nearest: --imgsz 320 or --imgsz 384"):
            options.resolve(checkpoint.task, checkpoint.stride)


def test_a_depth_model_has_the_classes_that_its_names_say(tmp_path: Path) -> None:
    trained: Any = network("yolo26n-depth.yaml")
    trained.names = {0: "depth"}
    assert load(save_checkpoint(tmp_path / "best.pt", trained)).names == {0: "depth"}
    trained.names = {1: "depth"}
    with pytest.raises(CheckpointError, match="has 1 class name, numbered 1; expected 1 name, numbered 0"):
        load(save_checkpoint(tmp_path / "best.pt", trained))


def test_a_semantic_model_s_names_are_compared_with_its_classifier(tmp_path: Path) -> None:
    trained: Any = network("yolo26n-sem.yaml", NAMES)
    trained.names = {0: "road"}
    with pytest.raises(CheckpointError, match="has 1 class name, numbered 0; expected 3 names"):
        load(save_checkpoint(tmp_path / "best.pt", trained))


def test_masks_need_prototypes_at_a_quarter_of_the_resolution(tmp_path: Path) -> None:
    trained: Any = network("yolo26n-seg.yaml", NAMES)
    trained.model[-1].stride = torch.tensor([4.0, 8.0, 16.0])
    with pytest.raises(CheckpointError, match="whose finest stride is 4 pixels; masks can be exported of"):
        load(save_checkpoint(tmp_path / "best.pt", trained))


# ---- a pickle that runs code ----


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("hidden", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, hidden: bool) -> None:
    mark, path = tmp_path / "was here", tmp_path / "best.pt"
    evil = Evil(f"touch '{mark}'")
    if hidden:
        trained = network("yolo26n-cls.yaml", NAMES)
        trained.transforms = evil  # type: ignore[assignment]
        save_checkpoint(path, trained)
    else:
        torch.save({"model": evil}, path)
    check_archive(path)
    with pytest.raises(CheckpointError, match=r"refused by Ultralytics' .*, add --trust-checkpoint") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    # Trusting it is what the flag says it is; and this shows that the refusal above was one.
    if hidden:
        assert load(path, trusted=True).names == NAMES
    else:
        with pytest.raises(CheckpointError, match="holds"):
            load(path, trusted=True)
    assert mark.exists()
