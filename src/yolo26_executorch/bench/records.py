"""The records of a benchmark: a row for each thing that was timed, and the report that holds them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, first_line
from ..system.plain import from_plain, to_plain

if TYPE_CHECKING:
    from typing_extensions import Self

KIND, SCHEMA = "bench", 1

MODES = {
    "graph": "input and outputs in GPU memory, a CUDA graph replayed",
    "launched": "input and outputs in GPU memory, kernels launched one by one",
    "host": "input and outputs in host memory, copies included",
    "file": "from a picture file to results, reading, fitting and decoding included",
}
"""What is timed, by the name of the row."""

ARTIFACT = "artifact"
TENSORRTS = ("tensorrt", "tensorrt-rtx")
"""One interface, from two packages; the second is for the GPUs of workstations."""
PEERS = ("eager", "compile", "onnxruntime", *TENSORRTS)
"""What an artifact can be measured against: PyTorch eager, torch.compile, ONNX Runtime, TensorRT, TensorRT for RTX."""


def module_of(package: str) -> str:
    """Return the name by which a peer's package is imported."""
    return package.replace("-", "_")


@dataclass(frozen=True)
class Load:
    """How long it took from the start of the process to the first result, in seconds."""

    import_s: float
    """Starting Python and importing libraries."""
    open_s: float
    """Reading the artifact (or building the peer) and creating the CUDA context."""
    first_s: float
    """The first call; compilers that work on demand work here."""
    first_result_s: float
    """All of it."""


@dataclass(frozen=True)
class Memory:
    """The most memory held, in bytes; None where it cannot be told."""

    host_bytes: int | None
    """The process' largest resident set."""
    gpu_bytes: int | None
    """What the GPU's used memory grew by, as nvidia-smi has it, the CUDA context included; read when warm."""
    gpu_tensors_bytes: int | None
    """The peak of PyTorch's allocator alone: weights, inputs, outputs and what is in between."""


@dataclass(frozen=True)
class Round:
    """One round of timed calls, in milliseconds a call."""

    runs: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    block_ms: float | None
    """Mean of a block of calls, one right behind the other between two device events; None on the host's clock."""
    cold_ms: float | None
    """Median of calls before each of which the GPU's cache was overwritten; None on the host's clock."""
    sm_mhz: float | None
    """The GPU's clock while it was kept busy just before the timed calls; so are power and temperature."""
    power_w: float | None
    temperature_c: float | None


@dataclass(frozen=True)
class Latency:
    """A row's figures over its rounds, in milliseconds a call; medians of the rounds' figures."""

    p20_ms: float
    p50_ms: float
    p80_ms: float
    spread_ms: float
    """The largest round's median less the smallest's: differences below this are noise."""
    block_ms: float | None
    cold_ms: float | None
    runs: int
    """Timed calls in all."""

    @classmethod
    def of(cls, rounds: Iterable[Round]) -> Self:
        """Sum rounds up; at least one."""
        rounds = list(rounds)
        medians = [one.p50_ms for one in rounds]
        blocks = [one.block_ms for one in rounds if one.block_ms is not None]
        cold = [one.cold_ms for one in rounds if one.cold_ms is not None]
        return cls(
            p20_ms=statistics.median(one.p20_ms for one in rounds),
            p50_ms=statistics.median(medians),
            p80_ms=statistics.median(one.p80_ms for one in rounds),
            spread_ms=max(medians) - min(medians),
            block_ms=statistics.median(blocks) if blocks else None,
            cold_ms=statistics.median(cold) if cold else None,
            runs=sum(one.runs for one in rounds),
        )


@dataclass(frozen=True)
class Ceilings:
    """What this machine was measured to do at most, in one precision."""

    device: str
    """"cuda" or "cpu"."""
    precision: str
    gflop_s: float
    """A large matrix product, through PyTorch's own library."""
    gb_s: float
    """A large copy within the device's memory, bytes read plus bytes written."""
    method: str


@dataclass(frozen=True)
class Work:
    """What one call of a model has to do, counted on the eager model."""

    gflop: float
    """Floating-point operations of convolutions and matrix products, a multiply-add being two."""
    gb: float
    """10⁹ bytes of the tensors that those read and write, weights included, each once: everything between them is taken
    to be fused. Caches may serve much of it."""
    floor_ms: float | None
    """The larger of the times that both take at the measured ceilings."""


@dataclass(frozen=True)
class Achieved:
    """A row's rates, from its median, and their parts (0..1) of the measured ceilings."""

    gflop_s: float
    gb_s: float
    of_compute: float | None
    of_bandwidth: float | None


@dataclass(frozen=True)
class Row:
    """One thing that was timed, or why it was not."""

    artifact: str
    """The folder, as it was given."""
    name: str
    variant: str | None
    task: str
    backend: str
    precision: str
    """What is computed in; fp32 for XNNPACK, whatever name it goes by."""
    imgsz: tuple[int, int]
    """Height and width, pixels."""
    batch: int
    input: str
    """"float32" or "uint8"."""
    subject: str
    """"artifact" or one of `PEERS`."""
    mode: str
    """One of `MODES`."""
    outcome: str
    """"measured", "skipped" or "failed"."""
    message: str | None
    """Why it was not measured, or what ended it early."""
    runner: str | None
    device: str | None
    """"cuda" or "cpu"."""
    clock: str | None
    """"device events" or "host clock"."""
    settings: dict[str, str]
    """What else matters: threads, memory format, compiler's mode."""
    graph_equals_call: bool | None
    """Whether a replay gives the launched call's outputs bit for bit."""
    load: Load | None
    memory: Memory | None
    latency: Latency | None
    achieved: Achieved | None
    rounds: tuple[Round, ...]

    @property
    def measured(self) -> bool:
        """Whether it has figures."""
        return self.latency is not None


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    gpu: str | None
    capability: tuple[int, int] | None
    driver: str | None
    cpu: str | None
    cores: int
    os: str


@dataclass(frozen=True)
class Report:
    """One run of the benchmark."""

    command: str
    created: str
    """ISO 8601, UTC."""
    commit: str | None
    """The checkout's, in full; None where the package runs from elsewhere."""
    modified: bool | None
    """Whether the checkout differs from that commit."""
    machine: Machine
    versions: dict[str, str]
    method: dict[str, str]
    """How it was measured, in words, by what that is about."""
    interrupted: bool
    ceilings: tuple[Ceilings, ...]
    work: dict[str, Work]
    """By the artifact's folder."""
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]
    kind: str = KIND
    schema: int = SCHEMA

    @property
    def failed(self) -> bool:
        """Whether a row failed, or nothing was measured at all."""
        return any(row.outcome == "failed" for row in self.rows) or not any(row.measured for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kind": KIND, "schema": SCHEMA, **to_plain(self)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read back what `to_json` wrote; raises UsageError, naming the first field that is wrong."""
        if not isinstance(data, dict) or (data.get("kind"), data.get("schema")) != (KIND, SCHEMA):
            raise UsageError(f"it is no report of this version's `yolo26-et bench` (kind {KIND!r}, schema {SCHEMA})")
        try:
            # Through text and back, so that tuples are lists, as in a file.
            found = from_plain(json.loads(json.dumps(data, allow_nan=False)), cls)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"it is damaged: {first_line(error)}") from error
        if wrong := [row for row in found.rows if row.mode not in MODES or row.subject not in (ARTIFACT, *PEERS)]:
            raise UsageError(f"it is damaged: no row is called {wrong[0].subject} {wrong[0].mode}")
        return found

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `--report` wrote; raises UsageError."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} cannot be read: {first_line(error)}") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
