"""What a fused network launches of our own kernels, found and compiled without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from yolo26_executorch.lowering.kernels import attention, conv, depthwise, masks, pool, stem, topk

_MODULES = {
    attention: ["attention"],
    conv: ["conv2d", "conv2d_group"],
    depthwise: ["depthwise_conv2d", "depthwise_group"],
    masks: ["masks"],
    pool: ["max_pools"],
    stem: ["stem"],
    topk: ["topk"],
}
_OPERATORS: dict[Any, Callable[..., Any]] = {
    getattr(torch.ops.yolo26_et, name).default: getattr(module, name)._init_fn
    for module, names in _MODULES.items()
    for name in names
}
_TYPES = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int32: "*i32",
    torch.int64: "*i64",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """A kernel and the arguments that it is launched with, by name."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def tile(self) -> int:
        """The product of its blocks' sides: the more, the more shared memory."""
        return prod(value for name, value in self.arguments.items() if name.startswith("BLOCK"))

    def compile(self, capability: tuple[int, int]) -> Any:
        """Compile it for a GPU; what comes back has `asm` and `metadata`."""
        names = self.kernel.arg_names
        constant = {names[index] for index in self.kernel.constexprs}
        constant |= {name for name, value in self.arguments.items() if value is None}
        signature = {name: "constexpr" if name in constant else _type(self.arguments[name]) for name in names}
        constants = {(names.index(name),): self.arguments[name] for name in constant}
        aligned: dict[Any, Any] = {
            (names.index(name),): [["tt.divisibility", 16]]
            for name, kind in signature.items()
            if kind.startswith("*") and self.arguments[name].storage_offset() == 0
        }
        source = ASTSource(self.kernel, signature, constants, aligned)
        major, minor = capability
        return triton.compile(source, target=GPUTarget("cuda", 10 * major + minor, 32), options=self.options)


def _type(value: Any) -> str:
    return _TYPES[value.dtype] if isinstance(value, Tensor) else "i32"


def launches_of(network: fx.GraphModule, example: Tensor) -> list[Launch]:
    """Return the launches of our own kernels, in order; nothing is computed."""
    found: list[Launch] = []
    mode = FakeTensorMode()

    class Walk(fx.Interpreter):
        def get_attr(self, *arguments: Any) -> Any:
            value = super().get_attr(*arguments)
            return mode.from_tensor(value) if isinstance(value, Tensor) else value

        def call_function(self, target: Any, *arguments: Any) -> Any:
            return super().call_function(_OPERATORS.get(target, target), *arguments)

    with ExitStack() as stack:
        for module in _MODULES:
            stack.enter_context(mock.patch.object(module, "wrap_triton", partial(_Recorder, found=found)))
        stack.enter_context(mode)
        Walk(network).run(mode.from_tensor(example))
    return found


class _Recorder:
    """Stands in for a wrapped kernel: `_Recorder(kernel, found)[grid](…)` adds to what was found."""

    def __init__(self, kernel: Any, found: list[Launch]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self._launch

    def _launch(self, *values: Any, **more: Any) -> None:
        options = {name: more.pop(name) for name in ("num_warps", "num_stages") if name in more}
        arguments = dict(zip(self.kernel.arg_names, values, strict=False)) | more
        self.found.append(Launch(self.kernel, arguments, options))
