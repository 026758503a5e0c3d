"""Read a checkpoint file by Ultralytics' safe loader, and refuse in one line what cannot be exported rightly.

Knows `torch_safe_load` of `ultralytics/nn/tasks.py` (8.4) and the attributes of a trained network.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, printable
from .open_vocabulary import Encode, closed, no_encoder
from .options import STRIDE
from .tasks import TASKS, Task

if TYPE_CHECKING:
    from torch import nn

_RGB = 3


@dataclass(frozen=True)
class Network:
    """A YOLO26, not fused by us, in eval mode and float32, with what its outputs depend on."""

    network: nn.Module
    task: Task
    names: dict[int, str]
    """By index, 0 to classes - 1 in order."""
    keypoint_shape: tuple[int, int] | None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def stride(self) -> int:
        """The side in pixels of which the input's sides must be multiples: the head's largest stride, at least 32."""
        return max([STRIDE, *(int(stride) for stride in getattr(self.network, "stride", ()))])


def load_network(
    path: Path, *, published: bool, trusted: bool, words: Sequence[str] = (), encode: Encode = no_encoder
) -> Network:
    """Return a checkpoint file's network.

    Args:
        path: the file; see `checkpoints.check_archive`.
        published: whether it is one of the published variants, of which no proof of being a YOLO26 is asked.
        trusted: see `checkpoints.load`.
        words: the classes of an open-vocabulary network.
        encode: see `open_vocabulary.closed`.

    Raises:
        CheckpointError: the safe loader refuses the file, or it holds no YOLO26 that can be exported rightly.
    """
    network = _stored_network(path, trusted)
    if _has_layers(network):
        network = closed(str(path), network.float().eval(), words, encode)
    task = _task_of(path, network, published)
    head = network.model[-1]
    channels = _input_channels(network)
    if channels != _RGB:
        raise CheckpointError(
            f"{path} takes images of {channels} {'channel' if channels == 1 else 'channels'}; only models of "
            f"{_RGB} channels, RGB, can be exported; fix: train with `channels: 3` in the data set's file"
        )
    names = _names_of(path, getattr(network, "names", None), _class_count(path, task, head))
    return Network(network, task, names, _keypoint_shape(path, head))


def silence_ultralytics() -> None:
    """Keep Ultralytics' banners off the terminal; what matters comes back as exceptions."""
    import logging

    from ultralytics.utils import LOGGER

    LOGGER.setLevel(logging.ERROR)


