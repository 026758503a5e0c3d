"""Compare an artifact with its checkpoint in PyTorch on the user's own images, as the smoke test does on its own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..artifacts import card
from ..artifacts.reading import Artifact, load_manifest, opened
from ..errors import InputError, UsageError
from ..models import checkpoints
from ..models import preprocess as pictures
from ..models.tasks import TASKS, Task, TensorSpec
from ..system.probe import dotted
from .records import ParityReport

if TYPE_CHECKING:
    from ..models.preprocess import Image
    from .aggregate import Confident, Figures

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called after each image: how many are done, of how many, and the image's name."""

SCHEMA = 1


@dataclass(frozen=True)
class PictureFigures:
    """One image's comparison."""

    name: str
    """The file's name, its path where several have that name, or "random 1" for a random input."""
    path: str | None
    """None for a random input."""
    reports: Mapping[str, ParityReport]
    """By reference, "eager fp32" and the like; figures only."""
    confident: Mapping[str, Confident]
    """By reference."""

    @property
    def passed(self) -> bool:
        """Whether everything is within tolerance of every reference."""
        return all(report.passed for report in self.reports.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "path": self.path,
            "passed": self.passed,
            "against": {
                name: {**report.to_json(), "confident": asdict(self.confident[name])}
                for name, report in self.reports.items()
            },
        }


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be compared, and why."""

    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """How an artifact compares with its checkpoint."""

    folder: str
    name: str
    task: str
    backend: str
    precision: str
    """What the artifact computes in: fp32 for XNNPACK, whatever name it was asked for by."""
    runner: str
    device: str
    checkpoint: checkpoints.CheckpointRecord
    """As in the manifest."""
    figures: Mapping[str, Figures]
    """Over all images, by reference: "eager fp32", and for reduced precisions "eager tf32" and the like, too."""
    pictures: tuple[PictureFigures, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def failed(self) -> tuple[PictureFigures, ...]:
        """The images on which the artifact is out of tolerance."""
        return tuple(picture for picture in self.pictures if not picture.passed)

    @property
    def passed(self) -> bool:
        """Whether there was something to compare, and all of it could be read and is within tolerance."""
        return bool(self.pictures) and not self.failed and not self.unreadable

    @property
    def failures(self) -> tuple[str, ...]:
        """Every failure in words, with its image and reference."""
        return tuple(
            f"{picture.name}, against {name}: {failure}"
            for picture in self.pictures
            for name, report in picture.reports.items()
            for failure in report.failures
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            **{name: getattr(self, name) for name in ("folder", "name", "task", "backend", "precision", "runner")},
            "device": self.device,
            "checkpoint": asdict(self.checkpoint),
            "figures": {name: figures.to_json() for name, figures in self.figures.items()},
            "pictures": [picture.to_json() for picture in self.pictures],
            "unreadable": [asdict(one) for one in self.unreadable],
        }


def verify(
    folder: Artifact | Path | str,
    images: Path | str | Sequence[Path | str] | None = None,
    *,
    checkpoint: Path | str | None = None,
    weights_dir: Path | str | None = None,
    runner: str = "auto",
    trusted: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare an artifact's outputs with PyTorch's, image by image.

    One batch is held at a time, and of every image only figures are kept.

    Args:
        folder: the artifact, or its folder, whose files' hashes are checked before anything is loaded.
        images: an image, a folder of images, or several of either; None takes the two photographs that Ultralytics
            ships and two random inputs.
        checkpoint: the file that the artifact was made from, whatever its name; None looks for it as
            `checkpoints.find_checkpoint` does.
        weights_dir: a folder to look for it in first.
        runner: as in `open_runner`.
        trusted: allow the checkpoint to run code while it is loaded; see `checkpoints.load`.
        progress: called after each image.

    Raises:
        UsageError: no images there.
        CheckpointError: no checkpoint of the manifest's SHA-256.
        ArtifactError: the folder is no intact artifact, or cannot run here.
    """
    paths = None if images is None else find_pictures([images] if isinstance(images, Path | str) else images)
    import torch

    from ..runtime import open_runner
    from .aggregate import Aggregate
    from .baseline import Reference, device_of

    with opened(folder) as artifact:
        manifest = artifact.manifest
        found = checkpoints.find_checkpoint(
            manifest, Path(checkpoint) if checkpoint else None, Path(weights_dir) if weights_dir else None, trusted
        )
        reference = Reference(manifest, found)
        running = open_runner(artifact, runner=runner)
    aggregates: dict[str, Aggregate] = {}
    done: list[PictureFigures] = []
    unreadable: list[Unreadable] = []
    with running:
        stream = _stream(paths, running.input, TASKS[manifest.task], unreadable, progress)
        for group in _groups(stream, running.input.shape[0]):
            batch = _batch([picture for _, _, picture in group], running.input)
            given, predictions = running(batch), reference.predictions(batch)
            for index, (name, path, _) in enumerate(group):
                reports = reference.compare(given, predictions, index)
                confident = {
                    against: aggregates.setdefault(against, Aggregate(manifest.classes)).add(name, report)
                    for against, report in reports.items()
                }
                kept = {against: replace(report, items=(), errors={}) for against, report in reports.items()}
                done.append(PictureFigures(name, path, kept, confident))
    return VerifyReport(
        folder=str(artifact.folder), name=manifest.name, task=manifest.task, backend=manifest.backend,
        precision=manifest.precision, runner=running.name,
        device=torch.cuda.get_device_name() if device_of(manifest) == "cuda" else "cpu",
        checkpoint=manifest.checkpoint, figures={against: one.figures() for against, one in aggregates.items()},
        pictures=tuple(done), unreadable=tuple(unreadable),
    )  # fmt: skip


