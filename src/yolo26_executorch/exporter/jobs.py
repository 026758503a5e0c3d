"""What an export's process is asked to do, and what it reports back: plain data, sent as JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from ..artifacts.manifest import computed_precision
from ..models.checkpoints import Source
from ..models.options import ExportOptions
from ..system.plain import from_plain, to_plain

if TYPE_CHECKING:
    from ..artifacts.manifest import Manifest

STAGES = ("load", "export", "tune", "lower", "compile", "write", "test")
"""What a worker goes through, in this order; a backend that has nothing to do in one leaves it out."""

OUTCOMES = ("exported", "skipped", "failed", "interrupted")


@dataclass(frozen=True)
class Job:
    """One variant (or checkpoint) to export."""

    source: Source
    base_path: Path
    options: ExportOptions
    """As the user gave them: `imgsz` may still be None (native), which the task settles once it is known."""
    weights_dir: Path | None
    """None is Ultralytics' own weights folder."""
    test: bool
    skip_existing: bool
    trusted: bool
    """Whether a user's checkpoint may run code while it is unpickled."""
    command: str
    """What the user typed, for the manifest."""
    wait: bool = True
    """Whether to wait where another process is exporting to the same place, instead of failing."""
    force: bool = False
    """Whether an artifact that was made from another checkpoint may be replaced."""
    capabilities: tuple[str, ...] = ()
    """Compute capabilities of the GPUs that this is for, such as "9.0"; an artifact that runs on one of them is fit."""
    architectures: tuple[str, ...] = ()
    """Compute capabilities to export for, whose GPUs need not be here; none is the GPU at hand."""
    picture: Path | None = None
    """What the test shows the model; None is a bundled photograph."""
    run_folder: str | None = None
    """Of a user's checkpoint, the folders that tell its training from others (`naming.run_of`)."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a worker process."""
        return {
            "source": self.source.to_json(),
            "base_path": str(self.base_path),
            "options": self.options.to_json(),
            "weights_dir": str(self.weights_dir) if self.weights_dir else None,
            "test": self.test,
            "skip_existing": self.skip_existing,
            "trusted": self.trusted,
            "command": self.command,
            "wait": self.wait,
            "force": self.force,
            "capabilities": list(self.capabilities),
            "architectures": list(self.architectures),
            "picture": str(self.picture) if self.picture else None,
            "run_folder": self.run_folder,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Read back what `to_json` wrote; raises KeyError or TypeError on other data."""
        return cls(
            source=Source.from_json(data["source"]),
            base_path=Path(data["base_path"]),
            options=ExportOptions.from_json(data["options"]),
            weights_dir=Path(data["weights_dir"]) if data["weights_dir"] else None,
            test=bool(data["test"]),
            skip_existing=bool(data["skip_existing"]),
            trusted=bool(data["trusted"]),
            command=str(data["command"]),
            wait=bool(data["wait"]),
            force=bool(data["force"]),
            capabilities=tuple(map(str, data["capabilities"])),
            architectures=tuple(map(str, data["architectures"])),
            picture=Path(data["picture"]) if data["picture"] else None,
            run_folder=_text(data["run_folder"]),
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that it goes through."""
        gone_through = {
            "tune": self.options.autotune != "off", "compile": self.options.backend == "cuda", "test": self.test,
        }  # fmt: skip
        return tuple(stage for stage in STAGES if gone_through.get(stage, True))

    def record(self, outcome: str, **values: Any) -> Record:
        """Return a record of this job with what is known before it starts; `values` are `Record`'s other fields."""
        variant = self.source.variant
        known = {
            "name": self.source.name,
            "variant": variant.name if variant else None,
            "task": variant.task.name if variant else None,
            "backend": self.options.backend,
            "precision": computed_precision(
                self.options.backend, self.options.precision, self.architectures or self.capabilities
            ),
        }
        return Record(**{**known, "outcome": outcome, **values})

    def record_of(self, outcome: str, manifest: Manifest, folder: str, **values: Any) -> Record:
        """Return the record of an artifact that is in its place, in words that lead there."""
        files = {name: file.bytes for name, file in manifest.files.items()}
        known = {
            "task": manifest.task,
            "precision": manifest.precision,
            "folder": folder,
            "files": files,
            **figures_of(manifest.test),
        }
        return self.record(outcome, **{**known, **values})


def figures_of(test: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a record's fields of a smoke test's figures; what a manifest lacks is left out."""
    if test is None:
        return {}
    latency, largest = test.get("latency_ms"), test.get("largest")
    figures: dict[str, Any] = {"test": dict(test)}
    if isinstance(latency, Mapping) and _is_number(latency.get("p50")):
        figures["latency_ms"] = float(latency["p50"])
    if isinstance(largest, Mapping) and _is_number(largest.get("value")) and isinstance(largest.get("unit"), str):
        figures["largest_error"] = dict(largest)
    return figures


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Error(TypedDict):
    value: float
    unit: str


class LargestError(_Error, total=False):
    """The test's largest difference from eager PyTorch; older reports have no quantity and no ratio."""

    quantity: str
    ratio: float


@dataclass(frozen=True)
class Record:
    """How one job ended: a row of the final table and of the report."""

    name: str
    variant: str | None
    """None for a checkpoint of the user's own."""
    task: str | None
    """None where a user's checkpoint was never loaded."""
    backend: str
    precision: str
    """That the model computes in: fp32 where tf32 was asked for and there is none."""
    outcome: str
    """One of `OUTCOMES`."""
    stage: str | None = None
    """Where it failed or was interrupted, one of `STAGES`."""
    message: str | None = None
    """Why it failed, in one line."""
    error: str | None = None
    """The class of that error, one of `errors`; None where the process died."""
    folder: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent in each stage."""
    files: dict[str, int] = field(default_factory=dict)
    """Bytes of each file of the artifact."""
    latency_ms: float | None = None
    largest_error: LargestError | None = None
    test: dict[str, Any] | None = None
    """The test's figures, as in the manifest."""
    transient: bool = False
    """Whether what made it fail may pass by itself, so that another try makes sense."""
    attempts: int = 1
    device: str | None = None
    """The GPU it was given, as CUDA_VISIBLE_DEVICES names it, on a cluster HOST or HOST:GPU; None where the choice was
    left to CUDA."""
    peak_memory_bytes: int | None = None
    """The most that its processes held together, seen once a second; None where it was never looked at."""

    def __post_init__(self) -> None:
        """Refuse an outcome that is none; raises ValueError."""
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome {self.outcome!r}: expected one of {', '.join(OUTCOMES)}")

    @property
    def ok(self) -> bool:
        """Whether the artifact is there (and, unless that was waived, passed its test)."""
        return self.outcome in ("exported", "skipped")

    @property
    def size_mb(self) -> float | None:
        """Size of the artifact in MB (10^6 bytes); None where nothing was written."""
        return sum(self.files.values()) / 1e6 if self.files else None

    @property
    def total_s(self) -> float | None:
        """Seconds over all stages; None where no stage was timed."""
        return sum(self.seconds.values()) if self.seconds else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the report."""
        return cast("dict[str, Any]", to_plain(self))

    @classmethod
    def from_json(cls, data: Any) -> Record:
        """Read back what `to_json` wrote; raises ValueError on anything else."""
        try:
            record = from_plain(data, cls)
        except ValueError as error:
            raise ValueError(f"not a record of an export: {error}") from error
        return replace(record, precision=computed_precision(record.backend, record.precision))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
