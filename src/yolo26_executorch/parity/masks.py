"""Compare masks with those that the reference's coefficients, prototypes and boxes make, at two resolutions.

A quarter of the input's is what the output `masks` has; the input's own is what a user sees: there logits are
upsampled first and thresholded afterwards, as Ultralytics' `process_mask(upsample=True)` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .tolerances import FULL_MASK_PIXELS, MASK_PIXELS

CHUNK = 2**24
"""Elements worked on at once, so that the largest inputs do not take gigabytes."""

_STRIDE = 4
"""Pixels of the input that one of the prototypes stands for, each way."""

_CROP_MARGIN_PX = 0.01
"""Boxes are corners inside the graph, center and size outside it; the edge of a mask's crop may round by this."""


@dataclass(frozen=True)
class MaskCounts:
    """How masks differ, each (N,) float32."""

    differ: Tensor
    """Pixels that differ."""
    either: Tensor
    """Pixels in either mask."""
    error: Tensor
    """1 - IoU over the pixels that are judged, 0 where no more of those differ than `tolerances` lets pass."""

    @property
    def iou(self) -> Tensor:
        """IoU over all pixels, 1 for two empty masks."""
        return 1 - self.differ / self.either.clamp(min=1)


def compare_masks(masks: Tensor, own: Tensor, boxes: Tensor, coefficients: Tensor, protos: Tensor) -> MaskCounts:
    """Compare masks (N, H/4, W/4), 0 or 1, with those that the reference's coefficients (N, E) and boxes (N, 4) make.

    Where the mask's own box ends at another pixel than the reference's, and so within the boxes' tolerance, the pixels
    between the two edges are not judged. Boxes are x, y, w, h in pixels of the input; prototypes are (E, H/4, W/4).
    """
    channels, height, width = protos.shape
    rows, columns = torch.arange(height) * _STRIDE, torch.arange(width) * _STRIDE
    parts = [torch.empty(3, 0)]
    for part in torch.split(torch.arange(len(masks)), max(1, CHUNK // (height * width))):
        logits = (coefficients[part] @ protos.view(channels, -1)).view(-1, height, width)
        expected = (logits > 0) & _inside(boxes[part], rows, columns)
        parts.append(_counts(masks[part] > 0, expected, (own[part], boxes[part]), rows, columns, MASK_PIXELS))
    return MaskCounts(*torch.cat(parts, 1))


def compare_full_masks(given: tuple[Tensor, Tensor, Tensor], expected: tuple[Tensor, Tensor, Tensor]) -> MaskCounts:
    """Compare the masks that two models' boxes, coefficients and prototypes make at the input's own resolution.

    Each is (boxes (N, 4): x, y, w, h in pixels of the input; coefficients (N, E); prototypes (E, H/4, W/4)). Pixels
    between the edges of the two boxes are not judged, as in `compare_masks`.
    """
    _, height, width = expected[2].shape
    parts = [torch.empty(3, 0)]
    for own, boxes, own_coefficients, coefficients in zip(
        given[0][:, None], expected[0][:, None], given[1], expected[1], strict=True
    ):
        # Only what the boxes cover, and one prototype more on each side, from which the edge is interpolated.
        both = torch.cat([own, boxes])
        low, high = both[:, :2] - both[:, 2:] / 2, both[:, :2] + both[:, 2:] / 2
        left, top = (low.amin(0) / _STRIDE).floor().sub(1).clamp(min=0).long().tolist()
        right, bottom = (high.amax(0) / _STRIDE).ceil().add(1).long().tolist()
        right, bottom = min(right, width), min(bottom, height)
        if right <= left or bottom <= top:
            parts.append(torch.zeros(3, 1))
            continue
        rows, columns = torch.arange(top * _STRIDE, bottom * _STRIDE), torch.arange(left * _STRIDE, right * _STRIDE)
        ours = _upsampled(own_coefficients, given[2][:, top:bottom, left:right]) & _inside(own, rows, columns)
        theirs = _upsampled(coefficients, expected[2][:, top:bottom, left:right]) & _inside(boxes, rows, columns)
        parts.append(_counts(ours, theirs, (own, boxes), rows, columns, FULL_MASK_PIXELS))
    return MaskCounts(*torch.cat(parts, 1))


def _upsampled(coefficients: Tensor, protos: Tensor) -> Tensor:
    """Return where the logits of one row's coefficients (E,), upsampled, are above 0: bool (1, height, width)."""
    channels, height, width = protos.shape
    logits = (coefficients @ protos.reshape(channels, -1)).view(1, 1, height, width)
    above: Tensor = interpolate(logits, scale_factor=_STRIDE, mode="bilinear")[0] > 0
    return above


def _counts(
    given: Tensor, expected: Tensor, edges: tuple[Tensor, Tensor], rows: Tensor, columns: Tensor, pixels: int
) -> Tensor:
    """Return the fields of `MaskCounts`, (3, N), of masks, bool (N, rows, columns), cropped to boxes each (N, 4)."""
    sure_in, sure_out = torch.ones_like(given), torch.ones_like(given)
    for box in edges:
        sure_in &= _inside(box, rows, columns, -_CROP_MARGIN_PX)
        sure_out &= ~_inside(box, rows, columns, _CROP_MARGIN_PX)
    differ, either, judged = given ^ expected, given | expected, sure_in | sure_out
    strictly = (differ & judged).sum((1, 2)).float()
    error = strictly / (either & judged).sum((1, 2)).clamp(min=1)
    error[strictly <= pixels] = 0
    return torch.stack([differ.sum((1, 2)).float(), either.sum((1, 2)).float(), error])


def _inside(boxes: Tensor, rows: Tensor, columns: Tensor, margin_px: float = 0.0) -> Tensor:
    """Return which pixels, bool (N, rows, columns), are in boxes (N, 4: x, y, w, h) grown by a margin on every side."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2 + margin_px
    left, top = (centre - half)[..., None].unbind(1)
    right, bottom = (centre + half)[..., None].unbind(1)
    across, down = (columns >= left) & (columns < right), (rows >= top) & (rows < bottom)
    return down[:, :, None] & across[:, None, :]
