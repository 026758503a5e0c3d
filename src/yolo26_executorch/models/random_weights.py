"""Published architectures with seeded random weights, whose outputs are as uneven as a trained model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import preprocess
from .loading import Network
from .open_vocabulary import closed, made_up
from .tasks import Task, TensorSpec
from .variants import Variant

if TYPE_CHECKING:
    import torch


_FIXED_LIST = 4585
"""Classes of the published prompt-free checkpoints, whose names only they know."""


def random_network(variant: Variant, seed: int, words: Sequence[str] = ()) -> Network:
    """Return a variant's architecture with weights of a seed, and the classes of the published one or the words given.

    Raises:
        CheckpointError: it takes no words, or has no classes without.
    """
    import torch
    from ultralytics.nn import tasks as ultralytics_tasks

    if variant.weights.vocabulary == "fixed" and not words:
        words = [f"class {index}" for index in range(_FIXED_LIST)]
    names = _names_of(variant)
    config = ultralytics_tasks.yaml_model_load(variant.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = getattr(ultralytics_tasks, variant.weights.model_class or variant.task.model_class)
        network = model_class(config, ch=3, nc=len(names) or None, verbose=False)
        network.names = names
        network = closed(variant.name, network.eval(), words, lambda words, encoder: made_up(words, seed))
        spread(network, variant.task, seed)
    shape = getattr(network.model[-1], "kpt_shape", None)
    keypoint_shape = (int(shape[0]), int(shape[1])) if shape is not None else None
    return Network(network.float().eval(), variant.task, network.names, keypoint_shape)


def _names_of(variant: Variant) -> dict[int, str]:
    """Return the classes of a variant's data set by index; none where words are the classes."""
    from ultralytics.utils import ROOT, YAML

    if not variant.dataset:
        return {}
    dataset = YAML.load(ROOT / "cfg" / "datasets" / variant.dataset)
    return {int(index): str(name) for index, name in dataset["names"].items()}


def _take_power(norm: Any, inputs: tuple[torch.Tensor]) -> None:
    """Make a batch norm bring its input to a root mean square of 0.05, and subtract nothing.

    SiLU is nearly a straight line there. Farther out, a deep random network amplifies rounding errors until its outputs
    are noise; and with the mean subtracted, as in training, small differences remain that rounding errors dominate.
    """
    power = inputs[0].square().mean((0, 2, 3)).clamp(min=1e-12)
    norm.running_mean.zero_()
    norm.running_var.copy_(power)
    norm.weight.copy_(0.05 * ((power + norm.eps) / power).sqrt())


_LAST_LAYERS = {
    "cv2": (3.0, 2.5), "cv3": (-4.0, 5.0), "cv4": (0.0, 3.0), "cv4_kpts": (0.0, 3.0), "linear": (0.0, 6.0),
    "classifier": (0.0, 6.0), "head": (1.0, 1.5),
}  # fmt: skip
"""The mean, and the farthest from it, that random weights give the outputs of the heads' last layers: distances in
strides, class logits, mask coefficients or angles, keypoints in strides, logits, logarithms of depths in meters."""


def spread(network: Any, task: Task, seed: int) -> None:
    """Give random weights activations, boxes and scores that differ from place to place, as a trained model's do.

    A freshly built YOLO26 gives one score (about 1e-5) everywhere, so that any error in it compares equal. Here the
    batch norms keep the activations small but alive, and the heads' last layers are rescaled to reach as far as
    `_LAST_LAYERS` says, both measured on images and seeded noise.
    """
    import torch
    from torch import nn

    side = min(640, *task.native)  # what the test after an export runs
    spec = TensorSpec("images", (1, 3, side, side), "float32", "")
    drawn = [preprocess.fit(preprocess.read(path), (side, side), task) for path in preprocess.sample_images()]
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
        mapped = set(network.model[-1].classifier) if hasattr(network.model[-1], "classifier") else set()
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
            # Otherwise one class would fill nearly all of a map.
            center = out.mean((0, 2, 3)) if module in mapped else out.mean().expand(out.shape[1])
            scale = reach / float((out - center.view(1, -1, *[1] * (out.dim() - 2))).abs().max())
            module.weight.mul_(scale)
            module.bias.add_(-center).mul_(scale).add_(mean)
