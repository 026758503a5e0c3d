"""Ultralytics' validators over a runner, and the data sets they take: the only file that knows their inside.

`ultralytics/engine/validator.py`, `ultralytics/models/yolo/*/val.py` and `ultralytics/data/` (8.4). Left out is what
those do besides: nothing is downloaded or sent, and nothing is read from or written into a data set but images and
labels: no label caches (pickles, which run what their author chose), no images repaired in place.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER, remove_colorstr

from ..artifacts.manifest import Manifest
from ..errors import UsageError, printable
from ..models.tasks import MAX_DETECTIONS, TASKS, Task, ultralytics_class
from .agreement import CONFIDENCE, MARGIN, Agreement, compare
from .predict import predict_files
from .torchvision_shim import import_torchvision

FOLDERS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
"""By split, the names that its folder may have in a data set for classify."""

_CORRUPT = re.compile(r"(?:\w+: )?(?P<path>.*): ignoring corrupt image/(?:label|mask|depth): (?P<why>.*)")


# --- The data set -----------------------------------------------------------------------------------------------------


def find_data(data: Path | str, split: str, manifest: Manifest) -> dict[str, Any]:
    """Return a data set as Ultralytics describes one, checked to fit an artifact.

    Args:
        data: a data.yaml in Ultralytics' format, the folder of one, or the name of one that Ultralytics ships; for
            classify a folder with a folder for each split and in that one for each class.
        split: a key of `FOLDERS`.
        manifest: the artifact's.

    Raises:
        UsageError: it is missing or damaged, or its classes or keypoints are not the model's.
    """
    if "://" in str(data):
        raise UsageError(f"{data} is an address: download the data set and name its data.yaml or folder here")
    path = Path(data).expanduser()
    found = _KINDS[TASKS[manifest.task].kind].find(path, split, manifest)
    if found["channels"] != 3:
        raise UsageError(f"{data} has images of {found['channels']} channels, and the model takes 3 (RGB)")
    return found


def _described(path: Path, split: str, manifest: Manifest, *, maps: bool = False) -> dict[str, Any]:
    """Return what a data.yaml says; with `maps`, polygons stand for the classes of pixels and leave a background."""
    from ultralytics.data import utils
    from ultralytics.utils import ROOT

    file = path
    if not path.exists():
        file = ROOT / "cfg" / "datasets" / path.with_suffix(".yaml").name  # coco8.yaml, as Ultralytics' users write it
        if path.parent != Path() or not file.is_file():
            raise UsageError(f"no data set at {path}: expected a data.yaml; check the path")
    if file.is_file() and file.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path} is no data set for {manifest.task}: expected a data.yaml or the folder it is in")
    try:
        with offline():
            file = utils.find_dataset_yaml(file) if file.is_dir() else file
            found: dict[str, Any] = utils.check_det_dataset(str(file), autodownload=False, split=split)
    except Exception as error:  # PyYAML, Ultralytics and Python each have classes of their own for what a file can hold
        raise UsageError(
            f"{path} cannot be used as a data set: {_words(str(error), file)}; nothing is downloaded"
        ) from error
    if maps:
        found = utils.add_polygon_background(found)
    if TASKS[manifest.task].class_layer is not None:
        _check_names(path, dict(found["names"]), manifest)
    shape = tuple(found.get("kpt_shape") or ())
    if manifest.keypoint_shape is not None and shape != manifest.keypoint_shape:
        raise UsageError(
            f"{path} has not the keypoints of {manifest.name}: expected kpt_shape {list(manifest.keypoint_shape)}, "
            f"given {list(shape) or 'none'}; name the data set that the model was made for"
        )
    return found


def _check_names(path: Path, given: dict[int, str], manifest: Manifest) -> None:
    expected = manifest.classes
    unnamed = all(name == f"class_{index}" for index, name in given.items())  # the file gives only their number
    if len(given) != len(expected) or (given != expected and not unnamed):
        odd = next((i for i in sorted(expected) if i in given and given[i] != expected[i]), None)
        apart = f"; class {odd} is {expected[odd]!r} in the model and {given[odd]!r} here" if odd is not None else ""
        raise UsageError(
            f"{path} is not labelled with the classes of {manifest.name}: expected {_names(expected)}, given "
            f"{_names(given)}{apart}; name the data set that the model was made for"
        )


def _in_folders(path: Path, split: str, manifest: Manifest) -> dict[str, Any]:
    from ultralytics.nn.autobackend import check_class_names
    from ultralytics.utils import DATASETS_DIR

    base = path if path.exists() else DATASETS_DIR / path
    if not base.is_dir():
        raise UsageError(f"no data set at {path}: expected a folder with a folder {split} in it; check the path")
    root = next((base / name for name in FOLDERS[split] if (base / name).is_dir()), None)
    if root is None:
        there = [name for names in FOLDERS.values() for name in names if (base / name).is_dir()]
        others = f"there are {', '.join(there)}; choose with --split" if there else "expected train, val or test in it"
        raise UsageError(f"{path} has no folder {split}: {others}")
    folders = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    given = list(check_class_names(folders).values()) if folders else []  # ImageNet's codes become names
    expected = check_class_names(dict(manifest.classes))
    # Pictures are paired with classes by name, so that a data set may lack some.
    odd = [name for name in given if name not in expected.values()]
    if odd or not given:
        raise UsageError(
            f"{root} is not sorted by the classes of {manifest.name}: expected folders named as {_names(expected)}, "
            f"given {_names(dict(enumerate(given)))}"
            + (f"; the model has no {' or '.join(map(repr, odd[:3]))}" if odd else "")
        )
    return {split: root, "path": base, "nc": len(given), "names": dict(enumerate(given)), "channels": 3}


def _names(names: Mapping[int, str]) -> str:
    """Return how many classes there are, and the first of them."""
    few = printable(", ".join([names[index] for index in sorted(names)][:5]))
    return f"{len(names)} ({few}{', …' if len(names) > 5 else ''})" if names else "none"


def _words(text: str, file: Path | None = None) -> str:
    """Return what Ultralytics says on one line, without what it says of downloads and the file's name, which we say."""
    text = " ".join(text.partition("\nNote ")[0].split())
    for word in ("❌", *((f"Dataset '{file}'", f"{file} ") if file else ())):
        text = text.replace(word, "")
    return printable(text).replace(" .", ".").strip(". ")


