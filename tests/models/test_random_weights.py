from __future__ import annotations

import pytest
import torch

from support import random_model
from yolo26_executorch.models import checkpoints
from yolo26_executorch.models.checkpoints import Checkpoint, Source
from yolo26_executorch.models.export_model import Dense
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.models.variants import ALL_VARIANTS


def random(name: str, seed: int) -> Checkpoint:
    return checkpoints.load(Source(name, ALL_VARIANTS[name], None), weights_dir=None, random=True, seed=seed)


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
        first = model.reference(random_input(model.input_spec, 1))
    values = first.scores[0].amax(1).topk(300).values if isinstance(first, Dense) else first[0].flatten()
    assert len(values.unique()) > 0.9 * min(len(values), 2000)
    assert float(values.max() - values.min()) > 0.5 * float(values.abs().median())


@pytest.mark.parametrize(
    ("task", "classes"), [("detect", 80), ("obb", 15), ("classify", 1000), ("pose", 1), ("semantic", 19)]
)
def test_random_weights_have_the_published_classes(task: str, classes: int) -> None:
    checkpoint = random(f"yolo26n{TASKS[task].suffix}", 0)
    assert (checkpoint.task.name, checkpoint.classes) == (task, classes)
    assert (
        checkpoint.names[0]
        == {"detect": "person", "obb": "plane", "classify": "tench", "pose": "person", "semantic": "road"}[task]
    )
    assert checkpoint.keypoint_shape == ((17, 3) if task == "pose" else None)
