"""The table of GPUs that need not be here."""

from __future__ import annotations

import pytest

from yolo26_executorch.artifacts.manifest import Platform
from yolo26_executorch.errors import OptionError
from yolo26_executorch.lowering.cuda import architectures
from yolo26_executorch.lowering.gpus import ALL, GPUS, compiled, named
from yolo26_executorch.lowering.tuning.cost_model import Problem, feasible_tiles


def test_all_are_those_with_matrix_units_for_triton() -> None:
    assert ALL == ("8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")
    assert [gpu.capability for gpu in named(["all"], "bf16")] == [
        capability for capability in GPUS if capability[0] > 7
    ]


def test_each_is_taken_once_and_in_order() -> None:
    gpus = named(["9.0", "8.6", "9.0"], "tf32")
    assert [gpu.capability for gpu in gpus] == [(8, 6), (9, 0)]
    assert not any(gpu.is_here for gpu in gpus)


@pytest.mark.parametrize(
    ("words", "precision", "said"),
    [
        (["8.6", "sm_86"], "tf32", "--arch sm_86: expected one of 7.0, 7.5, 8.0"),
        ([], "tf32", "--arch: expected one or more of"),
        (["7.5"], "bf16", "--arch 7.5: there is no bf16 before compute capability 8.0; try --precision fp16"),
        (["7.5", "8.6"], "tf32", "try --precision fp32, or two exports, --arch 7.5 and --arch 8.6"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], precision: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        named(words, precision)
    assert said in str(caught.value)


def test_old_gpus_compute_tf32_as_fp32() -> None:
    (gpu,) = named(["7.5"], "tf32")
    assert gpu.precision("tf32") == "fp32"
    assert named(["7.5", "8.6"], "fp16")[0].precision("fp16") == "fp16"


@pytest.mark.parametrize("capability", GPUS)
def test_each_has_tiles_to_choose_from(capability: tuple[int, int]) -> None:
    problem = Problem((400,), 128, (64,), 3, 1, 2, ieee=False)
    assert sum(1 for _ in feasible_tiles(problem, GPUS[capability])) > 10


@pytest.mark.parametrize(
    ("words", "own"),
    [
        ("8.6 8.9", "8.6"),
        ("8.9", "8.9"),
        ("8.0 8.6 8.7 8.9", "8.0 8.6 8.7"),  # other shared memory; a Jetson
        ("9.0 10.0 10.3 11.0 12.0 12.1", "9.0 10.0 10.3 11.0 12.0 12.1"),  # machine code for one capability
    ],
)
def test_what_runs_anothers_machine_code_is_not_compiled_for(words: str, own: str) -> None:
    gpus = compiled(named(words.split(), "fp16"))
    assert [gpu.capability for gpu in gpus] == [gpu.capability for gpu in named(own.split(), "fp16")]
    inside = Platform("Linux", "x86_64", *architectures([gpu.capability for gpu in gpus]))
    assert all(inside.runs_on(gpu.capability) for gpu in named(words.split(), "fp16"))
