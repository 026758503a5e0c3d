"""A runner that computes nothing: it finds the same three things in every picture."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from yolo26_executorch.models.tasks import TASKS, TensorSpec
from yolo26_executorch.runtime.runner import BaseRunner, choose, prepare
from yolo26_executorch.vision.ultralytics_backend import RunnerBackend

NAMES = {0: "person", 1: "bicycle", 2: "car"}

BOXES = torch.tensor([[160.0, 140.0, 80.0, 60.0], [100.0, 160.0, 40.0, 40.0], [200.0, 200.0, 20.0, 10.0]])
"""Centre and size, pixels of a 320 x 320 input."""

CONFIDENCES, CLASSES = torch.tensor([0.9, 0.5, 0.05]), torch.tensor([1.0, 0.0, 2.0])
ANGLES = torch.tensor([0.5, 0.0, -0.25])


class StubRunner(BaseRunner):
    """Three objects (of confidence 0.9, 0.5 and 0.05), or a class, whatever the picture."""

    name = "stub"

    def __init__(
        self,
        task: str = "detect",
        *,
        size: tuple[int, int] = (320, 320),
        batch: int = 1,
        input: str = "float32",
        without: Collection[str] = (),
    ) -> None:
        height, width = size
        shape = (batch, height, width, 3) if input == "uint8" else (batch, 3, height, width)
        self.input = TensorSpec("images", shape, input, "pictures")
        sizes = {
            "B": batch,
            "K": 3,
            "H": height,
            "W": width,
            "H8": height // 8,
            "W8": width // 8,
            "H4": height // 4,
            "W4": width // 4,
            "EXTRA": 3,
            "KEYPOINTS": 2,
            "VALUES": 3,
            "CLASSES": 3,
        }
        self.outputs = tuple(spec for spec in TASKS[task].output_specs("named", sizes) if spec.name not in without)
        self.given: list[Tensor] = []
        self.closed = False

    def __call__(
        self,
        images: Tensor | np.ndarray[Any, np.dtype[np.generic]],
        *,
        outputs: Sequence[str] | None = None,
        on_device: bool = False,
    ) -> dict[str, Tensor]:
        """Return the three objects for each image of the batch."""
        self.given.append(prepare(images, self.input))
        return {self.outputs[index].name: self._output(self.outputs[index]) for index in choose(self.outputs, outputs)}

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def _output(self, spec: TensorSpec) -> Tensor:
        if spec.name == "detections":
            columns = {**dict(zip("xywh", BOXES.T, strict=True)), "angle": ANGLES}
            columns |= {"confidence": CONFIDENCES, "class_id": CLASSES}
            rows = torch.stack([columns[name] for name in spec.columns], dim=-1)
            return rows.expand(spec.shape).clone()
        if spec.name == "masks":  # the upper half of each box
            masks = torch.zeros(spec.shape, dtype=torch.uint8)
            for row, (x, y, w, h) in enumerate((BOXES / 4).int().tolist()):
                masks[:, row, y - h // 2 : y, x - w // 2 : x + w // 2] = 1
            return masks
        if spec.name == "coefficients":  # row k takes the k-th prototype alone
            return torch.eye(3).expand(spec.shape).clone()
        if spec.name == "protos":  # the masks themselves
            return self._output(replace(spec, name="masks")).float() * 2 - 1
        if spec.name == "keypoints":  # the centre and the corner at the upper left
            corner = torch.stack([BOXES[:, :2], BOXES[:, :2] - BOXES[:, 2:] / 2], dim=1)
            return torch.cat([corner, torch.ones(3, 2, 1)], dim=-1).expand(spec.shape).clone()
        if spec.name == "classes":  # a bicycle in the upper half, persons below
            classes = torch.zeros(spec.shape, dtype=torch.uint8)
            classes[:, : spec.shape[1] // 2] = 1
            return classes
        if spec.name == "logits":  # which say the same
            half = torch.tensor([[-1.0, 1.0, -2.0], [1.0, -1.0, -2.0]]).repeat_interleave(spec.shape[2] // 2, 0)
            return half.T[None, :, :, None].expand(spec.shape).clone()
        if spec.name == "depth":  # from 6 m at the top to 2 m at the bottom
            return torch.linspace(6, 2, spec.shape[2])[:, None].expand(spec.shape).clone()
        return torch.tensor([0.1, 0.7, 0.2]).expand(spec.shape).clone()


def backend(task: str = "detect", runner: StubRunner | None = None) -> RunnerBackend:
    """Return a backend over a stub."""
    return RunnerBackend(
        runner or StubRunner(task), task=TASKS[task], names=NAMES, keypoint_shape=(2, 3) if task == "pose" else None
    )


def picture(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Return noise, BGR uint8 (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def folder_of_pictures(folder: Path, count: int) -> Path:
    """Write pictures 00.jpg, 01.jpg, …"""
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:02}.jpg"), picture(seed=index))
    return folder


def video(path: Path, frames: int) -> Path:
    """Write a video of noise, 320 x 240."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
    for index in range(frames):
        writer.write(picture(seed=index))
    writer.release()
    return path


def cut(path: Path, to: Path) -> Path:
    """Write the first half of a file."""
    content = path.read_bytes()
    to.write_bytes(content[: len(content) // 2])
    return to
