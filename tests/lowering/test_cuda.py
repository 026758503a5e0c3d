"""What of the CUDA lowering can be seen without a GPU; the rest is in `tests/gpu`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from yolo26_executorch.lowering import cuda
from yolo26_executorch.manifest import Platform


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
    assert cuda.architectures(capability) == (binaries, ptx)
    platform = Platform("Linux", "x86_64", *cuda.architectures(capability))
    assert platform.runs_on(capability)
    newer = (capability[0], capability[1] + 1)
    assert platform.runs_on(newer) is (capability < (9, 0))
    assert platform.runs_on((13, 0)) is bool(ptx)


def test_failures_are_one_line_that_says_what_to_do() -> None:
    missing = cuda._in_words(RuntimeError("long\n" * 50 + "missing fallback kernels: {aoti_torch_cuda_topk}"))
    assert str(missing) == (
        "operators without a kernel in the CUDA delegate: missing fallback kernels: {aoti_torch_cuda_topk}"
    )
    assert not missing.transient
    memory = cuda._in_words(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert "--jobs 1" in str(memory)
    assert memory.transient
    assert str(cuda._in_words(ValueError("no\nluck"))) == "ValueError: no luck"


def test_a_replaced_attribute_comes_back_even_after_an_error() -> None:
    class Base:
        word = "base"

    class Owner(Base):
        pass

    with pytest.raises(KeyError), cuda._replaced(Owner, "word", "new"):
        assert Owner.word == "new"
        raise KeyError
    assert Owner.word == "base"
    assert "word" not in vars(Owner)
    with cuda._replaced(Base, "word", "new"):
        assert Owner.word == "new"
    assert Base.word == "base"


def test_what_calls_the_kernels_is_compiled_for_any_cpu() -> None:
    from torch._inductor import cpp_builder

    def architecture() -> list[str]:
        flags, _ = cpp_builder._get_optimization_cflags("g++", True)
        return [flag for flag in flags if flag.startswith(("march", "mcpu"))]

    before = architecture()
    with cuda._for_any_cpu():
        assert architecture() == []
    assert architecture() == before != []


def test_a_kernel_is_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._higher_order_ops import triton_kernel_wrap as wrap

    name = next(n for n in ("identify_accessed_tensors", "identify_mutated_tensors") if hasattr(wrap, n))
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(wrap, name, lambda kernel, kwargs, *more: asked.append(kwargs) or ["out"])

    class Kernel:
        def __init__(self, *names: str) -> None:
            self.arg_names, self.constexprs = names, [names.index("BLOCK")]

    function = Kernel("x", "n", "BLOCK")
    launches = SimpleNamespace(fn=function)
    with cuda._analysed_once():
        identify = getattr(wrap, name)
        for kernel, kwargs in (
            (function, {"x": object(), "n": 9, "BLOCK": 64}),
            (launches, {"x": object(), "n": 7, "BLOCK": 64}),
            (function, {"x": object(), "n": 1, "BLOCK": 64}),
            (function, {"x": None, "n": 9, "BLOCK": 64}),
            (function, {"x": object(), "n": 9, "BLOCK": 32}),
            (Kernel("BLOCK"), {"BLOCK": 64}),
            (function, {"x": None, "n": 5, "BLOCK": 64}),
        ):
            assert identify(kernel, kwargs, {}) == ["out"]
    # Not again for other sizes, but for size 1, for nothing, and for another constant or kernel.
    assert [kwargs.get("n") for kwargs in asked] == [9, 1, 9, 9, None]
