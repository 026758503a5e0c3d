"""Call an artifact's runners from threads and on several GPUs, and open and close them again and again.

python tools/check_runners.py ARTIFACT [--json FILE] [--calls 1000] [--threads 4] [--openings 40]

    threads     each thread calls one runner with images of its own
    openings    memory of host and GPU that opening, calling and closing leaves behind, after the first three times
    two GPUs    a runner on each of the first two, called alternately, then from several threads; where there are two

Every answer is compared with what the same runner gives alone. Exit status 1 where an answer was wrong or memory grew
by more than a megabyte.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo26_executorch import open_runner
from yolo26_executorch.models.preprocess import random_input

IMAGES = 8
"""Different inputs for each thread."""
SETTLING = 3
"""Openings before memory is read: the first ones load libraries and fill PyTorch's caches."""
MOST_GROWTH_BYTES = 1_000_000

Open = Callable[[str], Any]
"""Open the artifact on a device."""


@dataclass(frozen=True)
class Check:
    """One row: calls or openings, wrong answers among them, and the bytes by which memory grew."""

    name: str
    devices: tuple[str, ...]
    count: int
    wrong: int | None = None
    host_bytes: int | None = None
    gpu_bytes: int | None = None

    @property
    def passed(self) -> bool:
        """Whether every answer was right, and memory grew by no more than it may."""
        return not self.wrong and (self.host_bytes or 0) + (self.gpu_bytes or 0) <= MOST_GROWTH_BYTES


Answers = Sequence[tuple[Tensor, dict[str, Tensor]]]
"""Inputs, and what a runner gives for each when it is alone."""


def answers(runner: Any, first_seed: int) -> Answers:
    """Return inputs with their outputs."""
    batches = [random_input(runner.input, first_seed + index) for index in range(IMAGES)]
    return [(batch, {name: output.clone() for name, output in runner(batch).items()}) for batch in batches]


def mistakes(runner: Any, expected: Answers, calls: int) -> int:
    """Call a runner; returns how often it did not give what was expected."""
    wrong = 0
    for turn in range(calls):
        batch, outputs = expected[turn % len(expected)]
        found = runner(batch)
        wrong += not all(torch.equal(found[name], output) for name, output in outputs.items())
    return wrong


def in_threads(jobs: Sequence[Callable[[], int]]) -> int:
    """Run jobs side by side; returns the sum of what they return, and passes on what one of them raises."""
    counts: list[int] = []
    errors: list[BaseException] = []

    def run(job: Callable[[], int]) -> None:
        try:
            counts.append(job())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts)


def check_threads(open_on: Open, device: str, threads: int, calls: int) -> Check:
    """Call one runner from several threads, each with images of its own."""
    with open_on(device) as runner:
        own = [answers(runner, 100 * index) for index in range(threads)]
        wrong = in_threads([lambda expected=expected: mistakes(runner, expected, calls) for expected in own])  # type: ignore[misc]
    return Check(f"{threads} threads", (device,), threads * calls, wrong)


def check_openings(open_on: Open, device: str, openings: int) -> Check:
    """Open, call and close a runner again and again; memory is read before and after."""
    for _ in range(SETTLING):
        _open_once(open_on, device)
    before = _memory(device)
    for _ in range(openings):
        _open_once(open_on, device)
    host, gpu = (after - was for after, was in zip(_memory(device), before, strict=True))
    return Check("openings", (device,), openings, host_bytes=host, gpu_bytes=gpu)


def check_two(open_on: Open, devices: tuple[str, str], threads: int, calls: int) -> list[Check]:
    """Call runners on two GPUs alternately, and then each from several threads at once."""
    with ExitStack() as stack:
        runners = [stack.enter_context(open_on(device)) for device in devices]
        own = [[answers(runner, 100 * index) for index in range(threads)] for runner in runners]
        wrong = 0
        for turn in range(calls):
            for runner, expected in zip(runners, own, strict=True):
                one = expected[0][turn % IMAGES]
                wrong += mistakes(runner, [one], 1)
        jobs: list[Callable[[], int]] = [
            lambda runner=runner, expected=expected: mistakes(runner, expected, calls)  # type: ignore[misc]
            for runner, each in zip(runners, own, strict=True)
            for expected in each
        ]
        crowded = in_threads(jobs)
    return [
        Check("two GPUs, alternately", devices, 2 * calls, wrong),
        Check(f"two GPUs, {threads} threads each", devices, 2 * threads * calls, crowded),
    ]


def _open_once(open_on: Open, device: str) -> None:
    with open_on(device) as runner:
        runner(random_input(runner.input, 1))


def _memory(device: str) -> tuple[int, int]:
    """Return the bytes that this process holds of the host's memory, and that are in use on the GPU."""
    import psutil

    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return psutil.Process().memory_info().rss, total - free


def table(checks: Sequence[Check]) -> str:
    """Return what is printed."""
    rows: list[tuple[str, ...]] = [("check", "devices", "count", "wrong", "host MB", "GPU MB", "")]
    for check in checks:
        sizes = ["" if size is None else f"{size / 1e6:.2f}" for size in (check.host_bytes, check.gpu_bytes)]
        wrong = "" if check.wrong is None else str(check.wrong)
        rows.append(
            (check.name, " ".join(check.devices), str(check.count), wrong, *sizes, "ok" if check.passed else "FAILED")
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    parser.add_argument("--calls", type=int, default=1000, help="of each thread, and of each GPU's runner")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--openings", type=int, default=40)
    args = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("no CUDA GPU is seen here: `yolo26-et doctor` says why", file=sys.stderr)
        return 1

    def open_on(device: str) -> Any:
        return open_runner(args.artifact, runner="aoti", device=device)

    checks = [
        check_openings(open_on, "cuda:0", args.openings),
        check_threads(open_on, "cuda:0", args.threads, args.calls),
    ]
    if torch.cuda.device_count() > 1:
        checks += check_two(open_on, ("cuda:0", "cuda:1"), args.threads, args.calls)
    print(table(checks))
    if args.json:
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        rows = [asdict(check) | {"passed": check.passed} for check in checks]
        record = {"gpus": gpus, "torch": torch.__version__, "artifact": args.artifact.name, "checks": rows}
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
