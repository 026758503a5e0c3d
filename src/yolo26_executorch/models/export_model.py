"""A YOLO26 checkpoint as the module that is exported: the contract's outputs, computed inside the graph.

The only file that knows the inside of Ultralytics' modules (`ultralytics/nn/modules/head.py`, 8.4).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .checkpoints import Checkpoint
from .options import ExportOptions
from .tasks import MAX_DETECTIONS, Task, TensorSpec

TopK = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(B, N) float32, k → values and int64 indices, (B, k) each, sorted from the highest."""

DTYPES = {"tf32": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def sums(model: nn.Module) -> list[nn.Module]:
    """Return the modules of Ultralytics' whose output is a sum of their input and a branch."""
    from ultralytics.nn.modules.block import Bottleneck, PSABlock

    return [module for module in model.modules() if isinstance(module, Bottleneck | PSABlock)]


def readers_of_sums(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the children, as (parent, name), that multiply a sum or a mean which no module of its own has put out."""
    from ultralytics.nn.modules.block import C2PSA, Attention, Proto26, PSABlock
    from ultralytics.nn.modules.head import Classify, Depth

    # C2PSA follows SPPF, which adds its input to its output.
    readers: dict[type[nn.Module], str] = {
        C2PSA: "cv1", PSABlock: "ffn", Attention: "proj", Proto26: "feat_fuse", Classify: "linear",
    }  # fmt: skip
    found = [(module, readers[type(module)]) for module in model.modules() if type(module) in readers]
    # Each level of the pyramid is added to the enlarged one below it.
    refining = [module.refine for module in model.modules() if isinstance(module, Depth)]
    return found + [(blocks, name) for blocks in refining for name, _ in blocks.named_children()]


def attentions(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the attention modules, as (parent, name)."""
    from ultralytics.nn.modules.block import Attention

    return [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, Attention)
    ]


def _unchanged(values: Tensor) -> Tensor:
    return values


def aten_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """PyTorch's own top-k along the last axis."""
    values, indices = scores.topk(k, dim=-1)
    return values, indices


def aten_masks(coefficients: Tensor, protos: Tensor, boxes: Tensor) -> Tensor:
    """Assemble, threshold and crop masks as `ultralytics.utils.ops.process_mask(upsample=False)` does.

    Args:
        coefficients: float32 (B, K, C).
        protos: float32 (B, C, H, W).
        boxes: float32 (B, K, 4): corners x1, y1, x2, y2 in pixels of an image four times as large.

    Returns:
        uint8 (B, K, H, W): 1 inside an object.
    """
    batch, channels, height, width = protos.shape
    logits = torch.bmm(coefficients, protos.view(batch, channels, height * width))
    inside = logits.view(batch, -1, height, width) > 0
    left, top, right, bottom = torch.split((boxes / 4)[..., None], 1, dim=2)
    columns = torch.arange(width, dtype=torch.float32, device=boxes.device).view(1, 1, 1, width)
    rows = torch.arange(height, dtype=torch.float32, device=boxes.device).view(1, 1, height, 1)
    inside = inside & (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
    return inside.to(torch.uint8)


@dataclass(frozen=True)
class Dense:
    """Every prediction before the ranking: what the parity test checks a ranking against.

    boxes: float32 (B, A, 4), pixels: corners x1, y1, x2, y2, or center and size for rotated boxes.
    scores: float32 (B, A, classes), 0..1.
    extra: float32 (B, A, E): mask coefficients, keypoints (x, y[, visibility] …) or the angle; E may be 0.
    protos: float32 (B, E, H/4, W/4) mask prototypes, or None.
    """

    boxes: Tensor
    scores: Tensor
    extra: Tensor
    protos: Tensor | None


class ExportModel(nn.Module):
    """The network, its end-to-end head and the outputs of the contract.

    Input: float32 (B, 3, H, W), RGB, 0..1; or uint8 (B, H, W, 3), RGB, with `input="uint8"`.
    Outputs: the tensors of `output_specs`, in that order, float32 but for masks (uint8).

    The layers compute in the precision of the options; box decoding, ranking and everything after are float32 in every
    precision, since half precision cannot hold a pixel coordinate.
    """

    topk: TopK
    assemble: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Masks from coefficients, prototypes and boxes, as `aten_masks`."""
    rounded: Callable[[Tensor], Tensor]
    """Applied to float32 tensors that are multiplied as tf32; the identity unless a backend needs it."""

    def __init__(self, checkpoint: Checkpoint, options: ExportOptions) -> None:
        super().__init__()
        network: Any = checkpoint.network  # Ultralytics' modules have no types
        self.task: Task = checkpoint.task
        self.options = options
        self.names = checkpoint.names
        self.keypoint_shape = checkpoint.keypoint_shape
        self.dtype = DTYPES[options.precision]
        self.topk = aten_topk
        self.assemble = aten_masks
        self.rounded = _unchanged
        head = network.model[-1]
        if self.task.ranked:
            # Ultralytics' own export leaves the end-to-end head off; without it `fuse` would throw it away.
            head.end2end = True
        network.fuse(verbose=False)
        network.requires_grad_(False)
        # The other heads' own export mode puts out full-size logits, or depths of half precision.
        head.export = self.task.ranked
        self.layers: Any = network.model
        self.saved = frozenset(network.save)
        self.layers.to(self.dtype)
        if self.task.ranked:
            head.stride = head.stride.float()
        self._decode = getattr(self, f"_{self.task.decode}")
        self._warm_anchors()
        self.eval()

    @property
    def head(self) -> Any:
        """The head, Ultralytics' last layer."""
        return self.layers[-1]

    @property
    def example_input(self) -> Tensor:
        """A zero input of the exported shape and dtype."""
        spec = self.input_spec
        return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))

    @property
    def input_spec(self) -> TensorSpec:
        """What the exported model takes."""
        height, width = self.options.size
        batch = self.options.batch
        if self.options.input == "uint8":
            return TensorSpec(
                "images", (batch, height, width, 3), "uint8", "RGB images, NHWC, 0..255", ("R", "G", "B"), ("0..255",)
            )
        return TensorSpec("images", (batch, 3, height, width), "float32", "RGB images, NCHW, 0..1", (), ("0..1",))

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """What the exported model gives, in order."""
        height, width = self.options.size
        extra = self._extra_values()
        keypoints, values = self.keypoint_shape or (0, 0)
        sizes = {
            "B": self.options.batch,
            "K": self.detections,
            "H": height,
            "W": width,
            "H4": height // 4,
            "W4": width // 4,
            "H8": height // 8,
            "W8": width // 8,
            "EXTRA": extra,
            "RAW": 6 + extra,
            "KEYPOINTS": keypoints,
            "VALUES": values,
            "CLASSES": len(self.names),
        }
        return self.task.output_specs(self.options.outputs, sizes)

    @property
    def detections(self) -> int:
        """Rows of the ranking: 300, or fewer where a small image has fewer anchors."""
        if not self.task.ranked:
            return 0
        height, width = self.options.size
        anchors = sum(-(-height // int(s)) * -(-width // int(s)) for s in self.head.stride.tolist())
        return min(MAX_DETECTIONS, anchors)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the model; see the class."""
        if not self.task.ranked:
            names = [spec.name for spec in self.output_specs]
            values = zip(self.task.named, self._decode(images), strict=True)
            return tuple(value for row, value in values if row.name in names)
        dense = self.dense(images)
        boxes, scores, labels, extra = self._select(dense)
        if self.options.outputs == "ultralytics":
            rows = torch.cat([boxes, scores, labels, extra], dim=-1)
            return (rows,) if dense.protos is None else (rows, dense.protos)
        return tuple(self._decode(boxes, scores, labels, extra, dense.protos))

    def reference(self, images: Tensor) -> Dense | Tensor:
        """Return what an exported model is compared with: `dense`, or where nothing is ranked the last output."""
        return self.dense(images) if self.task.ranked else self.forward(images)[-1]

    def dense(self, images: Tensor) -> Dense:
        """Return every anchor's prediction, before the ranking."""
        head = self.head
        features = self._features(self._prepare(images))
        preds = head.forward_head(features, **head.one2one)
        protos = head.proto(features).float() if hasattr(head, "proto") else None
        preds = {name: value.float() for name, value in preds.items() if name != "feats"}
        # The head reads only shape and dtype of the features, to place its anchors.
        preds["feats"] = [feature.float() for feature in features]
        rows = head._inference(preds).transpose(1, 2)
        boxes, scores, extra = rows.split([4, head.nc, rows.shape[-1] - 4 - head.nc], dim=-1)
        return Dense(boxes, scores, extra, protos)

    def _prepare(self, images: Tensor) -> Tensor:
        images = images.permute(0, 3, 1, 2).to(self.dtype) / 255 if self.options.input == "uint8" else images
        return self.rounded(images) if self.dtype == torch.float32 else images.to(self.dtype)

    def _features(self, x: Tensor) -> list[Tensor]:
        """Run all layers but the head; returns the head's inputs."""
        kept: list[Any] = []
        for layer in self.layers[:-1]:
            x = layer(self._inputs_of(layer, x, kept))
            kept.append(x if layer.i in self.saved else None)
        features = self._inputs_of(self.head, x, kept)
        return features if isinstance(features, list) else [features]

    @staticmethod
    def _inputs_of(layer: Any, x: Tensor, kept: list[Any]) -> Any:
        if layer.f == -1:
            return x
        if isinstance(layer.f, int):
            return kept[layer.f]
        return [x if index == -1 else kept[index] for index in layer.f]

    def _select(self, dense: Dense) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rank as Ultralytics' `Detect.get_topk_index`: the best anchors, then the best (anchor, class) among them.

        Returns boxes (B, K, 4), scores (B, K, 1), labels (B, K, 1) float32, extra (B, K, E).
        """
        k = self.detections
        classes = dense.scores.shape[-1]
        _, anchors = self.topk(dense.scores.amax(-1), k)
        best = dense.scores.gather(1, anchors[..., None].expand(-1, -1, classes))
        scores, entries = self.topk(best.flatten(1), k)
        # Entries are below 2**24, so these float operations are exact; integer division is miscompiled by Inductor.
        entry = entries.to(torch.float64)
        row = torch.floor(entry / classes)
        labels = (entry - row * classes).float()
        chosen = anchors.gather(1, row.to(torch.int64))[..., None]
        boxes = dense.boxes.gather(1, chosen.expand(-1, -1, 4))
        extra = dense.extra.gather(1, chosen.expand(-1, -1, dense.extra.shape[-1]))
        return boxes, scores[..., None], labels[..., None], extra

    @staticmethod
    def _boxes(boxes: Tensor, scores: Tensor, labels: Tensor, extra: Tensor, protos: Tensor | None) -> list[Tensor]:
        top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
        centre = (top_left + bottom_right) / 2
        return [torch.cat([centre, bottom_right - top_left, scores, labels], dim=-1)]

    def _masks(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, extra: Tensor, protos: Tensor | None
    ) -> list[Tensor]:
        assert protos is not None
        masks = self.assemble(self.rounded(extra), self.rounded(protos), boxes)
        return [*self._boxes(boxes, scores, labels, extra, None), masks, extra, protos]

    def _keypoints(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, extra: Tensor, protos: Tensor | None
    ) -> list[Tensor]:
        assert self.keypoint_shape is not None
        points = extra.view(*extra.shape[:2], *self.keypoint_shape)
        return [*self._boxes(boxes, scores, labels, extra, None), points]

    @staticmethod
    def _rotated(boxes: Tensor, scores: Tensor, labels: Tensor, extra: Tensor, protos: Tensor | None) -> list[Tensor]:
        return [torch.cat([boxes, extra, scores, labels], dim=-1)]

    def _probabilities(self, images: Tensor) -> list[Tensor]:
        head = self.head
        features = torch.cat(self._features(self._prepare(images)), 1)
        pooled = head.pool(head.conv(features)).flatten(1)
        return [head.linear(pooled).float().softmax(1)]

    def _class_map(self, images: Tensor) -> list[Tensor]:
        head = self.head
        logits = head.classifier(self._features(self._prepare(images))[0]).float()
        full = interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)
        classes = full.argmax(1) if head.nc > 1 else full[:, 0] > 0
        return [classes.to(getattr(torch, self.output_specs[0].dtype)), logits]

    def _depth_map(self, images: Tensor) -> list[Tensor]:
        depth = self.head(self._features(self._prepare(images))).float()
        # As Ultralytics upsamples: the published weights were trained with aligned corners.
        return [interpolate(depth, scale_factor=4, mode="bilinear", align_corners=True)]

    def _extra_values(self) -> int:
        """Values of a raw row behind box, confidence and class; the prototypes' channels for segment."""
        head = self.head
        return int(next((getattr(head, name) for name in ("nm", "nk", "ne") if hasattr(head, name)), 0))

    def move_anchors(self, device: str) -> None:
        """Move the head's anchors, which are no buffers of the module, to a device."""
        if self.task.ranked:
            self.head.anchors, self.head.strides = self.head.anchors.to(device), self.head.strides.to(device)

    def _warm_anchors(self) -> None:
        """Let the head compute its anchors now, so that they are constants of the exported graph."""
        if self.task.ranked:
            height, width = self.options.size
            shapes = [(-(-height // int(s)), -(-width // int(s))) for s in self.head.stride]
            channels = [branch[0].conv.in_channels for branch in self.head.one2one_cv2]
            features = [torch.empty(self.options.batch, c, *shape) for c, shape in zip(channels, shapes, strict=True)]
            dummy = torch.zeros(self.options.batch, 4, sum(h * w for h, w in shapes))
            self.head._get_decode_boxes({"feats": features, "boxes": dummy, "angle": dummy[:, :1]})


def products(precision: str) -> str:
    """Return how float32 operands are multiplied where a model is made in a precision: "ieee" or "tf32"."""
    return "ieee" if precision == "fp32" else "tf32"


@contextlib.contextmanager
def float32_precision(precision: str) -> Iterator[None]:
    """Say how float32 products are computed on a GPU, "ieee" or "tf32", to eager kernels and Inductor alike.

    PyTorch keeps both an old and a new set of flags, and refuses to tell the old once they disagree. Inductor's
    convolutions read `cudnn.fp32_precision`, its matrix products and cuDNN the others; these settings agree.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.fp32_precision

    def set_flags(matmul_tf32: bool, cudnn_tf32: bool, cudnn_precision: str) -> None:
        matmul.allow_tf32, cudnn.allow_tf32 = matmul_tf32, cudnn_tf32
        cudnn.fp32_precision = cudnn_precision

    tf32 = precision == "tf32"
    set_flags(tf32, tf32, "tf32" if tf32 else "none")
    try:
        yield
    finally:
        set_flags(*before)
