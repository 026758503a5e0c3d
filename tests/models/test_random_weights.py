from __future__ import annotations

import pytest
import torch

from support import random_model
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.checkpoints import Checkpoint, Source
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.models.variants import VARIANTS


def random(name: str, seed: int) -> Checkpoint:
    return checkpoints.load(Source(name, VARIANTS[name], None), weights_dir=None, random=True, seed=seed)


def test_random_weights_follow_their_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first = random("yolo26n-cls", 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    again, other = random("yolo26n-cls", 1), random("yolo26n-cls", 2)
    values = [checkpoint.network.state_dict() for checkpoint in (first, again, other)]
    assert all(torch.equal(values[0][key], values[1][key]) for key in values[0])
    assert not all(torch.equal(values[0][key], values[2][key]) for key in values[0])
    assert (first.origin, first.file, first.sha256, first.seed, other.seed) == ("random", None, None, 1, 2)


@pytest.mark.parametrize("task", TASKS)
def test_random_weights_are_as_uneven_as_trained_ones(task: str) -> None:
    """Equal scores everywhere would hide every error."""
    model = random_model(f"yolo26n{TASKS[task].suffix}")
    with torch.no_grad():
        first, *_ = (model(random_input(model.input_spec, seed)) for seed in (1, 2))
    confidence = first[0][0] if not model.task.ranked else first[0][0, :, -2]
    assert len(confidence.unique()) > 0.9 * len(confidence)
    assert float(confidence.max()) > 2 * float(confidence.median())


@pytest.mark.parametrize(("task", "classes"), [("detect", 80), ("obb", 15), ("classify", 1000), ("pose", 1)])
def test_random_weights_have_the_published_classes(task: str, classes: int) -> None:
    checkpoint = random(f"yolo26n{TASKS[task].suffix}", 0)
    assert (checkpoint.task.name, checkpoint.classes) == (task, classes)
    assert checkpoint.names[0] == {"detect": "person", "obb": "plane", "classify": "tench", "pose": "person"}[task]
    assert checkpoint.keypoint_shape == ((17, 3) if task == "pose" else None)
