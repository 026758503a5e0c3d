"""`yolo26-et predict ARTIFACT SOURCE`: run an exported model on images, videos and streams."""

from __future__ import annotations

import argparse
import ast
import contextlib
import glob
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.manifest import Manifest
from ..artifacts.reading import load_manifest
from ..errors import OptionError, UsageError, first_line, printable
from ..exporter.request import BASE_PATH
from ..models.preprocess import BUNDLED, bundled, size_of
from ..models.tasks import TASKS
from ..vision.api import YOLO26, class_indices
from ..vision.results import KINDS, Totals
from ..vision.settings import HONOURED, IDLE, REFUSED, SWITCHES, check_settings
from ..vision.tracking import TRACKING_CONFIDENCE, check_tracking
from . import Subparsers, warn, without_native_noise
from .flags import add_runner, use_device

if TYPE_CHECKING:
    from ultralytics.engine.results import Results

CONFIDENCE = 0.25

PASSED_ON = (
    "conf", "classes", "max_det", "retina_masks", "save", "save_txt", "save_conf", "save_crop", "save_frames",
    "show_labels", "show_conf", "show_boxes", "line_width", "vid_stride", "stream_buffer", "tracker", "save_dir",
)  # fmt: skip
"""Flags that are settings of Ultralytics' by the same name; those left out keep its defaults."""

