"""Find, download or make up the weights of what is to be exported, and load them."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, DownloadError, UsageError
from .tasks import TASKS, Task
from .variants import VARIANTS, Variant, find_variants

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Source:
    """Where one model's weights come from: a published variant, or a checkpoint file of the user's own."""

    name: str
    """The artifact's folder: the variant's name, or the file's name without `.pt`."""
    variant: Variant | None
    path: Path | None
    """The user's own checkpoint; None for a published variant."""

    def to_json(self) -> dict[str, str | None]:
        """Return plain data for a worker process."""
        return {"name": self.name, "path": str(self.path) if self.path else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Source:
        """Read back what `to_json` wrote."""
        path = Path(data["path"]) if data["path"] else None
        return cls(data["name"], VARIANTS.get(data["name"]) if path is None else None, path)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network, not yet fused, in eval mode and float32, with what its outputs depend on."""

    network: nn.Module
    task: Task
    names: dict[int, str]
    keypoint_shape: tuple[int, int] | None
    origin: str
    """'published', 'user' or 'random'."""
    file: str | None
    sha256: str | None
    seed: int | None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)


def find_sources(models: Sequence[str]) -> list[Source]:
    """Turn names, wildcards and paths of `.pt` files into sources, each once, in the order given.

    Raises:
        UnknownVariantError: a name fits nothing.
        CheckpointError: a path leads to no file, or to a file that is no readable checkpoint.
        UsageError: two of them would be written to the same folder.
    """
    sources: list[Source] = []
    for word in models:
        if word.endswith(".pt") or os.sep in word:
            path = Path(word).expanduser()
            check_archive(path)
            sources.append(Source(_folder_name(path), None, path.resolve()))
        else:
            sources.extend(Source(variant.name, variant, None) for variant in find_variants([word]))
    unique: dict[str, Source] = {}
    for source in sources:
        other = unique.setdefault(source.name, source)
        if other.path != source.path:
            raise UsageError(
                f"{other.path or other.name} and {source.path or source.name} would both be written to the folder "
                f"{source.name!r}; rename one of the files or use two base paths"
            )
    return list(unique.values())


def check_archive(path: Path) -> None:
    """Refuse a file that cannot be a PyTorch checkpoint, without unpickling anything.

    Raises:
        CheckpointError: no such file, not a PyTorch zip archive, or an entry fails its CRC-32.
    """
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.pt")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=3)
        raise CheckpointError(f"no such checkpoint file: {path}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    problem = None
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                problem = "it is a zip file without a PyTorch checkpoint inside"
            elif damaged := archive.testzip():
                problem = f"its entry {damaged} fails its checksum"
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        problem = f"it is truncated, corrupt or no PyTorch checkpoint ({str(error)[:80].rstrip('.')})"
    if problem:
        raise CheckpointError(f"{path} cannot be read: {problem}; copy or download the file again")


def load(source: Source, *, weights_dir: Path | None, random: bool, seed: int, trusted: bool = False) -> Checkpoint:
    """Return a source's network.

    Args:
        source: what to load.
        weights_dir: folder to look in first and to download to; None is Ultralytics' own weights folder.
        random: build the architecture with seeded weights instead, for published variants.
        seed: the seed of random weights.
        trusted: allow a user's checkpoint to name classes outside Ultralytics' and PyTorch's own. Unpickling those
            runs whatever code the file's author chose.

    Raises:
        CheckpointError: the file is damaged, refused by the safe loader, or holds no YOLO26 model.
        DownloadError: a published variant's weights are neither here nor to be had.
    """
    _quiet()
    if source.path is not None:
        return _load_file(source.path, "user", trusted)
    if source.variant is None:
        raise CheckpointError(f"{source.name} is neither a variant nor a checkpoint")
    if random:
        return _random(source.variant, seed)
    return _load_file(find_weights(source.variant, weights_dir), "published", trusted=False)


def default_weights_dir() -> Path:
    """Return Ultralytics' own weights folder."""
    from ultralytics.utils import SETTINGS

    return Path(SETTINGS["weights_dir"])


def find_weights(variant: Variant, weights_dir: Path | None) -> Path:
    """Return a published variant's checkpoint, downloading it where it is not there yet.

    Raises:
        DownloadError: naming the file, the folder it was looked for in, and how to put it there.
    """
    folder = weights_dir or default_weights_dir()
    path = folder / variant.checkpoint
    if path.is_file():
        return path
    from ultralytics.utils.downloads import attempt_download_asset

    part = folder / f".{variant.checkpoint}.{os.getpid()}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Downloaded beside its place and renamed, so that a cut connection leaves no half file under the real name.
        with _working_in(folder):
            got = Path(attempt_download_asset(variant.checkpoint, retry=1)).resolve()
        if not got.is_file():
            raise FileNotFoundError(got)
        check_archive(got)
    except Exception as error:
        part.unlink(missing_ok=True)
        raise DownloadError(
            f"{variant.checkpoint} is not in {folder} and could not be downloaded ({_first_line(error)}); put the file "
            f"there by hand, name its folder with --weights-dir, or try --random-weights"
        ) from error
    return got


def _load_file(path: Path, origin: str, trusted: bool) -> Checkpoint:
    from ultralytics.nn import tasks as ultralytics_tasks

    check_archive(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        content, _ = ultralytics_tasks.torch_safe_load(str(path), safe_only=not trusted)
    except Exception as error:
        hint = "" if trusted else "; if you trust who made it, add --trust-checkpoint"
        raise CheckpointError(f"{path} was refused by Ultralytics' safe loader: {_first_line(error)}{hint}") from error
    network = content.get("ema") or content.get("model")
    task = TASKS.get(getattr(network, "task", None) or _guess_task(network))
    if task is None or type(network.model[-1]).__name__ != task.head or not _is_yolo26(network, task):
        raise CheckpointError(
            f"{path} holds {_describe(network)}, not a YOLO26 model of {', '.join(TASKS)}; only those can be exported"
        )
    names = {int(index): str(name) for index, name in dict(network.names).items()}
    return Checkpoint(
        network.float().eval(), task, names, _keypoint_shape(network), origin, path.name, sha256, None
    )


def _random(variant: Variant, seed: int) -> Checkpoint:
    import torch
    from ultralytics.nn import tasks as ultralytics_tasks
    from ultralytics.utils import ROOT, YAML

    dataset = YAML.load(ROOT / "cfg" / "datasets" / variant.task.dataset)
    names = {int(index): str(name) for index, name in dataset["names"].items()}
    config = ultralytics_tasks.yaml_model_load(variant.config)
    # The class is the one that Ultralytics trains for the architecture's head.
    model_class = {
        "detect": ultralytics_tasks.DetectionModel,
        "segment": ultralytics_tasks.SegmentationModel,
        "pose": ultralytics_tasks.PoseModel,
        "obb": ultralytics_tasks.OBBModel,
        "classify": ultralytics_tasks.ClassificationModel,
    }[variant.task.name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model_class(config, ch=3, nc=len(names), verbose=False)
        network.names = names
        _spread(network, seed)
    return Checkpoint(
        network.float().eval(), variant.task, names, _keypoint_shape(network), "random", None, None, seed
    )


_LAST_LAYERS = {"cv2": (3.0, 0.5), "cv3": (-4.0, 0.8), "cv4": (0.0, 0.7), "cv4_kpts": (0.0, 0.7), "linear": (0.0, 2.0)}
"""Mean and spread that random weights give the outputs of the heads' last layers: distances in strides, class logits,
mask coefficients or angles, keypoints, logits."""


def _spread(network: nn.Module, seed: int) -> None:
    """Give random weights activations, boxes and scores that differ from place to place, as a trained model's do.

    A freshly built YOLO26 gives one score (about 1e-5) everywhere, so that any error in it compares equal. Here the
    batch norms take their statistics from seeded smooth noise, with gains that keep deep sums of residuals tame, and the heads' last layers are rescaled to
    the means and spreads of `_LAST_LAYERS`.
    """
    import torch
    from torch import nn

    pictures = torch.cat(_pictures(320))
    images = torch.cat([pictures, pictures.flip(3), _noise(4, 320, seed)])
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        nn.init.constant_(norm.weight, 0.3)
    with torch.no_grad():
        network.train()(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        seen: dict[nn.Module, torch.Tensor] = {}
        hooks = []
        for name, child in network.model[-1].named_children():
            if name.removeprefix("one2one_") in _LAST_LAYERS:
                last = [m for m in child.modules() if type(m) in (nn.Conv2d, nn.Linear) and m.bias is not None]
                for module in last:
                    module.aim = _LAST_LAYERS[name.removeprefix("one2one_")]
                    hooks.append(module.register_forward_hook(lambda m, _, out: seen.__setitem__(m, out)))
        network.eval()(images)
        for hook in hooks:
            hook.remove()
        for module, out in seen.items():
            mean, spread = module.aim
            del module.aim
            scale = spread / float(out.std())
            module.weight.mul_(scale)
            module.bias.add_(-float(out.mean())).mul_(scale).add_(mean)


def _pictures(side: int) -> list[torch.Tensor]:
    """Return the pictures that Ultralytics ships, float32 (1, 3, side, side) each, RGB, 0..1."""
    import cv2
    import torch
    from ultralytics.utils import ASSETS

    pictures = [cv2.resize(cv2.imread(str(path)), (side, side)) for path in sorted(ASSETS.glob("*.jpg"))]
    return [torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None] / 255 for picture in pictures]


def _noise(count: int, side: int, seed: int) -> torch.Tensor:
    """Return seeded noise with as much contrast in every octave, as photographs have: float32 (count, 3, side, side)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    octaves = [
        torch.nn.functional.interpolate(
            torch.rand(count, 3, n, n, generator=generator) - 0.5, size=(side, side), mode="bilinear"
        )
        for n in (5, 10, 20, 40, 80, 160, 320)
    ]
    return (0.45 + 0.35 * sum(octaves)).clamp(0, 1)


def _is_yolo26(network: nn.Module, task: Task) -> bool:
    """Whether it is a YOLO26: its own head class, or for heads shared with older YOLOs, one that is end to end."""
    if task.head in ("Segment26", "Pose26", "OBB26"):
        return True
    if task.ranked:
        return getattr(network.model[-1], "one2one_cv2", None) is not None
    config = getattr(network, "yaml", {}) or {}
    return "yolo26" in str(config.get("yaml_file", "")) or "26" in str(config.get("yaml_file", ""))


def _keypoint_shape(network: nn.Module) -> tuple[int, int] | None:
    shape = getattr(network.model[-1], "kpt_shape", None)
    return (int(shape[0]), int(shape[1])) if shape is not None else None


def _guess_task(network: object) -> str:
    from ultralytics.nn.tasks import guess_model_task

    return str(guess_model_task(network))


def _describe(network: object) -> str:
    layers = getattr(network, "model", None)
    if layers is None:
        return f"a {type(network).__name__}"
    return f"a {type(network).__name__} with a {type(layers[-1]).__name__} head"


def _folder_name(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._")
    if not name:
        raise CheckpointError(f"{path}: its name gives no folder name; rename the file")
    return name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].replace("ERROR ❌️ ", "")


def _quiet() -> None:
    """Keep Ultralytics' banners off the terminal; what matters comes back as exceptions."""
    import logging

    from ultralytics.utils import LOGGER

    LOGGER.setLevel(logging.ERROR)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Change the working folder for a while: Ultralytics downloads a bare name to where it stands."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
