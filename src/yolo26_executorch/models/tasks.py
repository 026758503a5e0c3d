"""The tasks: one row each, holding everything that differs between them.

No other module asks which task it has before it: it reads a field of the row, or calls the function that is named
there. A new task is a row, a method of `export_model` for its head, and its tests.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import preprocess, summary

if TYPE_CHECKING:
    from torch import Tensor

MAX_DETECTIONS = 300
"""Rows of the end-to-end head's output, Ultralytics' `max_det`."""

CLASS_INDEX = "class index"
"""The dtype of an output of class indices: uint8, or int32 above 256 classes."""

OUTPUT_FORMATS = ("named", "ultralytics")

WITHOUT = "without_"
"""Before an output's name: the method of a program that computes all outputs but that one."""

_BOX = ("x", "y", "w", "h")
_RANKED = "sorted by confidence, highest first"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an exported model, as the manifest records it.

    Examples:
        >>> output = load_manifest("yolo26_cuda_exports/yolo26n").outputs[0]
        >>> output.name, output.shape, output.columns
        ('detections', (1, 300, 6), ('x', 'y', 'w', 'h', 'confidence', 'class_id'))
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    description: str
    columns: tuple[str, ...] = ()
    """Names of the last axis' entries; empty where they are no columns."""
    units: tuple[str, ...] = ()
    """Unit of each column (or one for all): px, rad, 0..1, index, …"""


@dataclass(frozen=True)
class OutputRow:
    """An output whose shape is written in symbols, bound to numbers by `Task.output_specs`."""

    name: str
    dims: tuple[str | int, ...]
    dtype: str
    description: str
    columns: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()
    """Outputs beside it that this one is computed from, so that who has those needs it not."""
    words: Callable[[Tensor], str] | None = None
    """Says a row's part of the output in the summary; None where there is nothing for people to read."""

    def bind(self, sizes: Mapping[str, int]) -> TensorSpec:
        """Put numbers for the symbols B, K, H, W, H4, W4, H8, W8, EXTRA, RAW, KEYPOINTS, VALUES and CLASSES."""
        shape = tuple(d if isinstance(d, int) else sizes[d] for d in self.dims)
        columns = self.columns[: shape[-1]] if self.columns else ()
        units = self.units[: shape[-1]] if len(self.units) > 1 else self.units
        dtype = self.dtype
        if dtype == CLASS_INDEX:
            dtype = "uint8" if sizes["CLASSES"] <= 256 else "int32"
        return TensorSpec(self.name, shape, dtype, self.description, columns, units)


@dataclass(frozen=True)
class Weights:
    """Published weights of a task beside those that are its name's own."""

    suffix: str
    """What stands behind the size in their name."""
    dataset: str
    """As `Task.dataset`; empty where the classes are words that a user names, or the checkpoint's own list."""
    native: tuple[int, int] | None = None
    """As `Task.native`; None where it is the task's."""
    prefix: str = "yolo26"
    """What stands before the size."""
    config: str | None = None
    """What stands behind the size in the name of the architecture file, where it is not the task's suffix."""
    published: bool = True
    """Whether Ultralytics publishes weights; otherwise there is the architecture alone, to be trained."""
    stride: int = 32
    """The largest stride in pixels, of which the input's sides must be multiples."""
    model_class: str | None = None
    """Class of `ultralytics.nn.tasks` that the architecture is built by, where it is not the task's."""
    vocabulary: str | None = None
    """Of an open-vocabulary model: "words" that a user names when exporting, or a "fixed" list of its own."""


