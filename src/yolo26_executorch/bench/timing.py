"""Timing of calls: warm-up, device events or the host's clock, percentiles, and what the GPU says of itself."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .records import Round

DEVICE, HOST = "device events", "host clock"

COLD_RUNS = 30
_CACHE_BYTES = 256 << 20
"""More than any GPU's L2 holds; overwritten before a cold call."""
_READING_LIMIT_S = 5.0
_QUERY = ("clocks.sm", "power.draw", "temperature.gpu")

METHOD = {
    "warm-up": "calls go on for the warm-up's time before each round, and clock and power are read meanwhile",
    DEVICE: "graph and launched rows: an event before and behind each call, for which the host waits, one by one; the "
    "next input is put in place before the first of them. Weights and activations are warm in the GPU's cache; `cold` "
    "is the median of calls before each of which the cache was overwritten; `block` is the mean of calls one right "
    "behind the other",
    HOST: "host and file rows: the host's clock around each call, with all outputs there",
    "figures": "20th, 50th and 80th percentile in each round, the median of each over the rounds, and the distance "
    "between the rounds' medians; rounds of all rows take turns",
}
"""How everything is measured, for the report."""


@dataclass(frozen=True)
class Call:
    """What is timed."""

    run: Callable[[], object]
    advance: Callable[[], object]
    """Put the next input in place; not timed."""
    clock: str
    """`DEVICE` or `HOST`."""
    cuda: bool
    """Whether the GPU works in it and has to be waited for."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated linearly between the two nearest values; raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def measure(call: Call, *, runs: int, seconds: float, warm_s: float) -> Round:
    """Time one round.

    Args:
        call: what to time.
        runs: calls, at least.
        seconds: how long to go on, at least.
        warm_s: how long to call it first, at least.
    """
    reading = warm_up(call, warm_s)
    times: list[float] = []
    time_one = _on_device if call.clock == DEVICE else _on_host
    began = time.perf_counter()
    while len(times) < runs or time.perf_counter() - began < seconds:
        times.append(time_one(call))
    block = cold = None
    if call.clock == DEVICE:
        block, cold = _block(call, runs), _cold(call)
    return Round(
        len(times), percentile(times, 20), percentile(times, 50), percentile(times, 80), block, cold,
        *(reading[name] for name in _QUERY),
    )  # fmt: skip


def warm_up(call: Call, seconds: float) -> dict[str, float | None]:
    """Call it for a while; returns what nvidia-smi read meanwhile, which is over when this returns."""
    smi = _smi(_QUERY) if call.cuda else None
    began = time.perf_counter()
    while True:
        call.advance()
        call.run()
        if call.cuda:
            _synchronize()
        passed = time.perf_counter() - began
        if passed >= seconds and (smi is None or smi.poll() is not None or passed > seconds + _READING_LIMIT_S):
            return _reading(smi)


def gpu_memory_used() -> int | None:
    """Return the bytes in use on the GPU, by all processes, as nvidia-smi has it; None where it does not tell."""
    mebibytes = (_answer(_smi(["memory.used"]), 1) or [None])[0]
    return None if mebibytes is None else int(mebibytes * 2**20)


def _on_host(call: Call) -> float:
    call.advance()
    if call.cuda:
        _synchronize()
    began = time.perf_counter()
    call.run()
    if call.cuda:
        _synchronize()
    return (time.perf_counter() - began) * 1000


def _on_device(call: Call) -> float:
    call.advance()
    start, end = _events()
    start.record()
    call.run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _block(call: Call, runs: int) -> float:
    """Return the mean of calls that do not wait for each other."""
    start, end = _events()
    start.record()
    for _ in range(runs):
        call.run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / runs


def _cold(call: Call) -> float:
    import torch

    cache = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(COLD_RUNS):
        call.advance()
        cache.zero_()
        _synchronize()
        start, end = _events()
        start.record()
        call.run()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)))
    return statistics.median(times)


def _events() -> tuple[Any, Any]:
    import torch

    event: Any = torch.cuda.Event
    return event(enable_timing=True), event(enable_timing=True)


def _synchronize() -> None:
    import torch

    torch.cuda.synchronize()


def _reading(smi: subprocess.Popen[str] | None) -> dict[str, float | None]:
    return dict(zip(_QUERY, _answer(smi, len(_QUERY)) or [None] * len(_QUERY), strict=True))


def _smi(names: Sequence[str]) -> subprocess.Popen[str] | None:
    """Start nvidia-smi for the first GPU of this process; None where there is no such program."""
    command = ["nvidia-smi", "-i", _gpu(), f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        return None


def _gpu() -> str:
    """Return nvidia-smi's name of this process' first GPU, which CUDA_VISIBLE_DEVICES may have renumbered."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"


def _answer(smi: subprocess.Popen[str] | None, count: int) -> list[float | None] | None:
    """Return the numbers that nvidia-smi gave, None for those that it does not have; None where it failed."""
    if smi is None:
        return None
    try:
        out, _ = smi.communicate(timeout=_READING_LIMIT_S)
    except subprocess.TimeoutExpired:
        smi.kill()
        smi.wait()
        return None
    lines = out.splitlines()
    words = lines[0].split(",") if smi.returncode == 0 and lines else []
    if len(words) != count:
        return None
    numbers: list[float | None] = []
    for word in words:
        numbers.append(None)
        with contextlib.suppress(ValueError):  # "[N/A]"
            numbers[-1] = float(word)
    return numbers