OTHERS = tuple(
    sorted((HONOURED | REFUSED.keys() | IDLE.keys()) - {*PASSED_ON, "model", "source", "task", "mode", "device"})
)
"""Ultralytics' other settings: taken, so that each gets its answer, and not shown in the help."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "predict",
        help="run an exported model on images, videos and streams",
        description="Run an exported model on images, videos and streams, with Ultralytics' own predictors: "
        "a line of what was found for each image, and whatever is to be saved.",
        epilog="Exit status: 0 done; 1 something failed, or a file could not be read (the others are done); 2 the "
        "command was wrong and nothing was done; 130 interrupted.",
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", type=Path, help="an exported folder; with --export a checkpoint or a variant"
    )
    parser.add_argument(
        "source", metavar="SOURCE", nargs="*",
        help="images, videos, folders, globs ('images/*.jpg'), lists of paths (.txt, .csv); or one address "
        "(https, rtsp, …), camera number, list of streams (.streams) or 'screen' (default: the photographs that come "
        "with Ultralytics)",
    )  # fmt: skip

    what = parser.add_argument_group("what is found")
    what.add_argument(
        "--conf", type=float, metavar="P",
        help=f"the least confidence (default: {CONFIDENCE}; with --track {TRACKING_CONFIDENCE})",
    )  # fmt: skip
    what.add_argument("--classes", nargs="+", metavar="CLASS", help="only these classes, by name or index")
    what.add_argument("--max-det", type=int, metavar="N", help="the most objects in an image (default: 300)")
    what.add_argument("--retina-masks", action="store_true", default=None, help="masks at the image's own resolution")
    what.add_argument("--track", action="store_true", help="number the objects of a video from frame to frame")
    what.add_argument("--tracker", metavar="NAME", help="one of Ultralytics' trackers, such as botsort.yaml")

    out = parser.add_argument_group("what is written")
    out.add_argument("--json", action="store_true", help="print the results as one JSON document")
    for flag, text in (
        ("--save", "images and videos with the results drawn in"),
        ("--save-txt", "labels, a text file for each image, as Ultralytics' data sets have them"),
        ("--save-conf", "confidences in those files, too"),
        ("--save-crop", "an image of each object"),
        ("--save-frames", "a video's frames, one by one"),
    ):
        out.add_argument(flag, action="store_true", default=None, help=text)
    out.add_argument("--save-dir", type=Path, metavar="DIR", help="where to (default: a new folder runs/TASK/predict)")

    drawn = parser.add_argument_group("what is drawn")
    for flag, text in (("--show-labels", "classes"), ("--show-conf", "confidences"), ("--show-boxes", "boxes")):
        drawn.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=f"{text} (default: drawn)")
    drawn.add_argument("--line-width", type=int, metavar="PX", help="width of lines (default: as fits the image)")

    how = parser.add_argument_group("how")
    how.add_argument("--vid-stride", type=int, metavar="N", help="take every N-th frame of videos (default: 1)")
    how.add_argument(
        "--stream-buffer", action="store_true", default=None,
        help="take every frame of a stream instead of the latest",
    )  # fmt: skip
    how.add_argument(
        "--export", action="store_true", dest="export_first",
        help=f"export the checkpoint or variant first, to {BASE_PATH}, unless that was done before",
    )  # fmt: skip
    add_runner(how)
    how.add_argument("--debug", action="store_true", help="show tracebacks")
    for name in OTHERS:
        flag = f"--{name.replace('_', '-')}"
        if name in SWITCHES:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=argparse.SUPPRESS)
        else:
            parser.add_argument(flag, type=_value, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the model; raises UsageError before anything heavy is loaded.

    Raises:
        ArtifactError: the folder is no complete, intact artifact, or cannot run here.
        InputError: the source cannot be opened.
    """
    # Before either is imported: Ultralytics writes its log to standard output, which is for results, and OpenCV tells
    # of bad files in its own words.
    os.environ |= {"YOLO_VERBOSE": "false", "OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
    if args.export_first:
        args.artifact = _exported(args.artifact)
    manifest = load_manifest(args.artifact)
    use_device(args.device, args.artifact)
    args.source = [_bundled(word) for word in args.source or BUNDLED]
    for word in args.source:
        _check_source(word, alone=len(args.source) == 1)
    settings = _settings(args, manifest)
    with without_native_noise(args.debug):
        return _run(args, manifest, settings)


def _run(args: argparse.Namespace, manifest: Manifest, settings: dict[str, Any]) -> int:
    from ..vision.sources import open_source

    batch = settings.setdefault("batch", manifest.options.batch)
    source = open_source(
        args.source if len(args.source) > 1 else args.source[0],
        batch=batch, vid_stride=args.vid_stride or 1, buffer=bool(args.stream_buffer),
    )  # fmt: skip
    with YOLO26(args.artifact, runner=args.runner) as model:
        results = (model.track if args.track else model.predict)(source, stream=True, **settings)
        totals, seconds = Totals(KINDS[TASKS[manifest.task].kind], track=args.track), [0.0]
        with contextlib.closing(results):  # type: ignore[type-var]
            _write(args, manifest, model, _timed(_shown(results, source), totals, seconds))
        predictor = model.predictor
        if not args.json and totals.images:
            word = "image" if predictor.dataset.mode == "image" else "frame"
            print(printable(_total(totals, word, predictor.speed, *seconds)), file=sys.stderr)
        if predictor.saver.saved:
            print(f"saved in {predictor.save_dir}", file=sys.stderr)
    return 1 if getattr(source, "unreadable", []) or predictor.unsaved else 0


def _settings(args: argparse.Namespace, manifest: Manifest) -> dict[str, Any]:
    """Return the flags that were given as Ultralytics' settings; raises UsageError where one makes no sense."""
    for flag, low, high in (("conf", 0, 1), ("max_det", 1, None), ("line_width", 1, None), ("vid_stride", 1, None)):
        value = getattr(args, flag)
        if value is not None and not (value >= low and (high is None or value <= high)):
            limits = f"from {low} to {high}" if high is not None else f"from {low} up"
            raise OptionError(f"--{flag.replace('_', '-')} {value}: expected a number {limits}")
    settings = {name: value for name in PASSED_ON + OTHERS if (value := getattr(args, name)) is not None}
    if args.classes:
        settings["classes"] = class_indices(args.classes, manifest.classes)
    task, output = TASKS[manifest.task], manifest.outputs[0]
    size = manifest.options.imgsz or size_of(manifest.input)
    check_settings(settings, task=task, size=size, rows=output.shape[1] if task.ranked else None)
    if args.track:
        tracker = check_tracking(manifest.task, args.tracker)
        settings |= {} if tracker is None else {"tracker": tracker}
    elif args.tracker:
        raise OptionError("--tracker needs --track")
    if args.save or args.save_txt or args.save_crop:
        _check_writable(args.save_dir or Path("runs"))
    elif args.save_dir:
        raise OptionError("--save-dir: nothing is to be saved; add --save, --save-txt or --save-crop")
    if args.save_dir:
        settings["save_dir"] = str(args.save_dir)
    return settings


def _value(word: str) -> Any:
    """Read a setting's value as Python would, or as text."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _exported(model: Path) -> Path:
    """Export a checkpoint or a variant with the usual options, unless its artifact is there; returns its folder.

    One that is there is taken whatever options it was made with. Progress goes to standard error, since standard
    output is for results.
    """
    from ..exporter.api import export
    from .artifacts import artifact_of

    if found := artifact_of(model):
        warn(f"{model}: {found} was made from it and is used")
        return found

    with contextlib.redirect_stdout(sys.stderr):
        return export(str(model), skip_existing=True)


def _bundled(word: str) -> str:
    """Return the path of a photograph that Ultralytics ships, where that is named and no such file is here."""
    found = bundled(word)
    if found is None:
        return word
    warn(f"{word}: the photograph that comes with Ultralytics, {found}")
    return str(found)


def _check_source(word: str, *, alone: bool) -> None:
    """Refuse a source that is not there, as far as that can be told without opening it."""
    elsewhere = word.isnumeric() or "://" in word or word == "screen" or word.startswith("screen ")
    if elsewhere and not alone:
        raise UsageError(f"{word}: an address, camera or screen is a source by itself; run one command for each")
    if elsewhere:
        return
    if "*" in word:
        if not glob.glob(word, recursive=True):  # noqa: PTH207 (as Ultralytics looks for them)
            raise UsageError(f"no file fits {word}; check the pattern")
    elif not Path(word).exists():
        raise UsageError(f"no file or folder at {word}; check the path")


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=".yolo26-et-", dir=folder)).rmdir()  # only trying tells
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else first_line(error)
        raise UsageError(f"{folder} cannot be written to ({why}); name another with --save-dir DIR") from error


def _write(args: argparse.Namespace, manifest: Manifest, model: YOLO26, results: Iterator[Results]) -> None:
    """Print each result as it comes, so that a long video takes no more memory than a short one."""
    if args.json:
        head = {"artifact": str(args.artifact), "name": manifest.name, "task": manifest.task}
        print(json.dumps(head)[:-1] + ', "results": [', end="")
    frames: Counter[str] = Counter()
    kind = KINDS[TASKS[manifest.task].kind]
    separator = "\n"
    for result in results:
        moving = model.predictor.dataset.mode != "image"
        frames[result.path] += moving
        number = {"frame": frames[result.path]} if moving else {}
        if args.json:
            height, width = result.orig_shape
            record = {"path": result.path, **number, "height": height, "width": width, **kind.record(result)}
            print(separator + json.dumps(record), end="", flush=True)
            separator = ",\n"
            continue
        place = model.predictor.place(result) or (f"frame {frames[result.path]}" if moving else "image")
        line = f"{place} {result.path}: {kind.words(result) or 'nothing'}, {result.speed['inference']:.1f} ms"
        print(printable(line), flush=True)
    if args.json:
        predictor = model.predictor
        missing = {"unreadable": getattr(predictor.dataset, "unreadable", []), "unsaved": [*predictor.unsaved]}
        print(f"\n], {json.dumps(missing)[1:]}")


def _timed(results: Iterator[Results], totals: Totals, seconds: list[float]) -> Iterator[Results]:
    """Pass results on, counted; `seconds` holds the time since the first was asked for."""
    began = time.perf_counter()
    for result in results:
        totals.add(result)
        yield result
        seconds[:] = [time.perf_counter() - began]


def _total(totals: Totals, word: str, speed: dict[str, float] | None, seconds: float) -> str:
    """Return the line at the end; `word` is "image" or "frame", `speed` Ultralytics' milliseconds, by stage."""
    ranked = sorted(totals.objects.items(), key=lambda item: (-item[1], item[0]))
    objects = ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in ranked)
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in (speed or {}).items())
    rate = f"{totals.images / seconds:.1f} a second in all" if seconds else ""
    images = f"{totals.images} {word}{'s' * (totals.images > 1)}"
    found = f"{images}: {objects or 'nothing found'}" if totals.counted else images
    return "; ".join(filter(None, (found, f"ms each: {stages}", rate)))


def _shown(results: Iterator[Results], source: Any) -> Iterator[Results]:
    """Pass results on, with a bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)  # folded lines cannot be copied
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
        TextColumn("{task.fields[count]} done", markup=False), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    with progress:
        bar = progress.add_task("", total=getattr(source, "nf", None), count=0)
        for count, result in enumerate(results, start=1):
            done = getattr(source, "done", None)
            progress.update(bar, description=printable(Path(result.path).name), completed=done, count=count)
            yield result
