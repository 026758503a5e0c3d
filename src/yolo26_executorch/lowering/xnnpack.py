"""Lowering to XNNPACK: CPUs, embedded ones above all; works from PyPI's wheels alone.

XNNPACK takes the convolutions and most of the rest; ranking and gathering run in ExecuTorch's portable kernels, which
every ExecuTorch runtime has.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import LoweringError
from ..models.export_model import ExportModel
from ..models.options import ExportOptions
from ..models.tasks import WITHOUT
from .program import Lowered, count_operators

DELEGATE = "XnnpackBackend"


def lower(model: ExportModel, options: ExportOptions, stage: Callable[[str], None]) -> Lowered:
    """Lower a model for XNNPACK.

    Args:
        model: the eager model, float32.
        options: unused but for the common signature; XNNPACK models compute in float32.
        stage: called with "export", "lower" and "write" when each begins.

    Raises:
        LoweringError: the partitioner or a pass failed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch.ao.quantization.fx._decomposed  # registers the operator that quantizes
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        stage("export")
        model.assemble = masks
        try:
            with torch.no_grad():
                programs = {
                    name: torch.export.export(module, (model.example_input,))
                    for name, module in _methods(model).items()
                }
                stage("lower")
                # The portable kernel that casts between dtypes takes nine times as long where it knows dim orders.
                config = EdgeCompileConfig(_skip_dim_order=True)
                edge = to_edge_transform_and_lower(programs, partitioner=[XnnpackPartitioner()], compile_config=config)
                delegated = count_operators(edge.exported_program())
                stage("write")
                return Lowered(edge.to_executorch(), DELEGATE, delegated)
        except Exception as error:
            raise LoweringError(f"XNNPACK: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


class _Without(nn.Module):
    """A model without one of its outputs, and so without what only that one needs."""

    def __init__(self, model: nn.Module, index: int) -> None:
        super().__init__()
        self.model, self.index = model, index

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(images)
        return (*outputs[: self.index], *outputs[self.index + 1 :])


def _methods(model: ExportModel) -> dict[str, nn.Module]:
    """Return the program's methods by name. They share their weights.

    Masks of all rows take a sixth of a segment model's time; who makes masks of other resolutions, of coefficients and
    prototypes, needs none of them. Likewise classes of pixels, for which every class' logits are enlarged.
    """
    methods: dict[str, nn.Module] = {"forward": model}
    names = [spec.name for spec in model.output_specs]
    for row in model.task.named:
        if row.name in names and row.made_from and {*row.made_from} <= {*names}:
            methods[f"{WITHOUT}{row.name}"] = _Without(model, names.index(row.name))
    return methods


def masks(coefficients: Tensor, protos: Tensor, boxes: Tensor) -> Tensor:
    """Assemble masks as `export_model.aten_masks` does, by arithmetic that XNNPACK computes.

    Comparisons and logic are left to the portable kernels, of one thread and ten times as slow in all. Here only a cast
    from int8 is: XNNPACK multiplies, clamps and rounds, and all of it is exact. Arguments and result are those of
    `aten_masks`; logits nearer to 0 than 1e-38 are outside.
    """
    batch, channels, height, width = protos.shape
    logits = torch.bmm(coefficients, protos.view(batch, channels, height * width)).view(batch, -1, height, width)
    left, top, right, bottom = torch.split((boxes / 4)[..., None], 1, dim=2)
    columns = torch.arange(width, dtype=torch.float32).view(1, 1, 1, width)
    rows = torch.arange(height, dtype=torch.float32).view(1, 1, height, 1)
    across = _not_negative(columns - left) * _positive(right - columns)
    down = _not_negative(rows - top) * _positive(bottom - rows)
    # Clamping is part of the multiplication before it: two passes over the masks.
    inside = torch.clamp(logits * (across * _HUGE), 0, 1) * down
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return quantize(inside, 1.0, 0, -128, 127, torch.int8).to(torch.uint8)  # type: ignore[no-any-return]


_HUGE = 3e38
"""What makes 1 or more of every positive logit."""


def _positive(values: Tensor) -> Tensor:
    """Return 1 where a value is above 0, else 0, float32."""
    return torch.ceil(torch.clamp(values, 0, 1))


def _not_negative(values: Tensor) -> Tensor:
    """Return 1 where a value is 0 or above, else 0, float32."""
    return torch.clamp(torch.floor(values) + 1, 0, 1)
