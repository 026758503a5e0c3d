"""Import torchvision, which Ultralytics' predictors and validators do, beside whatever PyTorch is installed.

PyPI's torchvision is built for CUDA. Beside a CPU build of PyTorch its compiled operators cannot be loaded, and its
import fails where it describes two of them that are then unknown. Nothing here uses its operators (YOLO26's end-to-end
head needs no suppression), only its image transforms, which are plain Python.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


T = TypeVar("T")

_fixing = threading.Lock()


def import_torchvision() -> Any:
    """Return torchvision, imported; where its operators cannot be loaded, all but `nms` fail when they are called.

    Raises:
        ImportError: it is not installed.
    """
    return with_torchvision(lambda: importlib.import_module("torchvision"))


def with_torchvision(call: Callable[[], T]) -> T:
    """Return what a function returns that may import torchvision, which takes longer than the rest of a prediction.

    Args:
        call: called once more where its import of torchvision fails.
    """
    try:
        return call()
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    with _fixing:
        _import_without_operators()
    return call()


@functools.cache
def _import_without_operators() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torch

    for name in ("nms", "qnms"):  # those that its import describes without asking whether they are there
        _library(torch).define(name + _SCHEMA)
    torchvision = importlib.import_module("torchvision")
    from ultralytics.utils.nms import TorchNMS

    torchvision.ops.nms = TorchNMS.nms


@functools.cache
def _library(torch: Any) -> Any:
    """Return the operators' namespace; they are there as long as this object is."""
    return torch.library.Library("torchvision", "FRAGMENT")
