"""Export Ultralytics YOLO26 models to ExecuTorch's CUDA and XNNPACK backends, and run what was exported.

`__all__` lists the public names. All but the errors are imported on first use, so that importing the package costs
next to nothing and loads neither PyTorch nor ExecuTorch nor Ultralytics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .errors import (
    ArtifactError,
    BackendError,
    BusyError,
    CheckpointError,
    CompatibilityError,
    DownloadError,
    ExportError,
    GpuMemoryError,
    InputError,
    IntegrityError,
    LimitError,
    LoweringError,
    OptionError,
    ParityError,
    UnknownVariantError,
    UsageError,
    Yolo26Error,
)

if TYPE_CHECKING:
    from .artifacts.manifest import Manifest
    from .artifacts.reading import Artifact, load_manifest, verify
    from .exporter.api import export
    from .models.options import ExportOptions
    from .models.tasks import TASKS, Task, TensorSpec
    from .models.variants import VARIANTS, Variant, find_variants
    from .runtime import Runner, open_runner
    from .vision.api import YOLO26

__all__ = [
    "TASKS",
    "VARIANTS",
    "YOLO26",
    "Artifact",
    "ArtifactError",
    "BackendError",
    "BusyError",
    "CheckpointError",
    "CompatibilityError",
    "DownloadError",
    "ExportError",
    "ExportOptions",
    "GpuMemoryError",
    "InputError",
    "IntegrityError",
    "LimitError",
    "LoweringError",
    "Manifest",
    "OptionError",
    "ParityError",
    "Runner",
    "Task",
    "TensorSpec",
    "UnknownVariantError",
    "UsageError",
    "Variant",
    "Yolo26Error",
    "export",
    "find_variants",
    "load_manifest",
    "open_runner",
    "verify",
]

_HOMES = {
    "models.options": ("ExportOptions",),
    "models.tasks": ("TASKS", "Task", "TensorSpec"),
    "models.variants": ("VARIANTS", "Variant", "find_variants"),
    "artifacts.manifest": ("Manifest",),
    "artifacts.reading": ("Artifact", "load_manifest", "verify"),
    "exporter.api": ("export",),
    "runtime": ("Runner", "open_runner"),
    "vision.api": ("YOLO26",),
}
"""The modules of the names that are imported on first use, as PEP 562 allows."""


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
