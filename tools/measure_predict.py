"""Measure `predict` beside Ultralytics' in PyTorch: whether masks are the same, and how fast images and videos go.

python tools/measure_predict.py OUT.json                    # all that this machine can: on a GPU tf32 and fp16
python tools/measure_predict.py OUT.json --only masks --backend xnnpack --images 200
python tools/measure_predict.py OUT.json --only video --precision fp16 --exports exports

Three parts, for the bundled checkpoints of size n, over drawn images; nothing is downloaded.

masks   the IoU of each mask, and of each polygon of --save-txt, with those of `YOLO(checkpoint).predict(nms=False)`,
        with and without `retina_masks`
video   frames a second of a drawn 1280x720 video through both, in turns
images  time an image, of the clock and of the processors, for every task through both, in turns

A part is written to OUT.json as soon as it is measured; what is there of other runs with other options is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shapes import dataset, scenes
from shapes.train import checkpoint_name
from yolo26_executorch import TASKS, YOLO26

ROOT = Path(__file__).parents[1]
SIZES = (*dataset.SIZES, (480, 640), (640, 640), (640, 480), (720, 1280))
"""Heights and widths of the images, in turn."""
VIDEO = (720, 1280)
SCENES_IN_VIDEO = 30
SETTINGS: dict[str, dict[str, Any]] = {"default": {}, "retina_masks": {"retina_masks": True}}
"""Of `predict`, by name, with which masks are compared."""
Image = Any
"""BGR, uint8 (H, W, 3)."""


def drawn(count: int, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 26) -> list[Image]:
    """Return drawn images."""
    made = []
    for index in range(count):
        size = sizes[index % len(sizes)]
        count_of = (6, 12) if min(size) >= 480 else (3, 6)
        scene = scenes.draw(np.random.default_rng([seed, index]), size, count=count_of)
        made.append(np.ascontiguousarray(scene.image[..., ::-1]))
    return made


def draw_video(path: Path, frames: int) -> Path:
    """Write an MP4 of drawn scenes, each of which slides to the left until the next one comes."""
    import cv2

    images = drawn(SCENES_IN_VIDEO, [VIDEO], seed=27)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (VIDEO[1], VIDEO[0]))
    each = -(-frames // len(images))
    for index in range(frames):
        writer.write(np.roll(images[index // each], -4 * (index % each), axis=1))
    writer.release()
    return path


class Setup:
    """The artifacts, and Ultralytics' models, on one device."""

    def __init__(self, backend: str, exports: Path) -> None:
        self.backend, self.exports = backend, exports
        self.device = "cuda:0" if backend == "cuda" else "cpu"

    def artifact(self, task: str, precision: str, imgsz: int) -> Path:
        """Return the artifact of a bundled checkpoint, exported unless it is there."""
        base = self.exports / f"{self.backend}-{precision}-{imgsz}"
        checkpoint = ROOT / "weights" / checkpoint_name(TASKS[task])
        words = [
            "export", "--models", str(checkpoint), "--backend", self.backend, "--precision", precision,
            "--imgsz", str(imgsz), "--base-path", str(base), "--skip-existing",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "yolo26_executorch", *words], check=True, stdout=sys.stderr)
        return base / checkpoint.stem

    def pytorch(self, precision: str) -> dict[str, Any]:
        """Return Ultralytics' settings for this device, in half precision where the artifact is."""
        return {"device": self.device, **({"half": True} if precision == "fp16" else {})}

    def theirs(self, task: str) -> Any:
        """Return Ultralytics' model of a bundled checkpoint."""
        from ultralytics import YOLO

        return YOLO(ROOT / "weights" / checkpoint_name(TASKS[task]))


# ---- masks -----------------------------------------------------------------------------------------------------------


def measure_masks(setup: Setup, precision: str, imgsz: int, count: int) -> dict[str, Any]:
    """Compare masks over drawn images; PyTorch computes in IEEE float32."""
    from yolo26_executorch.models.export_model import float32_precision

    folder, theirs = setup.artifact("segment", precision, imgsz), setup.theirs("segment")
    found: dict[str, Any] = {}
    images = drawn(count)
    with YOLO26(folder) as model:
        for name, settings in SETTINGS.items():
            gathered = Masks(imgsz)
            for image in images:
                # As `RunnerBackend` fits images into its one shape.
                with float32_precision("ieee"):
                    (expected,) = theirs.predict(
                        image, nms=False, rect=False, imgsz=imgsz, device=setup.device, verbose=False, **settings
                    )
                (given,) = model.predict(image, **settings)
                gathered.add(given, expected)
            found[name] = gathered.figures()
    return {"precision": precision, "imgsz": imgsz, "images": count, **found}