def message_of(error: BaseException) -> str:
    """Return the first line of what Ultralytics says, without its decoration."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].replace("ERROR ❌️ ", "")


def _stored_network(path: Path, trusted: bool) -> Any:
    """Return what a file holds as its network: the moving average where it has one, as Ultralytics does."""
    from ultralytics.nn import tasks as ultralytics_tasks

    try:
        with _torchvision_stand_ins():
            content, _ = ultralytics_tasks.torch_safe_load(str(path), safe_only=not trusted)
    except Exception as error:
        if "outside the supported" in str(error):
            raise CheckpointError(
                f"{path} was refused by Ultralytics' safe loader: it holds more than weights and known classes, so "
                "that loading it can run code; if you trust who made it, add --trust-checkpoint"
            ) from error
        raise CheckpointError(f"{path} cannot be loaded: {message_of(error)}") from error
    average = content.get("ema")
    network = content.get("model") if average is None else average
    if _is_state_dict(content if network is None else network):
        raise CheckpointError(
            f"{path} holds weights alone (a state_dict) and no network; save the whole model, as Ultralytics' "
            "training and `YOLO.save` do"
        )
    return network


def _is_state_dict(content: object) -> bool:
    from torch import Tensor

    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(value, Tensor) and "." in str(key) for key, value in content.items())


def _task_of(path: Path, network: Any, published: bool) -> Task:
    """Return the task, which the head's class tells.

    Raises:
        CheckpointError: it is no YOLO26, or one without what is exported of it.
    """
    layered = _has_layers(network)
    head: Any = network.model[-1] if layered else None
    task = next((task for task in TASKS.values() if task.head == type(head).__name__), None)
    named_yolo26 = layered and "yolo26" in Path(_config_name(network)).stem
    has_one_to_one = getattr(head, "one2one_cv2", None) is not None
    # Some heads are older YOLOs', too. Only YOLO26 has a second, end-to-end branch in Detect; YOLO11 classifies with
    # the very same layers, so that nothing but the architecture's name tells the two apart.
    ours = task is not None and (not task.shared_head or named_yolo26 or published or (task.ranked and has_one_to_one))
    if task is None or not ours:
        raise CheckpointError(
            f"{path} holds {_describe(network)}, not a YOLO26 model of {', '.join(TASKS)}; only those can be exported"
        )
    if task.ranked and not has_one_to_one:
        raise CheckpointError(
            f"{path} holds {_describe(network)} without the end-to-end (one-to-one) head, which is the one that is "
            "exported; fix: train with end2end left on, as yolo26's own files have it, and save it before `fuse`"
        )
    if hasattr(head, "proto") and int(min(head.stride)) != 8:
        raise CheckpointError(
            f"{path} holds {_describe(network)} whose finest stride is {int(min(head.stride))} pixels; masks can be "
            "exported of models whose finest is 8, as yolo26's own files have it"
        )
    return task


def _names_of(path: Path, names: Any, classes: int | None) -> dict[int, str]:
    """Return class names by index, whatever form they are stored in, checked against the head's classes.

    Ultralytics writes a dictionary by int; people resave them as lists, and JSON makes keys text.

    Raises:
        CheckpointError: there are more or fewer than the head's classes, or they are numbered otherwise.
    """
    if isinstance(names, list | tuple):
        pairs: list[tuple[Any, Any]] = list(enumerate(names))
    elif isinstance(names, Mapping):
        pairs = list(names.items())
    else:
        pairs = []
    classes = len(pairs) or 1 if classes is None else classes
    numbers = f"numbered 0 to {classes - 1}" if classes > 1 else "numbered 0"
    wanted = (
        f"expected {classes} {'names' if classes > 1 else 'name'}, {numbers}, one for each class of its head; "
        "fix: set the model's `names` and save it again"
    )
    if not pairs:
        given = "no class names" if not names else f"a {type(names).__name__} for class names"
        raise CheckpointError(f"{path} has {given}; {wanted}")
    for _, name in pairs:
        if not isinstance(name, str | int | float):
            raise CheckpointError(f"{path} has the class name {printable(repr(name)[:60])}, which is no text; {wanted}")
    indices = [_index(key) for key, _ in pairs]
    if sorted(index for index in indices if index is not None) != list(range(classes)) or None in indices:
        keys = [key for key, _ in pairs]
        first, last = (printable(repr(key)[:40]) for key in (keys[0], keys[-1]))
        numbered = f"numbered {first} to {last}" if len(keys) > 1 else f"numbered {first}"
        raise CheckpointError(
            f"{path} has {len(keys)} class {'names' if len(keys) > 1 else 'name'}, {numbered}; {wanted}"
        )
    # Numbers, yes and no are what YAML makes of names without quotes; Ultralytics writes them out so.
    return dict(
        sorted((index, str(name)) for index, (_, name) in zip(indices, pairs, strict=True) if index is not None)
    )


def _index(key: Any) -> int | None:
    """Return a class name's key as an index: an int, text of one, or a float without a fraction."""
    if isinstance(key, bool):
        return None
    if isinstance(key, str):
        return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else None
    if isinstance(key, int | float) and key == int(key):
        return int(key)
    return None


def _class_count(path: Path, task: Task, head: Any) -> int | None:
    """Return the classes that a head was trained for, from its last layer; None where classes have no outputs.

    Raises:
        CheckpointError: it has none, or another number than it says itself.
    """
    if task.class_layer is None:
        return None
    classes = int(head.get_submodule(task.class_layer).weight.shape[0])
    said = int(getattr(head, "nc", classes))
    if classes < 1 or said != classes:
        raise CheckpointError(f"{path} has a head of {classes} classes that says {said}; fix: train it again")
    return classes


def _keypoint_shape(path: Path, head: Any) -> tuple[int, int] | None:
    """Return (keypoints, values) of a head that has keypoints.

    Raises:
        CheckpointError: they do not fit its last layers, or a keypoint is not x, y and perhaps visibility.
    """
    shape = getattr(head, "kpt_shape", None)
    if shape is None:
        return None
    values = int(head.one2one_cv4_kpts[0].out_channels)
    if len(shape) != 2 or int(shape[0]) < 1 or int(shape[1]) not in (2, 3) or int(shape[0]) * int(shape[1]) != values:
        raise CheckpointError(
            f"{path} has the keypoint shape {printable(str(tuple(shape)))} and a head of {values} keypoint values; "
            "expected (keypoints, 2 or 3) that multiply to as many: set the head's `kpt_shape` and save it again"
        )
    return int(shape[0]), int(shape[1])


def _input_channels(network: Any) -> int:
    from torch import nn

    return next((int(layer.in_channels) for layer in network.modules() if isinstance(layer, nn.Conv2d)), 0)


def _has_layers(network: object) -> bool:
    from torch import nn

    layers = getattr(network, "model", None)
    return isinstance(network, nn.Module) and isinstance(layers, nn.Sequential) and len(layers) > 0


def _config_name(network: Any) -> str:
    """Return the name of the architecture file that a network was made from; empty where it does not say."""
    config = getattr(network, "yaml", None)
    return str(config.get("yaml_file", "")) if isinstance(config, dict) else ""


def _describe(network: Any) -> str:
    if network is None:
        return "no model"
    if not _has_layers(network):
        return f"a {type(network).__name__}"
    name = Path(_config_name(network)).name
    return f"a {type(network).__name__} with a {type(network.model[-1]).__name__} head" + (f" ({name})" if name else "")


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