@dataclass(frozen=True)
class _Kind:
    """How the data sets of one kind of task are read."""

    find: Callable[[Path, str, Manifest], dict[str, Any]]
    labelled: Callable[[Any], int] | None
    """From a validator's metrics, how many labels counted: objects, images or pixels. None where every image has one,
    the folder that it is in."""
    objects: bool = False
    """Whether each object is labelled by itself."""


_KINDS = {
    "rankings": _Kind(_described, lambda metrics: int(metrics.nt_per_class.sum()), objects=True),
    "probabilities": _Kind(_in_folders, None),
    "class_map": _Kind(partial(_described, maps=True), lambda metrics: int(metrics.nt_per_class.sum())),
    "depth_map": _Kind(_described, lambda metrics: int(metrics._count)),
}
"""By `Task.kind`."""


# --- The run ----------------------------------------------------------------------------------------------------------


class Validation:
    """Runs models, one after the other, over the very same images."""

    pictures: int
    instances: int
    """Labelled objects; where none are labelled one by one, the images."""
    skipped: dict[str, str]
    """Pictures that are left out because they or their labels are damaged, and what is wrong with each."""

    def __init__(self, task: Task, data: dict[str, Any], split: str, *, workers: int, progress: bool) -> None:
        """Take a data set that `find_data` gave.

        `workers` are processes that read images, 0 for none besides this; `progress` shows Ultralytics' own on
        standard error.
        """
        import_torchvision()
        self._task, self._data, self._split, self._workers, self._progress = task, data, split, workers, progress
        self._loader: Any = None

    def __call__(self, backend: Any, plots_dir: Path | None) -> tuple[dict[str, float], dict[str, float]]:
        """Measure a model (a `RunnerBackend`, or what `pytorch_backend` returns); with a folder for plots, draw them.

        Returns the metrics by Ultralytics' keys, 0..1, and the milliseconds an image of each step.

        Raises:
            UsageError: images or labels cannot be used.
        """
        settings = {
            "mode": "val", "task": self._task.name, "data": str(self._data["path"]), "split": self._split,
            "batch": backend.batch, "rect": False, "workers": self._workers, "plots": plots_dir is not None,
            # Otherwise COCO's own images set off COCO's API, which is not here, and masks at full resolution.
            "val": False,
        }  # fmt: skip
        with contextlib.ExitStack() as stack:
            said = stack.enter_context(_quietly(self._progress))
            stack.enter_context(_stand_ins(backend, self._data))
            folder = plots_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="yolo26-et-val-"))
            validator = ultralytics_class(self._task.validator)(args=settings, save_dir=Path(folder))
            # Its constructor makes a square of any size.
            validator.args.imgsz = backend.imgsz
            if self._loader is None:
                self._loader = self._load(validator, backend)
                matches = [match for match in map(_CORRUPT.fullmatch, said) if match]
                self.skipped = {printable(match["path"]): printable(match["why"]) for match in matches}
            validator.dataloader = self._loader
            try:
                metrics = validator()
            except OSError as error:  # an image that is gone by now, or one that OpenCV alone cannot read
                raise UsageError(f"the {self._split} images cannot be read: {_words(str(error))}") from error
        self.pictures = len(self._loader.dataset)
        kind = _KINDS[self._task.kind]
        labelled = kind.labelled(validator.metrics) if kind.labelled else self.pictures
        self.instances = labelled if kind.objects else self.pictures
        if not labelled:
            raise UsageError(f"the {self._split} images have no labels; validation needs labelled ones")
        return (
            {key: float(value) for key, value in metrics.items() if key.startswith("metrics/")},
            {step: float(ms) for step, ms in validator.speed.items() if step != "loss"},
        )

    def compare(self, backend: Any, reference: Any, most: int) -> Agreement:
        """Compare what two models predict for at most so many of the images of the run, evenly spread.

        They are predicted as a user's `predict` does it, in the first model's size.
        """
        dataset = self._loader.dataset
        files = getattr(dataset, "im_files", None) or [sample[0] for sample in dataset.samples]
        step = max(1, -(-len(files) // most))
        wanted = {"conf": CONFIDENCE - MARGIN, "max_det": MAX_DETECTIONS} if _KINDS[self._task.kind].objects else {}
        settings = {"rect": False, **wanted}
        with _quietly(self._progress), offline():
            results = [predict_files(model, files[::step], settings) for model in (backend, reference)]
            return compare(self._task.kind, zip(*results, strict=True), tuple(backend.imgsz))

    def _load(self, validator: Any, backend: Any) -> Any:
        """Return Ultralytics' loader of the images."""
        validator.data, validator.device = self._data, backend.device
        validator.stride, validator.names = backend.stride, backend.names
        try:
            return validator.get_dataloader(self._data[self._split], backend.batch)
        except Exception as error:  # there is a class for each of the many things that labels can lack
            raise UsageError(
                f"the {self._split} images cannot be used for {self._task.name}: {_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """Return why images cannot be loaded; where all are damaged, the first of them is named."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in remove_colorstr(str(cause)).splitlines()]
    damaged = next(filter(None, map(_CORRUPT.fullmatch, lines)), None)
    first = f" ({damaged['path']}: {damaged['why']})" if damaged else ""
    return _words(lines[0] if lines else type(cause).__name__) + first


@contextlib.contextmanager
def _quietly(progress: bool) -> Iterator[list[str]]:
    """Keep standard output for results; yields a list that collects Ultralytics' log, line by line."""
    said: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.extend(remove_colorstr(record.getMessage()).splitlines())

    before = LOGGER.handlers, LOGGER.level
    LOGGER.handlers = [Collector()]
    LOGGER.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(sys.stderr if progress else io.StringIO()):
            yield said
    finally:
        LOGGER.handlers = before[0]
        LOGGER.setLevel(before[1])


@contextlib.contextmanager
def _stand_ins(backend: Any, data: dict[str, Any]) -> Iterator[None]:
    """Have Ultralytics take our model and data set, and do nothing of what the module's docstring excludes."""
    from PIL import Image
    from ultralytics.data import dataset, utils
    from ultralytics.engine import validator

    check = utils.check_image

    def check_image(path: str) -> Any:
        with Image.open(path) as image:
            image.load()  # a cut JPEG fails here; Ultralytics would write over it what is left of it
        return check(path)

    def no_cache(*_: object) -> None:
        raise FileNotFoundError

    with (
        offline(),
        _replaced(validator, AutoBackend=lambda *_, **__: backend),
        _replaced(validator, check_det_dataset=lambda *_, **__: data, check_cls_dataset=lambda *_, **__: data),
        _replaced(validator.callbacks, add_integration_callbacks=lambda *_: None),  # usage statistics
        _replaced(dataset, load_dataset_cache_file=no_cache),
        _replaced(utils, is_dir_writeable=lambda *_: False),  # asked before a cache is written
        _replaced(utils, check_image=check_image, _replace_image=lambda *_: None),
    ):
        yield


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let Ultralytics find no font at an address; all it downloads by itself, for data sets and drawing."""
    from ultralytics.utils import downloads

    with _replaced(downloads, is_url=lambda *_, **__: False):
        yield


@contextlib.contextmanager
def _replaced(module: Any, **values: Any) -> Iterator[None]:
    """Give names of a module other values for a while."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)