@dataclass(frozen=True)
class Task:
    """One task of YOLO26.

    Examples:
        >>> task = TASKS["obb"]
        >>> task.native, task.ranked, task.rotated
        ((1024, 1024), True, True)
        >>> [output.shape for output in TASKS["classify"].output_specs("named", {"B": 1, "CLASSES": 10})]
        [(1, 10)]
    """

    name: str
    suffix: str
    """What Ultralytics puts behind the size in a variant's name: '', '-seg', …"""
    head: str
    """Class name of the head in `ultralytics.nn.modules`."""
    model_class: str
    """Class of `ultralytics.nn.tasks` that the architecture is built by."""
    predictor: str
    """Ultralytics' predictor: module of `ultralytics.models.yolo`:class."""
    validator: str
    """Ultralytics' validator, likewise; `ultralytics_class` imports either."""
    native: tuple[int, int]
    """Height and width of the input that the published weights were made for, pixels."""
    dataset: str
    """Ultralytics' description of the data set that the published weights were trained on; it names the classes."""
    pipeline_tag: str
    """Hugging Face's name of the task."""
    named: tuple[OutputRow, ...]
    raw: tuple[OutputRow, ...]
    kind: str
    """What is predicted for an image: "rankings", rows ranked by confidence; "probabilities" of the classes;
    "class_map" or "depth_map". The tables of `parity.compare`, `vision.results` and `vision.validators` go by it."""
    metrics: tuple[str, ...]
    """Ultralytics' metrics that tell whether two models are equally accurate, the task's own last."""
    decode: str
    """The method of `export_model.ExportModel`, without its underscore, that makes the named outputs: of ranked rows,
    or of the input where nothing is ranked."""
    fit: Callable[[preprocess.Image, tuple[int, int]], preprocess.Image]
    """Brings an image to the input's (height, width) as Ultralytics does for the task."""
    summarize: Callable[..., list[str]]
    """Words the outputs for one image; see `summary.lines`."""
    confident: str | None = None
    """What has a confidence in the outputs, a box or the whole image; None where nothing has one."""
    shared_head: bool = False
    """Whether older YOLOs have a head of that class, too."""
    open_head: str | None = None
    """Class name of the head that takes embeddings of words for classes, and becomes `head` once they are fused in."""
    class_layer: str | None = None
    """The layer below the head that has an output for each class; None where classes have none."""
    further: tuple[Weights, ...] = ()
    """Published weights beside the task's own."""
    has_classes: bool = True
    """Whether what is found belongs to classes, which a model may know or not."""
    in_guide: bool = True
    """Whether the task is one of the five whose 25 variants are exported where no model is named."""
    extra: tuple[str, ...] = ()
    """The quantities of `parity.tolerances` that an anchor predicts behind box and scores, repeated over its values;
    where nothing is ranked, that of the output which is compared."""

    @property
    def ranked(self) -> bool:
        """Whether the outputs are rows ranked by confidence."""
        return self.kind == "rankings"

    @property
    def rotated(self) -> bool:
        """Whether boxes have an angle, so that they are center and size wherever they are computed."""
        return any("angle" in row.columns for row in self.named)

    def output_specs(self, output_format: str, sizes: Mapping[str, int]) -> tuple[TensorSpec, ...]:
        """Return the outputs of a format ("named" or "ultralytics") with every size bound.

        `sizes` binds the symbols that `OutputRow.bind` names.
        """
        rows = {"named": self.named, "ultralytics": self.raw}[output_format]
        return tuple(row.bind(sizes) for row in rows)


