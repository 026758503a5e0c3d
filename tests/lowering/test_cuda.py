"""What of the CUDA lowering can be seen without a GPU; the rest is in `tests/gpu`."""

from __future__ import annotations

import pytest
from torch import nn

from yolo26_executorch.artifacts.manifest import Platform
from yolo26_executorch.lowering import cuda
from yolo26_executorch.lowering.target import Target


@pytest.mark.parametrize(
    ("capability", "toolkit", "binaries", "ptx"),
    [
        ((7, 5), True, ("7.5",), ("7.5",)),
        ((8, 6), True, ("8.6",), ("8.6",)),
        ((8, 6), False, ("8.6",), ()),
        ((9, 0), True, ("9.0a",), ()),
        ((10, 3), True, ("10.3a",), ()),
        ((12, 0), False, ("12.0a",), ()),
    ],
)
def test_architectures(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    toolkit: bool,
    binaries: tuple[str, ...],
    ptx: tuple[str, ...],
) -> None:
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", "/usr/local/cuda" if toolkit else None)
    monkeypatch.setattr(cuda, "toolkit_folder", lambda: None)
    assert cuda.architectures([capability]) == (binaries, ptx)
    platform = Platform("Linux", "x86_64", *cuda.architectures([capability]))
    assert platform.runs_on(capability)
    newer = (capability[0], capability[1] + 1)
    assert platform.runs_on(newer) is (capability < (9, 0))
    assert platform.runs_on((13, 0)) is bool(ptx)


def test_failures_are_one_line_that_says_what_to_do() -> None:
    missing = cuda._explain(RuntimeError("long\n" * 50 + "missing fallback kernels: {aoti_torch_cuda_topk}"))
    assert str(missing) == (
        "operators without a kernel in the CUDA delegate: missing fallback kernels: {aoti_torch_cuda_topk}"
    )
    assert not missing.transient
    memory = cuda._explain(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert "--jobs 1" in str(memory)
    assert memory.transient
    assert str(cuda._explain(ValueError("no\nluck"))) == "ValueError: no luck"


@pytest.mark.parametrize(
    ("said", "transient"),
    [
        ("wrapper.cpp:7:1: error: 'size' was not declared in this scope", False),
        ("g++: fatal error: Killed signal terminated program cc1plus", True),
        ("wrapper.cpp:9:2: internal compiler error: Segmentation fault", True),
        ("", True),
    ],
)
def test_what_the_compiler_says_is_told_and_all_of_it_logged(
    capfd: pytest.CaptureFixture[str], said: str, transient: bool
) -> None:
    text = f"C++ compile error\n\nCommand:\ng++ {'-I/include ' * 100}\n\nOutput:\n{said}"
    failed = cuda._explain(RuntimeError(text))
    assert str(failed) == f"the C++ compiler failed: {said or 'it ended without a word'}"
    assert failed.transient is transient
    assert text in capfd.readouterr().err


@pytest.mark.parametrize(
    ("capability", "megabytes", "large"),
    [((9, 0), 24, False), ((9, 0), 26, True), ((12, 0), 26, False), ((8, 9), 26, False)],
)
def test_models_whose_weights_do_not_stay_in_the_cache_are_large(
    capability: tuple[int, int], megabytes: int, large: bool
) -> None:
    gpu = Target(capability=capability)
    assert cuda._weights_exceed_l2(nn.Linear(1024, megabytes * 256, bias=False), gpu) is large
