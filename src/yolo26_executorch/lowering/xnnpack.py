"""Lowering to XNNPACK: CPUs, embedded ones above all; works from PyPI's wheels alone.

XNNPACK takes the convolutions and most of the rest; ranking and gathering run in ExecuTorch's portable kernels, which
every ExecuTorch runtime has.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from ..errors import LoweringError
from ..models.export_model import ExportModel
from ..models.options import ExportOptions
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
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        stage("export")
        try:
            with torch.no_grad():
                program = torch.export.export(model, (model.example_input,))
                stage("lower")
                edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
                delegated = count_operators(edge.exported_program())
                stage("write")
                return Lowered(edge.to_executorch(), DELEGATE, delegated)
        except Exception as error:
            raise LoweringError(f"XNNPACK: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
