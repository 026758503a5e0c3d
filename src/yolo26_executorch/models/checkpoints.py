"""Find, download or make up the weights of what is to be exported, and load them."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import tempfile
import types
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CheckpointError, DownloadError, first_line, printable
from ..system.files import sha256_of
from . import naming, preprocess
from .options import STRIDE
from .tasks import CLASSIFY, DETECT, TASKS, Task, TensorSpec
from .variants import VARIANTS, Variant, find_variants

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Source:
    """Where one model's weights come from: a published variant, or a checkpoint file of the user's own."""

    name: str
    """The artifact's folder; see `naming`."""
    variant: Variant | None
    path: Path | None
    """The user's own checkpoint; None for a published variant."""

    def to_json(self) -> dict[str, str | None]:
        """Return plain data for a worker process."""
        return {
            "name": self.name,
            "variant": self.variant.name if self.variant else None,
            "path": str(self.path) if self.path else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Source:
        """Read back what `to_json` wrote."""
        return cls(
            data["name"],
            VARIANTS[data["variant"]] if data["variant"] else None,
            Path(data["path"]) if data["path"] else None,
        )


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
            # Links are not followed: their own names are what people gave them.
            path = Path(os.path.abspath(path))  # noqa: PTH100
            sources.append(Source(naming.names_of(path)[0], None, path))
        else:
            sources.extend(Source(variant.name, variant, None) for variant in find_variants([word]))
    return naming.tell_apart(sources)


def check_archive(path: Path) -> None:
    """Refuse a file that cannot be a PyTorch checkpoint, without unpickling anything.

    Raises:
        CheckpointError: no such file, not a PyTorch zip archive, or an entry fails its CRC-32.
    """
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.pt")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=3)
        raise CheckpointError(
            f"no such checkpoint file: {path}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    problem = None
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                problem = "it is a zip file without a PyTorch checkpoint inside"
            elif damaged := archive.testzip():
                problem = f"its entry {printable(damaged)} fails its checksum"
    except Exception as error:  # zipfile lets those of the decompressors and of broken Unicode through, too
        problem = f"it is truncated, corrupt or no PyTorch checkpoint ({first_line(error)[:80].rstrip('.')})"
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


class Exported(Protocol):
    """What of an artifact's manifest says which checkpoint it was made from."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def variant(self) -> str | None: ...  # noqa: D102
    @property
    def checkpoint(self) -> Mapping[str, Any]: ...  # noqa: D102


def find_checkpoint(
    artifact: Exported, checkpoint: Path | None = None, weights_dir: Path | None = None, trusted: bool = False
) -> Checkpoint:
    """Return the very checkpoint that an artifact was made from, loaded: what the artifact is compared with.

    The manifest has the file's name and SHA-256, and only a file of that hash will do. Nothing is downloaded. Random
    weights are made again from their seed.

    Args:
        artifact: the artifact's manifest.
        checkpoint: the file, whatever its name; None looks for the manifest's name in `weights_dir`, the current
            folder and Ultralytics' own weights folder.
        weights_dir: a folder to look in first.
        trusted: see `load`.

    Raises:
        CheckpointError: no such file, or none of that hash; or the file is damaged or refused by the safe loader.
    """
    _quiet()
    file, sha256 = artifact.checkpoint["file"], artifact.checkpoint["sha256"]
    if sha256 is None:
        if checkpoint is not None:
            raise CheckpointError(
                f"{artifact.name} has random weights (seed {artifact.checkpoint['seed']}) and was made from no file; "
                "leave --checkpoint out"
            )
        source = Source(artifact.name, VARIANTS.get(artifact.variant or ""), None)
        return load(source, weights_dir=None, random=True, seed=artifact.checkpoint["seed"])
    if checkpoint is not None:
        check_archive(checkpoint)
        places = [checkpoint]
    else:
        # The manifest may be anybody's: its file's name must not lead out of these folders.
        folders = dict.fromkeys(filter(None, (weights_dir, Path(), default_weights_dir())))
        places = [folder / Path(file).name for folder in folders if file]
    there = [place for place in places if place.is_file()]
    found = next((place for place in there if sha256_of(place) == sha256), None)
    if found is None:
        looked = ", ".join(str(place.parent.absolute()) for place in places)
        state = f"{', '.join(map(str, there))} has another SHA-256" if there else f"no such file in {looked}"
        raise CheckpointError(
            f"{artifact.name} was made from {file} with SHA-256 {sha256[:12]}…, and {state}; name the file with "
            "--checkpoint FILE or its folder with --weights-dir DIR"
        )
    return _load_file(found, artifact.checkpoint["origin"], trusted)


def default_weights_dir() -> Path:
    """Return Ultralytics' own weights folder."""
    from ultralytics.utils import SETTINGS

    return Path(SETTINGS["weights_dir"])


def find_weights(variant: Variant, weights_dir: Path | None) -> Path:
    """Return a published variant's checkpoint, downloading it to `weights_dir` where it is not there yet.

    Raises:
        DownloadError: naming the file, the folder it was looked for in, and how to put it there.
    """
    folder = weights_dir or default_weights_dir()
    for known in (folder, default_weights_dir()):
        if (known / variant.checkpoint).is_file():
            return known / variant.checkpoint
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Elsewhere first, so that a cut connection leaves no half file under the real name.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as private:
            got = Path(attempt_download_asset(Path(private) / variant.checkpoint, retry=1))
            check_archive(got)
            return got.replace(folder / variant.checkpoint)
    except Exception as error:
        raise DownloadError(
            f"{variant.checkpoint} is not in {folder} and could not be downloaded ({_first_line(error)}); put the file "
            f"there by hand, name its folder with --weights-dir, or try --random-weights"
        ) from error


def _load_file(path: Path, origin: str, trusted: bool) -> Checkpoint:
    from ultralytics.nn import tasks as ultralytics_tasks

    check_archive(path)
    sha256 = sha256_of(path)
    try:
        with _torchvision_stand_ins():
            content, _ = ultralytics_tasks.torch_safe_load(str(path), safe_only=not trusted)
    except Exception as error:
        if "outside the supported" in str(error):
            raise CheckpointError(
                f"{path} was refused by Ultralytics' safe loader: it holds more than weights and known classes, so "
                "that loading it can run code; if you trust who made it, add --trust-checkpoint"
            ) from error
        raise CheckpointError(f"{path} cannot be loaded: {_first_line(error)}") from error
    network = content.get("ema") or content.get("model")
    task = _yolo26_task(network, origin)
    if task is None:
        raise CheckpointError(
            f"{path} holds {_describe(network)}, not a YOLO26 model of {', '.join(TASKS)}; only those can be exported"
        )
    coarsest = int(max(network.stride))
    if task.ranked and coarsest > STRIDE:
        raise CheckpointError(
            f"{path} holds {_describe(network)} whose coarsest stride is {coarsest} pixels; only models of stride "
            f"{STRIDE}, as the 25 published ones are, can be exported"
        )
    names = {int(index): str(name) for index, name in dict(network.names).items()}
    return Checkpoint(network.float().eval(), task, names, _keypoint_shape(network), origin, path.name, sha256, None)


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
        _spread(network, variant.task, seed)
    return Checkpoint(network.float().eval(), variant.task, names, _keypoint_shape(network), "random", None, None, seed)


def _take_power(norm: Any, inputs: tuple[torch.Tensor]) -> None:
    """Make a batch norm bring its input to a root mean square of 0.05, and subtract nothing.

    SiLU is nearly a straight line there. Farther out, a deep random network amplifies rounding until nothing can be
    told from its outputs; and with the mean subtracted, as in training, differences remain that rounding shows in.
    """
    power = inputs[0].square().mean((0, 2, 3)).clamp(min=1e-12)
    norm.running_mean.zero_()
    norm.running_var.copy_(power)
    norm.weight.copy_(0.05 * ((power + norm.eps) / power).sqrt())


_LAST_LAYERS = {"cv2": (3.0, 2.5), "cv3": (-4.0, 5.0), "cv4": (0.0, 3.0), "cv4_kpts": (0.0, 3.0), "linear": (0.0, 6.0)}
"""The mean, and the farthest from it, that random weights give the outputs of the heads' last layers: distances in
strides, class logits, mask coefficients or angles, keypoints in strides, logits."""


def _spread(network: Any, task: Task, seed: int) -> None:
    """Give random weights activations, boxes and scores that differ from place to place, as a trained model's do.

    A freshly built YOLO26 gives one score (about 1e-5) everywhere, so that any error in it compares equal. Here the
    batch norms keep the activations small but alive, and the heads' last layers are rescaled to reach as far as
    `_LAST_LAYERS` says, both measured on pictures and seeded noise.
    """
    import torch
    from torch import nn

    side = min(640, task.native_imgsz)  # what the test after an export runs
    spec = TensorSpec("images", (1, 3, side, side), "float32", "")
    drawn = [preprocess.fit(preprocess.read(path), (side, side), task) for path in preprocess.sample_pictures()]
    images = torch.cat(
        [preprocess.to_input(picture[None], spec) for picture in drawn]
        + [preprocess.random_input(spec, seed + number) for number in range(2)]
    )
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(_take_power) for norm in norms]
    with torch.no_grad():
        network.eval()(images)
        for hook in hooks:
            hook.remove()
        if (proto := getattr(network.model[-1], "proto", None)) is not None:
            proto.cv3.bn.weight.mul_(20)  # the prototypes are outputs, too: of the order of 1
        seen: dict[Any, torch.Tensor] = {}
        hooks = []
        for name, child in network.model[-1].named_children():
            if name.removeprefix("one2one_") in _LAST_LAYERS:
                last = [m for m in child.modules() if type(m) in (nn.Conv2d, nn.Linear) and m.bias is not None]
                module: Any
                for module in last:
                    module.aim = _LAST_LAYERS[name.removeprefix("one2one_")]
                    hooks.append(module.register_forward_hook(lambda m, _, out: seen.__setitem__(m, out)))
        network.eval()(images)
        for hook in hooks:
            hook.remove()
        for module, out in seen.items():
            mean, reach = module.aim
            del module.aim
            scale = reach / float((out - out.mean()).abs().max())
            module.weight.mul_(scale)
            module.bias.add_(-float(out.mean())).mul_(scale).add_(mean)


def _yolo26_task(network: Any, origin: str) -> Task | None:
    """Return a YOLO26's task, which its head tells; None for anything else."""
    head = type(network.model[-1]).__name__ if _has_layers(network) else None
    task = next((task for task in TASKS.values() if task.head == head), None)
    # Detect and Classify are older YOLOs' heads, too. Only YOLO26 has a second, end-to-end branch in the former; YOLO11
    # classifies with the very same layers, so that nothing but the architecture's name tells the two apart.
    if task is DETECT and getattr(network.model[-1], "one2one_cv2", None) is None:
        return None
    if task is CLASSIFY and origin == "user" and "yolo26" not in Path(_config_name(network)).stem:
        return None
    return task


def _has_layers(network: object) -> bool:
    from torch import nn

    return isinstance(network, nn.Module) and isinstance(getattr(network, "model", None), nn.Sequential)


def _config_name(network: Any) -> str:
    """Return the name of the architecture file that a network was made from; empty where it does not say."""
    config = getattr(network, "yaml", None)
    return str(config.get("yaml_file", "")) if isinstance(config, dict) else ""


def _keypoint_shape(network: Any) -> tuple[int, int] | None:
    shape = getattr(network.model[-1], "kpt_shape", None)
    return (int(shape[0]), int(shape[1])) if shape is not None else None


def _describe(network: Any) -> str:
    if network is None:
        return "no model"
    if not _has_layers(network):
        return f"a {type(network).__name__}"
    name = Path(_config_name(network)).name
    return f"a {type(network).__name__} with a {type(network.model[-1]).__name__} head" + (f" ({name})" if name else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].replace("ERROR ❌️ ", "")


def _quiet() -> None:
    """Keep Ultralytics' banners off the terminal; what matters comes back as exceptions."""
    import logging

    from ultralytics.utils import LOGGER

    LOGGER.setLevel(logging.ERROR)


@contextlib.contextmanager
def _torchvision_stand_ins() -> Iterator[None]:
    """Let classifiers be unpickled without torchvision, whose transforms they carry along and we have no use for.

    Its PyPI build cannot be imported beside a CPU build of PyTorch.
    """
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.transforms")
    if names[0] in sys.modules:
        yield
        return
    modules = {name: _StandIn(name) for name in (*names, "torchvision.transforms.functional")}
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)


class _StandIn(types.ModuleType):
    """A module that has every class, each good for nothing but being unpickled."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__module__": self.__name__, "__init__": lambda self, *values: None})
        setattr(self, name, made)
        return made
