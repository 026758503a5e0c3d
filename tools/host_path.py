"""Time an artifact's calls from host memory beside what copying alone and the graph alone take.

python tools/host_path.py ARTIFACT [--json FILE] [--threads 1 16]

    copies      the input to the GPU and the outputs back, both pinned, and one wait
    graph       the replay of the captured call, and one wait
    pinned      a call with images in pinned memory
    pageable    a call with images in ordinary memory
    to pinned   copying the images from ordinary into pinned memory, which such a call adds

Medians in milliseconds of the host's clock, for each number of PyTorch's threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from yolo26_executorch import open_runner
from yolo26_executorch.models.preprocess import random_input

WARM_UP_CALLS, CALLS = 50, 300


def median_ms(call: Callable[[], object], calls: int = CALLS) -> float:
    """Return the median of a call's time, with all its work on the GPU done."""
    for _ in range(WARM_UP_CALLS):
        call()
    times = []
    for _ in range(calls):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def measure(runner: Any, threads: int) -> dict[str, float | int]:
    """Time one runner with a number of PyTorch's threads."""
    torch.set_num_threads(threads)
    pageable = random_input(runner.input, 1)
    pinned = pageable.pin_memory()
    expected = runner(pageable)
    assert all(torch.equal(found, expected[name]) for name, found in runner(pinned).items())
    batch, outputs = runner.capture()
    results = [torch.empty_like(output, device="cpu", pin_memory=True) for output in outputs]
    beside = torch.empty_like(pinned, pin_memory=True)

    def copy() -> None:
        batch.copy_(pinned, non_blocking=True)
        for result, output in zip(results, outputs, strict=True):
            result.copy_(output, non_blocking=True)

    return {
        "threads": threads,
        "copies": median_ms(copy),
        "graph": median_ms(runner.replay),
        "pinned": median_ms(lambda: runner(pinned)),
        "pageable": median_ms(lambda: runner(pageable)),
        "to pinned": median_ms(lambda: beside.copy_(pageable)),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    args = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("no CUDA GPU is seen here: `yolo26-et doctor` says why", file=sys.stderr)
        return 1
    with open_runner(args.artifact, runner="aoti") as runner:
        rows = [measure(runner, threads) for threads in args.threads]
    print("  ".join(rows[0]), "  over copies and graph", sep="")
    for row in rows:
        cells = [f"{value:{len(name)}.3f}" if isinstance(value, float) else f"{value:7}" for name, value in row.items()]
        print("  ".join(cells), f"  {row['pinned'] - row['copies'] - row['graph']:+.3f}", sep="")
    if args.json:
        record = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "artifact": args.artifact.name}
        args.json.write_text(json.dumps(record | {"unit": "ms", "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