class Masks:
    """IoUs of masks and polygons, object by object."""

    def __init__(self, imgsz: int) -> None:
        from yolo26_executorch.vision.agreement import Tally

        self._tally = Tally("rankings", (imgsz, imgsz))
        self._polygons: list[float] = []

    def add(self, given: Any, expected: Any) -> None:
        """Add the results for an image."""
        from yolo26_executorch.vision.agreement import match

        self._tally.add(given, expected)
        if given.masks is None or expected.masks is None:
            return
        for i, j in match(given, expected):
            self._polygons.append(_polygon_iou(_polygon(given[i]), _polygon(expected[j]), expected.orig_shape))

    def figures(self) -> dict[str, Any]:
        """Return what was found."""
        tally = self._tally
        return {
            "objects": tally.objects, "missing": tally.missing, "extra": tally.extra, "matched": len(tally.mask_iou),
            "mask_iou": _spread(tally.mask_iou), "polygon_iou": _spread(self._polygons),
            "box_px_max": max(tally.box_px, default=None), "confidence_max": max(tally.confidence, default=None),
        }  # fmt: skip


def _polygon(one: Any) -> Image:
    """Return the outline that --save-txt writes for a result of one object, (points, 2), 0..1; empty without one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.txt"
        one.save_txt(file)
        values = file.read_text().split()[1:] if file.exists() else []
    return np.array(values, np.float32).reshape(-1, 2)


def _polygon_iou(one: Image, other: Image, shape: tuple[int, int]) -> float:
    import cv2

    height, width = shape
    areas = []
    for polygon in (one, other):
        canvas = np.zeros(shape, np.uint8)
        if len(polygon):
            cv2.fillPoly(canvas, [np.round(polygon * (width, height)).astype(np.int32)], 1)
        areas.append(canvas > 0)
    either = (areas[0] | areas[1]).sum()
    return float((areas[0] & areas[1]).sum() / either) if either else 1.0


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "mean": statistics.fmean(values),
        "min": min(values),
        "p1": float(np.quantile(values, 0.01)),
        "below_0.99": sum(value < 0.99 for value in values),
    }


# ---- speed -----------------------------------------------------------------------------------------------------------


def measure_video(setup: Setup, precision: str, imgsz: int, frames: int, rounds: int, task: str) -> dict[str, Any]:
    """Measure frames a second; PyTorch runs in half precision where the artifact does."""
    folder, theirs = setup.artifact(task, precision, imgsz), setup.theirs(task)
    with tempfile.TemporaryDirectory() as place, YOLO26(folder) as model:
        clip = draw_video(Path(place) / "clip.mp4", frames)
        common = {"imgsz": imgsz, "nms": False, "verbose": False, "stream": True, **setup.pytorch(precision)}
        speeds: dict[str, dict[str, float]] = {}

        def ours(**settings: Any) -> int:
            count = sum(1 for _ in model.predict(clip, stream=True, **settings))
            speeds["artifact"] = dict(model.predictor.speed)
            return count

        def other(**settings: Any) -> int:
            count = sum(1 for _ in theirs.predict(clip, **common, **settings))
            speeds["pytorch"] = dict(theirs.predictor.speed)
            return count

        rates = {
            name: [frames / seconds for seconds in taken]
            for name, taken in in_turns(
                rounds,
                {
                    "artifact": lambda: checked(ours(), frames),
                    "pytorch": lambda: checked(other(), frames),
                    "pytorch_same_shape": lambda: checked(other(rect=False), frames),
                    "decoding": lambda: checked(_decode(clip), frames),
                },
            ).items()
        }
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "task": task, "precision": precision, "imgsz": imgsz, "frames": frames, "video": "1280x720, mp4v",
        "frames_per_second": medians, "rounds": rates, "ms_per_frame": speeds,
        "ratio": medians["artifact"] / medians["pytorch"],
    }  # fmt: skip


def _decode(clip: Path) -> int:
    import cv2

    capture = cv2.VideoCapture(str(clip))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def measure_images(setup: Setup, precision: str, task: str, count: int, rounds: int) -> dict[str, Any]:
    """Measure images a second, from arrays to results; 640x640 pixels, classify its native size."""
    imgsz = min(640, *TASKS[task].native)
    folder, theirs = setup.artifact(task, precision, imgsz), setup.theirs(task)
    images = drawn(count, [(imgsz, imgsz)])
    common = {"imgsz": imgsz, "nms": False, "verbose": False, **setup.pytorch(precision)}
    cpu: dict[str, list[float]] = {"artifact": [], "pytorch": []}
    with YOLO26(folder) as model:

        def ours() -> None:
            with used(cpu["artifact"]):
                for image in images:
                    model.predict(image)

        def other() -> None:
            with used(cpu["pytorch"]):
                for image in images:
                    theirs.predict(image, **common)

        taken = in_turns(rounds, {"artifact": ours, "pytorch": other})
    wall = {name: [1e3 * seconds / count for seconds in values] for name, values in taken.items()}
    busy = {name: [1e3 * seconds / count for seconds in values[1:]] for name, values in cpu.items()}
    return {
        "task": task, "precision": precision, "imgsz": imgsz, "images": count,
        "wall_ms": {name: statistics.median(values) for name, values in wall.items()},
        "cpu_ms": {name: statistics.median(values) for name, values in busy.items()},
        "rounds_wall_ms": wall, "rounds_cpu_ms": busy,
        "pytorch_over_artifact": {
            "wall": statistics.median(b / a for a, b in zip(wall["artifact"], wall["pytorch"], strict=True)),
            "cpu": statistics.median(b / a for a, b in zip(busy["artifact"], busy["pytorch"], strict=True)),
        },
    }  # fmt: skip


def in_turns(rounds: int, calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Time calls in turns, so that what else the machine does meets all of them; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                taken[name].append(time.perf_counter() - start)
    return taken


def checked(count: int, expected: int) -> None:
    """Refuse a run that did not see every frame."""
    if count != expected:
        raise RuntimeError(f"{count} frames of {expected}")


@contextlib.contextmanager
def used(seconds: list[float]) -> Iterator[None]:
    """Append the processor seconds, of all threads, that a block takes."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


