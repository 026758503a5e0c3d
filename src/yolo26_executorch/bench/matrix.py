"""Which rows a benchmark has, and which of them cannot run here as far as that can be told beforehand."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifacts.manifest import Manifest
from ..artifacts.reading import verify
from ..errors import UsageError
from .records import ARTIFACT, MODES, TENSORRTS, Row, module_of

GPU_MODES = ("graph", "launched")
_PEER_MODES = ("graph", "host")
"""What peers are measured in unless rows are asked for by name."""

_PACKAGES = {name: (name, "onnx", "onnxscript") for name in ("onnxruntime", *TENSORRTS)}
"""What a peer needs beside PyTorch."""


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    against: tuple[str, ...] = ()
    """Of `PEERS`."""
    modes: tuple[str, ...] | None = None
    """Of `MODES`, for the artifact and its peers; None: all for the artifact, graph and host for its peers."""
    runs: int = 200
    """Timed calls of a row, at least, over all rounds."""
    rounds: int = 3
    warm_s: float = 0.5
    """Calls before each round, seconds."""
    round_s: float = 0.2
    """Timed calls of each round, seconds, at least."""
    runner: str = "auto"
    compile_mode: str = "default"
    image: Path | None = None
    """The picture of the file row; None is a photograph that Ultralytics ships."""
    checkpoint: Path | None = None
    weights_dir: Path | None = None
    trusted: bool = False
    jobs: int = 1
    """Processes that are opened at a time; above 1 they disturb each other's times and memory, which are left out."""
    limit_s: float = 900.0
    """How long a worker may take to get ready, and for each round."""


def read_manifests(folders: Sequence[Path]) -> dict[Path, Manifest]:
    """Check the artifacts' files and return their manifests; raises UsageError or ArtifactError."""
    if not folders:
        raise UsageError("no artifact was named; name a folder such as yolo26_cuda_exports/yolo26n")
    found: dict[Path, Manifest] = {}
    for folder in folders:
        if folder.absolute() in {known.absolute() for known in found}:
            raise UsageError(f"{folder} is named twice; name each artifact once")
        found[folder] = verify(folder)
    return found


def find_image(settings: Settings) -> str:
    """Return the picture of the file row; raises UsageError."""
    if settings.image is None:
        from ..models.preprocess import sample_images

        return str(sample_images()[0])
    if not settings.image.is_file():
        raise UsageError(f"--image {settings.image}: no such file; name a picture")
    return str(settings.image)


def plan(manifests: Mapping[Path, Manifest], settings: Settings, *, gpu: bool) -> list[Row]:
    """Return the rows, those beside each other that are compared; what cannot run here is "skipped" already.

    Args:
        manifests: the artifacts', by folder.
        settings: how to measure.
        gpu: whether there is a usable GPU.
    """
    return [
        _with_obstacle(_row(folder, manifest, subject, mode), gpu=gpu)
        for subject, mode, folder, manifest in _combinations(manifests, settings)
    ]


def _combinations(manifests: Mapping[Path, Manifest], settings: Settings) -> Iterator[tuple[str, str, Path, Manifest]]:
    for mode in settings.modes or tuple(MODES):
        for folder, manifest in manifests.items():
            yield ARTIFACT, mode, folder, manifest
            if settings.modes is not None or mode in _PEER_MODES:
                for peer in settings.against:
                    yield peer, mode, folder, manifest


def _row(folder: Path, manifest: Manifest, subject: str, mode: str) -> Row:
    options = manifest.options
    return Row(
        artifact=str(folder), name=manifest.name, variant=manifest.variant, task=manifest.task,
        backend=manifest.backend, precision=manifest.precision,
        imgsz=options.size, batch=options.batch, input=options.input,
        subject=subject, mode=mode, outcome="measured", message=None,
        runner=None, device=None, clock=None, settings={}, graph_equals_call=None,
        load=None, memory=None, latency=None, achieved=None, rounds=(),
    )  # fmt: skip


def _with_obstacle(row: Row, *, gpu: bool) -> Row:
    """Skip a row that cannot run here, as far as that can be told before anything is started."""
    reason = None
    missing = [name for name in _PACKAGES.get(row.subject, ()) if importlib.util.find_spec(module_of(name)) is None]
    if row.backend != "cuda" and row.mode in GPU_MODES:
        reason = f"an artifact for {row.backend} runs on the CPU: it has no {row.mode} row"
    elif row.backend == "cuda" and not gpu:
        reason = "no NVIDIA GPU is usable here; `yolo26-et doctor` says why"
    elif row.subject in TENSORRTS and row.backend != "cuda":
        reason = "TensorRT runs on NVIDIA's GPUs only"
    elif missing:
        wanted = ["onnxruntime-gpu" if (name, row.backend) == ("onnxruntime", "cuda") else name for name in missing]
        reason = f"not installed: {', '.join(missing)}; pip install {' '.join(wanted)}"
    return row if reason is None else replace(row, outcome="skipped", message=reason)
