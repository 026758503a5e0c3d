"""Ultralytics' own predictors over a runner: sources, letterboxing, drawing, saving and tracking are theirs.

Knows `ultralytics/engine/predictor.py` and `ultralytics/data/loaders.py` (8.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ultralytics.data.build import check_source, load_inference_source
from ultralytics.data.loaders import LoadImagesAndVideos, LoadTensor, SourceTypes
from ultralytics.models.yolo.classify.predict import ClassificationPredictor
from ultralytics.models.yolo.detect.predict import DetectionPredictor
from ultralytics.models.yolo.obb.predict import OBBPredictor
from ultralytics.models.yolo.pose.predict import PosePredictor
from ultralytics.models.yolo.segment.predict import SegmentationPredictor

from ..errors import InputError, OptionError, first_line
from .torchvision_shim import import_torchvision
from .ultralytics_backend import RunnerBackend

PREDICTORS: dict[str, Any] = {
    "detect": DetectionPredictor,
    "segment": SegmentationPredictor,
    "pose": PosePredictor,
    "obb": OBBPredictor,
    "classify": ClassificationPredictor,
}
"""By the task's name."""

SETTLED = {
    "model": "it is the exported one",
    "task": "it is the exported model's",
    "mode": "call predict or track",
    "device": "a model runs where it was exported for",
    **dict.fromkeys(("half", "int8", "quantize", "dnn", "compile", "channels_last"), "it was settled by the export"),
    **dict.fromkeys(("augment", "embed", "visualize"), "it needs the PyTorch model"),
}
"""Settings of Ultralytics' that an exported model does not take, and why."""


class Files(LoadImagesAndVideos):  # type: ignore[misc]
    """Pictures and videos on the disk; those that cannot be read are left out, and `unreadable` names them."""

    def __init__(self, path: str | Path | list[str], *, batch: int = 1, vid_stride: int = 1) -> None:
        """Look for files; raises InputError where there is none."""
        self.source_type = SourceTypes(False, False, False, False)
        self._read: set[str] = set()
        self.frames = 0
        try:
            super().__init__(path, batch=batch, vid_stride=vid_stride)
        except FileNotFoundError as error:
            words = path if isinstance(path, str | Path) else ", ".join(path)
            raise InputError(f"{words}: no picture or video is there") from error

    def __next__(self) -> tuple[list[str], list[Any], list[str]]:
        """Return the next batch: paths, pictures (BGR, uint8 (H, W, 3)) and words for a log."""
        paths, images, words = super().__next__()
        self._read.update(paths)
        return paths, images, words

    def _new_video(self, path: str) -> None:
        try:
            super()._new_video(path)
        except FileNotFoundError:  # it was there a moment ago; the closed capture makes Ultralytics go on to the next
            self.frames = 0

    @property
    def unreadable(self) -> list[str]:
        """The files that were passed by so far without a single picture or frame."""
        return [path for path in self.files[: self.count] if path not in self._read]

    @property
    def done(self) -> float:
        """How many of the `nf` files are done, that of a video in the middle as a fraction."""
        in_video = self.mode == "video" and self.count < self.nf and self.frames
        return float(self.count) + (self.frame / self.frames if in_video else 0.0)


def open_source(source: Any, *, batch: int = 1, vid_stride: int = 1, buffer: bool = False) -> Any:
    """Open whatever Ultralytics takes as a source, as the loader that it takes for it; a tensor is only checked.

    Args:
        source: path of a picture, video, folder or list of paths (.txt, .csv); glob pattern; address of a picture,
            video or stream; number of a camera; "screen"; picture (Pillow), array (BGR, uint8 (H, W, 3)), list of
            such; tensor (RGB, 0..1, (B, 3, H, W) in the model's size); or a loader.
        batch: pictures at a time, from files.
        vid_stride: take every n-th frame.
        buffer: keep all of a stream's frames instead of the latest.

    Raises:
        InputError: there is no such source, nothing in it, or not of a kind that is taken.
    """
    try:
        found, *kinds = check_source(source)
        if any(kinds):
            loader = load_inference_source(found, batch=batch, vid_stride=vid_stride, buffer=buffer)
            # Of all its loaders, the predictor does not know a tensor's again.
            return found if isinstance(loader, LoadTensor) else loader
        return Files(found, batch=batch, vid_stride=vid_stride)
    except (OSError, TypeError, ValueError, ImportError) as error:
        name = source if isinstance(source, str | Path) else f"a {type(source).__name__}"
        raise InputError(f"{name} cannot be used as a source: {first_line(error).removeprefix('❌ ')}") from error


def make_predictor(backend: RunnerBackend, mode: str, settings: Mapping[str, Any]) -> Any:
    """Make Ultralytics' predictor for a model's task.

    Args:
        backend: the model.
        mode: "predict" or "track".
        settings: Ultralytics' settings for predicting, of which `SETTLED` are refused. Saved results go to `save_dir`,
            or else to a new folder `runs/<task>/<mode>` in the working folder.

    Raises:
        OptionError: a setting is unknown, settled by the export, or has no legal value.
    """
    for name in settings:
        if name in SETTLED:
            raise OptionError(f"{name}: {SETTLED[name]}; leave it out")
    size = tuple(backend.imgsz)
    given = settings.get("imgsz", size)
    if size != ((given, given) if isinstance(given, int) else tuple(given)):
        raise OptionError(
            f"imgsz={given}: this model was exported for {size[0]} x {size[1]} pixels; leave it out, or export again "
            "with another --imgsz"
        )
    defaults = {
        "task": backend.task, "mode": mode, "conf": 0.25, "batch": backend.batch, "verbose": False, "save": False,
        "project": str(Path("runs").absolute() / backend.task),
    }  # fmt: skip
    import_torchvision()
    try:
        predictor = PREDICTORS[backend.task](overrides={**defaults, **settings, "imgsz": backend.imgsz})
    except (SyntaxError, TypeError, ValueError, KeyError) as error:  # what Ultralytics says of its settings
        raise OptionError(first_line(error)) from error
    # Ultralytics' usage statistics are for its own programs.
    predictor.callbacks["on_predict_end"].clear()
    # With a model it has no reason to look for one.
    predictor.model, predictor.device = backend, backend.device
    return predictor


def predict_files(backend: Any, files: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Any]:
    """Yield a model's results for files, one batch of them in memory; arguments and errors as `make_predictor`."""
    predictor = make_predictor(backend, "predict", settings)
    results: Iterator[Any] = predictor(source=Files(list(files), batch=predictor.args.batch), stream=True)
    return results
