from __future__ import annotations

import time

import pytest
import torch

from check_runners import in_threads
from support import random_model
from yolo26_executorch.errors import InputError
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.runtime.eager import EagerRunner


@pytest.mark.parametrize("task", TASKS)
def test_it_is_the_model(task: str) -> None:
    model = random_model(f"yolo26n{TASKS[task].suffix}")
    picture = random_input(model.input_spec, seed=1)
    with torch.no_grad():
        expected = model(picture)
        reference = model.reference(picture)
    with EagerRunner(model) as runner:
        assert (runner.name, runner.input, runner.outputs) == ("eager", model.input_spec, model.output_specs)
        given = runner(picture)
        dense = runner.reference(picture)
    assert list(given) == [spec.name for spec in model.output_specs]
    assert all(torch.equal(a, b) for a, b in zip(given.values(), expected, strict=True))
    if isinstance(dense, torch.Tensor):
        assert isinstance(reference, torch.Tensor) and torch.equal(dense, reference)
    else:
        assert not isinstance(reference, torch.Tensor)
        assert all(torch.equal(getattr(dense, name), getattr(reference, name)) for name in ("boxes", "scores", "extra"))
        assert (dense.protos is None) is (task != "segment")


def test_input_is_checked_and_made_right() -> None:
    model = random_model("yolo26n-cls")
    picture = random_input(model.input_spec, seed=1)
    runner = EagerRunner(model)
    expected = runner(picture)["probabilities"]
    strided = picture.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(runner(strided)["probabilities"], expected)
    for wrong in (picture[0], picture * 255, strided.permute(0, 2, 3, 1)):
        with pytest.raises(InputError):
            runner(wrong)
        with pytest.raises(InputError):
            runner.reference(wrong)


def test_nothing_of_it_needs_gradients() -> None:
    model = random_model("yolo26n-cls")
    (output,) = EagerRunner(model)(random_input(model.input_spec, seed=1)).values()
    assert not output.requires_grad


def test_only_the_outputs_asked_for_are_given() -> None:
    runner = EagerRunner(random_model("yolo26n-pose"))
    picture = random_input(runner.input, seed=1)
    every = runner(picture)
    for wanted, given in ((["keypoints"], ["keypoints"]), (["keypoints", "detections"], list(every)), ([], [])):
        some = runner(picture, outputs=wanted, on_device=True)
        assert list(some) == given
        assert all(torch.equal(some[name], every[name]) for name in given)
    with pytest.raises(InputError, match="expected outputs among detections, keypoints, given masks"):
        runner(picture, outputs=["detections", "masks"])


def test_threads_compute_with_the_precision_of_their_own_runner() -> None:
    """PyTorch's flags for float32 are the whole process'."""
    wrong: list[str] = []
    runners = []
    for precision in ("fp32", "tf32"):
        model = random_model("yolo26n-cls", precision=precision)

        def look(*_: object, precision: str = precision) -> None:
            for _turn in range(5):
                if torch.backends.cuda.matmul.allow_tf32 != (precision == "tf32"):
                    wrong.append(precision)
                time.sleep(0.001)

        model.register_forward_pre_hook(look)
        runners.append(EagerRunner(model))
    batches = [random_input(runners[0].input, seed) for seed in range(4)]
    expected = [runners[seed % 2](batch)["probabilities"] for seed, batch in enumerate(batches)]

    def call(seed: int) -> int:
        found = [runners[seed % 2](batches[seed])["probabilities"] for _ in range(5)]
        return sum(not torch.equal(one, expected[seed]) for one in found)

    assert in_threads([lambda seed=seed: call(seed) for seed in range(4)]) == 0  # type: ignore[misc]
    assert wrong == []