def complete(folder: Path, report: VerifyReport) -> str | None:
    """Write down that an artifact ran on a GPU of a kind that was not at hand when it was exported.

    Returns:
        The compute capability; None where its test lacked none that this GPU has, or the report is no success.

    Raises:
        ArtifactError, BusyError, UsageError: it could not be written down.
    """
    import torch

    test = load_manifest(folder).test or {}
    missing = test.get("not_run")
    if not report.passed or not isinstance(missing, list) or not torch.cuda.is_available():
        return None
    here = dotted(torch.cuda.get_device_capability())
    if here not in missing:
        return None
    done = {
        "architecture": here, "device": report.device, "runner": report.runner, "pictures": len(report.pictures),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    rest = [name for name in missing if name != here]
    run_on = [*(test.get("run_on") or []), done]
    kept = {key: value for key, value in test.items() if key not in ("not_run", "run_on")}
    card.write(folder, test={**kept, "run_on": run_on, **({"not_run": rest} if rest else {})})
    return here


def find_pictures(images: Sequence[Path | str]) -> list[Path]:
    """Return the image files that paths name: files as they are, of folders those that look like images, sorted.

    Raises:
        UsageError: there is no such path, or a folder without an image.
    """
    known = pictures.suffixes()

    def is_picture(path: Path) -> bool:
        return path.suffix.lower() in known and not path.name.startswith(".")

    found: list[Path] = []
    for place in map(Path, images):
        if place.is_dir():
            inside = sorted(filter(is_picture, place.iterdir()))
            if not inside:
                below = next((path.parent for path in place.rglob("*") if is_picture(path)), None)
                hint = f"did you mean {below}?" if below else "name a folder of JPEG or PNG files"
                raise UsageError(f"no pictures in {place}; {hint}")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise UsageError(f"no picture or folder at {place}; check the path")
    if not found:
        raise UsageError("no pictures were named; name a picture or a folder")
    return list(dict.fromkeys(found))


def _stream(
    paths: Sequence[Path] | None, spec: TensorSpec, task: Task, unreadable: list[Unreadable], progress: Progress | None
) -> Iterator[tuple[str, str | None, Image]]:
    """Yield name, path and image, fitted to the input, one by one; those that cannot be read go to `unreadable`."""
    size = pictures.size_of(spec)
    random_seeds = () if paths is not None else pictures.RANDOM_SEEDS
    paths = pictures.sample_images() if paths is None else paths
    total, names = len(paths) + len(random_seeds), Counter(path.name for path in paths)
    for number, path in enumerate(paths, 1):
        name = path.name if names[path.name] == 1 else str(path)
        try:
            yield name, str(path), pictures.fit(pictures.read(path), size, task)
        except InputError as error:
            unreadable.append(Unreadable(name, str(path), str(error)))
        if progress:
            progress(number, total, name)
    for number, seed in enumerate(random_seeds, len(paths) + 1):
        image = pictures.random_input(replace(spec, shape=(1, *size, 3), dtype="uint8"), seed)
        yield f"random {seed}", None, image[0].numpy()
        if progress:
            progress(number, total, f"random {seed}")


def _groups(stream: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield the stream's items, `size` at a time."""
    while group := list(itertools.islice(stream, size)):
        yield group


def _batch(images: list[Image], spec: TensorSpec) -> Any:
    """Return images as the model's input, filled up with the last one."""
    import numpy as np

    return pictures.to_input(np.stack(images + images[-1:] * (spec.shape[0] - len(images))), spec)
