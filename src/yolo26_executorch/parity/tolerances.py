"""What the parity test measures, in which unit, and how far an error may go in each precision.

The limits were set after measuring all tasks with random weights, sizes n and x, on smooth noise, 320 and 1024 pixels,
against float32: float32 by other CPU kernels, fp16 and bf16 by PyTorch on a CPU, tf32 by rounding the input and the
weights of every convolution. The worst errors were 1 % (fp32), 20 % (tf32, fp16) and 30 % (bf16) of what is allowed
here. They hold for networks that do not amplify rounding; random weights that saturate on a photograph do.

Of maps the same was measured on a CPU, with yolo26n-shapes-sem and -depth and with random weights of n, at 320 pixels,
on a photograph, a drawn scene and smooth noise. At worst, of what is allowed: logits 32 % in tf32, 40 % in fp16 and
23 % in bf16, classes of pixels 51, 60 and 57 %, depths 65, 68 and 46 %; XNNPACK's logits in fp32 0.2 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """An error may reach `absolute`, in the quantity's unit, plus `relative` times the quantity's scale."""

    absolute: float
    relative: float = 0.0

    def of(self, scale: Tensor) -> Tensor:
        """Return the largest error allowed for each scale."""
        return self.absolute + self.relative * scale


@dataclass(frozen=True)
class Measure:
    """A quantity that is compared: its unit, what its errors grow with, and its tolerances."""

    name: str
    unit: str
    scale: Callable[[Tensor, Tensor], Tensor]
    """The reference's values (N, V) and boxes (N, 4: x, y, w, h) → scales (N, V)."""
    fp32: Tolerance
    """Two correct float32 kernels differ in the order of their sums alone."""
    ten_bits: Tolerance
    """For tf32 and fp16, which both keep ten bits behind the point."""
    seven_bits: Tolerance
    """For bf16: rounds eight times as coarsely again."""


def _side(values: Tensor, boxes: Tensor) -> Tensor:
    """Return the box's longer side: sides are predicted in strides, so rounding grows with them."""
    return boxes[:, 2:].abs().amax(1, keepdim=True).expand_as(values)


def _reach(values: Tensor, boxes: Tensor) -> Tensor:
    """Return how far an object reaches: its box's longer side, or its farthest keypoint from the box's center."""
    centre = boxes[:, :2].repeat(1, values.shape[1] // 2)
    return torch.maximum((values - centre).abs().amax(1, keepdim=True), _side(values, boxes))


def _slope(values: Tensor, boxes: Tensor) -> Tensor:
    """Return p (1 - p), the slope of sigmoid and softmax: what an error in the logit makes of a probability."""
    return values * (1 - values)


def _magnitude(values: Tensor, boxes: Tensor) -> Tensor:
    """Return the size of the value itself."""
    return values.abs()


def _largest(values: Tensor, boxes: Tensor) -> Tensor:
    """Return the row's largest value: sums of products round with their largest terms."""
    return values.abs().amax(1, keepdim=True).expand_as(values)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("box_px", "px", _side, Tolerance(0.02, 1e-4), Tolerance(0.5, 0.005), Tolerance(4, 0.04)),
        Measure("score", "0..1", _slope, Tolerance(1e-6, 4e-4), Tolerance(1e-4, 0.04), Tolerance(1e-3, 0.25)),
        Measure("keypoint_px", "px", _reach, Tolerance(0.02, 1e-4), Tolerance(0.5, 0.005), Tolerance(4, 0.04)),
        Measure("visibility", "0..1", _slope, Tolerance(1e-6, 4e-4), Tolerance(1e-4, 0.04), Tolerance(1e-3, 0.25)),
        Measure("angle_rad", "rad", _magnitude, Tolerance(1e-3, 1e-4), Tolerance(0.03, 0.005), Tolerance(0.2, 0.04)),
        Measure("coefficient", "logit", _largest, Tolerance(1e-3, 1e-3), Tolerance(0.02, 0.02), Tolerance(0.15, 0.15)),
        Measure("proto", "logit", _largest, Tolerance(1e-3, 1e-3), Tolerance(0.02, 0.02), Tolerance(0.15, 0.15)),
        # Of 300 masks on white noise the worst was off by 0.057 in fp16 (yolo26n-shapes-seg, H100 and H200); masks that
        # are thresholded at a quarter of the resolution are off by 0.25.
        Measure("mask_iou", "1 - IoU", _magnitude, Tolerance(0.01), Tolerance(0.1), Tolerance(0.2)),
        Measure("full_mask_iou", "1 - IoU", _magnitude, Tolerance(0.01), Tolerance(0.1), Tolerance(0.2)),
        Measure("probability", "0..1", _slope, Tolerance(1e-6, 4e-4), Tolerance(1e-4, 0.04), Tolerance(1e-3, 0.25)),
        Measure("logit", "logit", _largest, Tolerance(1e-3, 1e-3), Tolerance(0.02, 0.02), Tolerance(0.15, 0.15)),
        Measure("class_pixels", "share", _magnitude, Tolerance(1e-3), Tolerance(0.01), Tolerance(0.05)),
        Measure("depth", "m", _magnitude, Tolerance(1e-3, 1e-3), Tolerance(0.02, 0.02), Tolerance(0.15, 0.15)),
        # Softmax is computed in float32 in every precision.
        Measure("probability_sum", "0..1", _magnitude, Tolerance(1e-5), Tolerance(1e-5), Tolerance(1e-5)),
    )
}

TOLERANCES: dict[str, dict[str, Tolerance]] = {
    "fp32": {name: measure.fp32 for name, measure in MEASURES.items()},
    "tf32": {name: measure.ten_bits for name, measure in MEASURES.items()},
    "fp16": {name: measure.ten_bits for name, measure in MEASURES.items()},
    "bf16": {name: measure.seven_bits for name, measure in MEASURES.items()},
}
"""By the exported model's precision and the quantity. The same limits serve against eager in that precision and against
eager fp32: two roundings of one value can differ by more than a rounding and the value itself."""

MASK_PIXELS = 8
"""A mask may differ in this many pixels whatever its IoU: in a small mask one flipped pixel weighs much."""

FULL_MASK_PIXELS = 4 * MASK_PIXELS
"""The same at the input's own resolution, where an edge is four times as long."""
