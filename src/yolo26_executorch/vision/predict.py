"""Ultralytics' own predictors over a runner: letterboxing, results, drawing and tracking are theirs.

Knows `ultralytics/engine/predictor.py` (8.4).
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import OptionError, first_line
from ..models.tasks import TASKS, Task, ultralytics_class
from .saving import Saver
from .settings import check_settings
from .sources import Files
from .torchvision_shim import with_torchvision
from .ultralytics_backend import RunnerBackend

LOG = logging.getLogger("yolo26_executorch")


class _Predicting:
    """What is ours in every predictor: saving that tells what it could not save."""

    saver: Saver

    @property
    def unsaved(self) -> dict[str, str]:
        """The files of the latest run that could not be written, and why."""
        return self.saver.unsaved

    def place(self, result: Any) -> str:
        """Return where a result of the current batch stands in files, such as "image 3/5"; empty for streams."""
        this: Any = self
        (words,) = (words for words, one in zip(this.batch[2], this.results, strict=True) if one is result)
        place: str = words.partition(f" {result.path}")[0]
        return place if place.startswith(("image ", "video ")) else ""

    def setup_source(self, *args: Any, **kwargs: Any) -> None:
        """Open the source; for some sources and tasks Ultralytics imports torchvision here."""
        with_torchvision(lambda: super(_Predicting, self).setup_source(*args, **kwargs))  # type: ignore[misc]

    def stream_inference(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Run on a source, a result at a time."""
        this: Any = self
        self.saver = Saver(this.save_dir, this.args)
        try:
            yield from super().stream_inference(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.saver.close()
            for name, why in getattr(this.dataset, "problems", {}).items():
                LOG.warning("%s was left out: %s", name, why)
            for path, why in self.unsaved.items():
                LOG.warning("%s could not be saved: %s", path, why)

    def write_results(self, i: int, p: Path, im: torch.Tensor, s: list[str]) -> str:
        """Save and show one result of the batch; returns what Ultralytics' log says of it."""
        this: Any = self
        args, dataset, result = this.args, this.dataset, this.results[i]
        result.save_dir = str(this.save_dir)
        if args.save or args.show:
            this.plotted_img = result.plot(
                line_width=args.line_width, boxes=args.show_boxes, conf=args.show_conf, labels=args.show_labels
            )
        number = re.search(r"frame (\d+)/", s[i])
        frame = int(number[1]) if number else getattr(dataset, "count", getattr(dataset, "frame", None))
        fps = dataset.fps if dataset.mode == "video" else 30  # a stream gives its frames when it will
        self.saver.write(
            result, this.plotted_img if args.save else None, mode=dataset.mode, frame=frame,
            fps=max(1, fps / args.vid_stride), key=result.path if dataset.mode == "video" else i,
        )  # fmt: skip
        if args.show:
            this.show(str(p))
        height, width = im.shape[2:]
        return f"{height}x{width} {result.verbose()}{result.speed['inference']:.1f}ms"


@functools.cache
def predictor_class(task: Task) -> type[Any]:
    """Return Ultralytics' predictor for a task, with what is ours in it."""
    kind = ultralytics_class(task.predictor)
    return type(kind.__name__, (_Predicting, kind), {})


def make_predictor(backend: RunnerBackend, mode: str, settings: Mapping[str, Any]) -> Any:
    """Make Ultralytics' predictor for a model's task.

    Args:
        backend: the model.
        mode: "predict" or "track".
        settings: Ultralytics' settings for predicting; `settings.py` tells which are refused or have no effect (of
            the latter the logger `yolo26_executorch` tells). Saved results go to `save_dir`, or else to a new folder
            `runs/<task>/<mode>` in the working folder.

    Raises:
        OptionError: a setting is unknown, cannot be honoured, or has no legal value.
    """
    task, size = TASKS[backend.task], tuple(backend.imgsz)
    wanted = {name: value for name, value in settings.items() if name != "device" or not _same(value, backend.device)}
    runner = getattr(backend, "runner", None)  # PyTorch's own backend has none, and as many rows as are asked for
    rows = runner.outputs[0].shape[1] if runner is not None and task.ranked else None
    for note in check_settings(wanted, task=task, size=size, rows=rows, mode=mode):
        LOG.warning(note)
    defaults = {
        "task": backend.task, "mode": mode, "conf": 0.25, "batch": backend.batch, "verbose": False, "save": False,
        "project": str(Path("runs").absolute() / backend.task),
    }  # fmt: skip
    try:
        predictor = predictor_class(task)(overrides={**defaults, **wanted, "imgsz": backend.imgsz})
        if any(getattr(predictor.args, flag) for flag in ("save", "save_txt", "save_crop")):
            predictor.save_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"save_dir={error.filename}: it cannot be written to: {first_line(error)}") from None
    except (SyntaxError, TypeError, ValueError, KeyError) as error:  # what Ultralytics says of its settings
        raise OptionError(first_line(error)) from None
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


def _same(named: Any, device: torch.device) -> bool:
    """Whether a device as Ultralytics names it, such as 0, "0", "cuda:0" or "cpu", is this one."""
    text = str(named)
    try:
        wanted = torch.device(f"cuda:{text}" if text.isdecimal() else text)
    except RuntimeError:
        return False
    return wanted.type == device.type and (wanted.index or 0) == (device.index or 0)
