"""Find the fastest tile of every convolution of some models, on the GPU at hand, and write them as the package's table.

    python tools/tune.py --models 'yolo26*' --precisions fp16 tf32 --full

The table is `src/yolo26_executorch/lowering/tuning/tiles/CAPABILITY.json`, which `cost_model.table` reads; what it
holds already is kept, and measured again only with `--again`. It is written after every problem, so that what was cut
off loses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from yolo26_executorch.errors import Yolo26Error
from yolo26_executorch.lowering.passes.tiles import problems_of
from yolo26_executorch.lowering.tuning.autotune import tune
from yolo26_executorch.lowering.tuning.cost_model import Problem
from yolo26_executorch.lowering.tuning.tile_table import TileTable
from yolo26_executorch.models.options import ExportOptions

TABLES = TileTable.of_package((9, 0)).path.parent


PRECISIONS = {"fp16": (2, False), "tf32": (4, False), "fp32": (4, True)}
"""Bytes of an element, and whether products are exact; bf16 takes the tiles of fp16."""


def find_problems(models: list[str], **options: Any) -> Counter[Problem]:
    """Return the convolutions of some variants in fp16, with how often each occurs."""
    from yolo26_executorch.lowering.passes.fusion import fuse
    from yolo26_executorch.lowering.passes.rewrites import for_cuda
    from yolo26_executorch.models.checkpoints import find_sources, load
    from yolo26_executorch.models.export_model import ExportModel

    found: Counter[Problem] = Counter()
    for source in find_sources(models):
        checkpoint = load(source, weights_dir=None, random=True, seed=0)
        chosen = ExportOptions(backend="cuda", precision="fp16", **options).resolve(checkpoint.task)
        model = for_cuda(ExportModel(checkpoint, chosen))
        found.update(problems_of(fuse(model, model.example_input, "tf32")))
        print(f"{source.name}: {len(found)} problems so far", flush=True)
    return found


def read_problems(path: Path) -> Counter[Problem]:
    """Return what `--list` wrote."""
    found: Counter[Problem] = Counter()
    for row, count in json.loads(path.read_text(encoding="utf-8")):
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        found[Problem(**values)] += count
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["yolo26*"], help="variants, by name or pattern (all)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp16", "tf32"], help="(fp16 tf32)")
    parser.add_argument("--list", type=Path, metavar="FILE", help="write the models' convolutions, and measure nothing")
    parser.add_argument("--from", dest="listed", type=Path, metavar="FILE", help="measure these instead of models'")
    parser.add_argument(
        "--full", action="store_true", help="try a hundred tiles, not only the dozen that should take the least time"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that compile (one a core)")
    parser.add_argument("--limit", type=float, default=0, metavar="S", help="begin nothing after so many seconds")
    parser.add_argument("--again", action="store_true", help="also measure what the table holds")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the tables (the package's)")
    args = parser.parse_args(argv)
    import torch

    began = time.perf_counter()
    try:
        problems = read_problems(args.listed) if args.listed else find_problems(args.models)
    except (OSError, ValueError, TypeError, Yolo26Error) as error:
        print(error, file=sys.stderr)
        return 2
    if args.list:
        rows = [[asdict(problem), count] for problem, count in problems.most_common()]
        args.list.write_text(json.dumps(rows) + "\n", encoding="utf-8")
        return 0
    if not torch.cuda.is_available():
        print("no NVIDIA GPU that PyTorch can use; yolo26-et doctor says why", file=sys.stderr)
        return 1
    kinds = [PRECISIONS[name] for name in args.precisions]
    every = [
        replace(problem, element_bytes=size, ieee=ieee) for problem, _ in problems.most_common() for size, ieee in kinds
    ]
    major, minor = torch.cuda.get_device_capability()
    table = TileTable(args.tables / f"{major}.{minor}.json")
    known = set() if args.again else table.searched(full=args.full)
    todo = [problem for problem in every if problem.key not in known]
    print(f"{len(todo)} of {len(every)} problems to measure", flush=True)
    spent = unmeasured = 0.0
    done = 0
    for found in tune(todo, full=args.full, jobs=args.jobs):
        table.add(found.problem.key, found.tile, found.us, found.default_us, full=args.full)
        done += 1
        if found.default_us is not None:
            spent += found.us
            unmeasured += found.default_us
        print(
            f"{done}/{len(todo)} {found}; {list(found.tile)}, {found.tried} timed",
            flush=True,
        )
        if args.limit and time.perf_counter() - began > args.limit:
            break
    longer = unmeasured / max(spent, 1e-9)
    print(f"{done} measured, {len(todo) - done} left; predicted tiles take {longer:.2f} × as long")
    return 0


if __name__ == "__main__":
    sys.exit(main())
