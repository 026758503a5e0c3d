"""How the kernels want their tensors in memory."""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 3
"""Most batches that one launch takes side by side: the levels of a YOLO26's head."""


def pixels_in_line(images: Tensor) -> Tensor:
    """Return (N, C, H, W) if its pixels lie one behind the other, channels innermost, else a copy that does.

    A slice of the channels of such a tensor is one, too: from pixel to pixel it is `stride(3)` elements.
    """
    _, _, height, width = images.shape
    step = images.stride(3)
    if images.stride() == (height * width * step, 1, width * step, step):
        return images
    return images.contiguous(memory_format=torch.channels_last)
