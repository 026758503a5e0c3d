"""That large models' kernels wait before they touch anything, read in what Triton compiles without a GPU."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from support import SLOW
from yolo26_executorch.lowering import kernels
from yolo26_executorch.lowering.kernels.layout import unspecialized
from yolo26_executorch.lowering.kernels.pdl import pdl_enabled, prefetch_arguments, use_pdl

POINTERS = {
    "fp16": "x0 x1 x2 x3 images weight weight0 weight1 weight2 bias bias0 bias1 bias2 residual qkv taps "
    "next0 next1 next2",
    "fp32": "partial scores values coefficients protos boxes",
    "i32": "candidates counts",
    "i64": "indices",
}
TYPES = {name: f"*{kind}" for kind, names in POINTERS.items() for name in names.split()}
CONSTANTS = {
    "UNIT": 8, "OUT_UNIT": 8, "INPUTS": 2, "UPSAMPLED": 1, "SILU": True, "RESIDUAL": True, "TF32": False, "SPLIT_K": 1,
    "PRECISION": "tf32", "EVEN_K": True, "EVEN_N": True, "KERNEL": 3, "STRIDE": 1, "PADDING": 1, "UINT8": True,
    "CHANNELS": 3, "SCALE": 1.0, "KEY": 32, "HEAD": 64, "RADIUS": 2, "COUNT": 3, "GROUPS": 32, "STEP": 64,
    "BLOCK": 64, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "BLOCK_P": 16, "BLOCK_C": 64,
    "WARPS": 4, "STAGES": 3,
}  # fmt: skip
TOUCHES = re.compile(r"\b(ld\.global|st\.global|cp\.async\.c[ag]|atom\.|red\.)")


def own_kernels() -> Iterator[Any]:
    for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.endswith("_kernel") and value.fn.__module__ == module.name:
                # It takes as long to compile as all the others.
                yield pytest.param(value, id=name, marks=SLOW if name == "attention_kernel" else ())


KERNELS = list(own_kernels())


def ptx_of(kernel: Any, capability: int, *, wait: bool) -> list[str]:
    """The lines of a kernel's PTX."""
    out = "*u8" if kernel.__name__ == "masks_kernel" else "*fp16"
    types = {name: TYPES.get(name, out if re.fullmatch(r"out\d?", name) else "i32") for name in kernel.arg_names}
    constants = {name: value for name, value in CONSTANTS.items() if name in types} | {"PDL": wait}
    signature = {name: "constexpr" if name in constants else kind for name, kind in types.items()}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    return str(compiled.asm["ptx"]).splitlines()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_waits_before_it_touches_anything(kernel: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    lines = ptx_of(kernel, 90, wait=True)
    waits = [place for place, line in enumerate(lines) if "griddepcontrol.wait" in line]
    touches = [place for place, line in enumerate(lines) if TOUCHES.search(line)]
    ends = [place for place, line in enumerate(lines) if line.strip() == "ret;"]
    branches = [place for place, line in enumerate(lines) if re.match(r"\s*(@\S+ )?bra", line)]
    assert len(waits) == 1
    assert touches
    assert waits[0] < min([*touches, *ends])
    # Every program comes by: nothing that may jump over it lies before, but what chooses a group's batch.
    assert "group" in kernel.__name__ or waits[0] < min([*branches, len(lines)])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_elsewhere_it_does_not(kernel: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    text = "\n".join(ptx_of(kernel, 80, wait=False))
    assert "griddepcontrol" not in text
    assert "prefetch" not in text


def test_pdl_is_on_where_it_is_said_and_nowhere_else() -> None:
    assert not pdl_enabled()
    with use_pdl(True):
        assert pdl_enabled()
        with use_pdl(False):
            assert not pdl_enabled()
        assert pdl_enabled()
    with pytest.raises(KeyError), use_pdl(True):
        raise KeyError
    assert not pdl_enabled()


@pytest.mark.parametrize("grid", [(1,), (7, 12), (13, 3, 6)])
def test_shares_make_up_the_whole(grid: tuple[int, ...]) -> None:
    next_weights = [torch.zeros(768, 9 * 768, dtype=torch.float16), torch.zeros(3, 5)]
    arguments = prefetch_arguments(next_weights, grid)
    assert arguments[:2] == next_weights
    assert [arguments[place] for place in (2, 5, 8)] == [None] * 3
    programs = torch.tensor(grid).prod().item()
    for units, share, size in zip(arguments[3:5], arguments[6:8], (768 * 9 * 768 * 2, 60), strict=True):
        assert units == unspecialized(size // 16)[0]
        assert (share >> 1) * programs >= units >> 1
        assert ((share >> 1) - 1) * programs < units >> 1