def ultralytics_class(place: str) -> Any:
    """Import a class that a row of the table names as module:class of `ultralytics.models.yolo`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"ultralytics.models.yolo.{module}"), name)


_DETECTIONS = OutputRow(
    "detections",
    ("B", "K", 6),
    "float32",
    f"boxes as centre and size in pixels of the network's input, {_RANKED}",
    (*_BOX, "confidence", "class_id"),
    ("px", "px", "px", "px", "0..1", "index"),
)
_RAW_ROWS = OutputRow(
    "predictions",
    ("B", "K", "RAW"),
    "float32",
    f"Ultralytics' end-to-end rows, {_RANKED}: corners, confidence, class, then the task's own values",
    ("x1", "y1", "x2", "y2", "confidence", "class_id"),
    ("px", "px", "px", "px", "0..1", "index"),
)
_PROBABILITIES = OutputRow(
    "probabilities", ("B", "CLASSES"), "float32", "class probabilities, summing to 1", (), ("0..1",)
)

_OBJECTS: Any = {
    "kind": "rankings", "fit": preprocess.fit_letterboxed, "summarize": summary.objects,
    "confident": "box",
    "class_layer": "one2one_cv3.0.2",
}  # fmt: skip
"""What all tasks with ranked rows have in common."""

_BOX_MAP = "metrics/mAP50-95(B)"

DETECT = Task(
    "detect", "", "Detect", "DetectionModel",
    "detect.predict:DetectionPredictor", "detect.val:DetectionValidator",
    (640, 640), "coco.yaml", "object-detection",
    named=(_DETECTIONS,), raw=(_RAW_ROWS,), decode="boxes", metrics=(_BOX_MAP,), **_OBJECTS,
    shared_head=True, open_head="YOLOEDetect",
    further=(
        Weights("-objv1-150", "Objects365.yaml"), Weights("-distill", "coco.yaml"),
        Weights("-p2", "coco.yaml", config="-p2", published=False),
        Weights("-p6", "coco.yaml", config="-p6", published=False, stride=64),
    ),
)  # fmt: skip
_PROTOS = OutputRow(
    "protos", ("B", "EXTRA", "H4", "W4"), "float32",
    "mask prototypes: a mask's logits are their sum weighted by its row's coefficients, above 0 inside the object",
    (), ("logit",),
)  # fmt: skip

SEGMENT = Task(
    "segment", "-seg", "Segment26", "SegmentationModel",
    "segment.predict:SegmentationPredictor", "segment.val:SegmentationValidator",
    (640, 640), "coco.yaml", "image-segmentation",
    named=(
        _DETECTIONS,
        OutputRow(
            "masks", ("B", "K", "H4", "W4"), "uint8",
            "1 inside the object, cropped to its box, at a quarter of the input's resolution", (), ("0 or 1",),
            ("coefficients", "protos"), summary.mask_area,
        ),
        OutputRow(
            "coefficients", ("B", "K", "EXTRA"), "float32",
            "a row's mask coefficients, from which `protos` make its mask at any resolution", (), ("logit",),
        ),
        _PROTOS,
    ),
    raw=(_RAW_ROWS, _PROTOS),
    decode="masks", metrics=(_BOX_MAP, "metrics/mAP50-95(M)"), **_OBJECTS, extra=("coefficient",),
    open_head="YOLOESegment26",
    further=(
        Weights("-objv1-seg", "Objects365.yaml"),
        Weights("-seg", "", prefix="yoloe-26", model_class="YOLOESegModel", vocabulary="words"),
        Weights("-seg-pf", "", prefix="yoloe-26", model_class="YOLOESegModel", config="-seg", vocabulary="fixed"),
    ),
)  # fmt: skip
POSE = Task(
    "pose", "-pose", "Pose26", "PoseModel",
    "pose.predict:PosePredictor", "pose.val:PoseValidator",
    (640, 640), "coco-pose.yaml", "keypoint-detection",
    named=(
        _DETECTIONS,
        OutputRow(
            "keypoints", ("B", "K", "KEYPOINTS", "VALUES"), "float32",
            "keypoints in pixels of the network's input, with visibility where the model has it",
            ("x", "y", "visibility"), ("px", "px", "0..1"), (), summary.keypoints,
        ),
    ),
    raw=(_RAW_ROWS,), decode="keypoints", metrics=(_BOX_MAP, "metrics/mAP50-95(P)"), **_OBJECTS,
    extra=("keypoint_px", "keypoint_px", "visibility"),
)  # fmt: skip
OBB = Task(
    "obb", "-obb", "OBB26", "OBBModel",
    "obb.predict:OBBPredictor", "obb.val:OBBValidator",
    (1024, 1024), "DOTAv1.yaml", "object-detection",
    named=(
        OutputRow(
            "detections", ("B", "K", 7), "float32",
            f"rotated boxes as centre and size in pixels of the network's input and angle in radians, {_RANKED}",
            (*_BOX, "angle", "confidence", "class_id"), ("px", "px", "px", "px", "rad", "0..1", "index"),
        ),
    ),
    raw=(
        OutputRow(
            "predictions", ("B", "K", "RAW"), "float32",
            f"Ultralytics' end-to-end rows, {_RANKED}",
            (*_BOX, "confidence", "class_id", "angle"), ("px", "px", "px", "px", "0..1", "index", "rad"),
        ),
    ),
    decode="rotated", metrics=(_BOX_MAP,), **_OBJECTS, extra=("angle_rad",),
)  # fmt: skip
CLASSIFY = Task(
    "classify", "-cls", "Classify", "ClassificationModel",
    "classify.predict:ClassificationPredictor", "classify.val:ClassificationValidator",
    (224, 224), "ImageNet.yaml", "image-classification",
    named=(_PROBABILITIES,), raw=(_PROBABILITIES,), kind="probabilities", decode="probabilities",
    metrics=("metrics/accuracy_top1",), fit=preprocess.center_crop, summarize=summary.classes, confident="picture",
    shared_head=True,
    class_layer="linear", extra=("probability",),
)  # fmt: skip

_LOGITS = OutputRow(
    "logits", ("B", "CLASSES", "H8", "W8"), "float32",
    "class logits at an eighth of the input's resolution, from which maps of any resolution are made: upsample, then "
    "take the largest", (), ("logit",),
)  # fmt: skip
SEMANTIC = Task(
    "semantic", "-sem", "SemanticSegment", "SemanticSegmentationModel",
    "semantic.predict:SemanticSegmentationPredictor", "semantic.val:SemanticSegmentationValidator",
    (1024, 2048), "cityscapes.yaml", "image-segmentation",
    named=(
        OutputRow(
            "classes", ("B", "H", "W"), CLASS_INDEX,
            "the class of each pixel; where there is one class, 1 inside it", (), ("index",), ("logits",),
        ),
        _LOGITS,
    ),
    raw=(_LOGITS,), kind="class_map", decode="class_map", metrics=("metrics/pixel_acc", "metrics/mIoU"),
    fit=preprocess.fit_letterboxed, summarize=summary.class_map, class_layer="classifier.1",
    further=(Weights("-sem-ade20k", "ade20k.yaml", (512, 512)),), in_guide=False, extra=("logit",),
)  # fmt: skip
_DEPTH = OutputRow(
    "depth", ("B", 1, "H", "W"), "float32", "the distance of what each pixel shows from the camera", (), ("m",)
)
DEPTH = Task(
    "depth", "-depth", "Depth", "DepthModel", "depth.predict:DepthPredictor", "depth.val:DepthValidator",
    (640, 640), "nyu-depth.yaml", "depth-estimation",
    named=(_DEPTH,), raw=(_DEPTH,), kind="depth_map", decode="depth_map",
    metrics=("metrics/abs_rel", "metrics/delta1"), fit=preprocess.fit_stretched, summarize=summary.depth_map,
    has_classes=False, in_guide=False, extra=("depth",),
)  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in (DETECT, SEGMENT, POSE, OBB, CLASSIFY, SEMANTIC, DEPTH)}
"""Every task by Ultralytics' own name for it.

Examples:
    >>> TASKS["segment"].suffix
    '-seg'
"""

GUIDE_TASKS: dict[str, Task] = {name: task for name, task in TASKS.items() if task.in_guide}
"""The five of the 25 variants that are exported where no model is named."""