# ---- the command -----------------------------------------------------------------------------------------------------


def machine(setup: Setup) -> dict[str, Any]:
    """Return what the figures hold for."""
    import torch
    import ultralytics

    from yolo26_executorch.system.probe import versions

    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name() if setup.backend == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "commit": found.stdout.strip(),
        "versions": {**versions(), "ultralytics": ultralytics.__version__},
    }


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for; returns the exit status."""
    import torch

    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="JSON to write")
    parts = ("masks", "video", "images")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="these parts (all)")
    parser.add_argument("--backend", choices=("cuda", "xnnpack"), default="cuda" if has_gpu else "xnnpack")
    parser.add_argument("--precision", nargs="+", help="of artifacts (cuda: tf32 fp16; xnnpack: fp32)")
    parser.add_argument("--imgsz", type=int, nargs="+", default=(320, 640), help="of masks (320 640)")
    parser.add_argument("--images", type=int, default=200, help="for masks (200)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="of images (all)")
    parser.add_argument("--video-task", choices=list(TASKS), default="segment", help="of video (segment)")
    parser.add_argument("--frames", type=int, default=600, help="of the video (600)")
    parser.add_argument("--rounds", type=int, default=5, help="that are counted (5)")
    parser.add_argument("--batch-of", type=int, default=10, metavar="N", help="images a round (10)")
    parser.add_argument("--exports", type=Path, help="where artifacts are kept (nowhere)")
    args = parser.parse_args(argv)
    precisions = args.precision or (["tf32", "fp16"] if args.backend == "cuda" else ["fp32"])
    sys.path.insert(0, str(ROOT / "tools"))
    from yolo26_executorch.vision.torchvision_shim import import_torchvision

    import_torchvision()
    with tempfile.TemporaryDirectory() as place:
        setup = Setup(args.backend, args.exports or Path(place))
        found = json.loads(args.out.read_text()) if args.out.exists() else {}
        found["machine"] = machine(setup)

        def keep(part: str, one: dict[str, Any], keys: Sequence[str]) -> None:
            others = [row for row in found.get(part, []) if any(row.get(key) != one[key] for key in keys)]
            found[part] = [*others, one]
            args.out.write_text(json.dumps(found, indent=1) + "\n")
            print(json.dumps({part: {k: v for k, v in one.items() if not k.startswith("rounds")}}), file=sys.stderr)

        for precision in precisions if "video" in args.only else ():
            imgsz = args.imgsz[-1]
            one = measure_video(setup, precision, imgsz, args.frames, args.rounds, args.video_task)
            keep("video", one, ("task", "precision", "imgsz"))
        for precision in precisions if "masks" in args.only else ():
            for imgsz in args.imgsz:
                keep("masks", measure_masks(setup, precision, imgsz, args.images), ("precision", "imgsz"))
        for precision in precisions if "images" in args.only else ():
            for task in args.tasks:
                one = measure_images(setup, precision, task, args.batch_of, args.rounds)
                keep("images", one, ("task", "precision"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
