"""`yolo26-et export`: variants and checkpoints to tested artifacts."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts import folder as artifact
from ..errors import BackendError, OptionError, UsageError
from ..exporter import scheduler
from ..exporter.child_process import LOGS
from ..exporter.jobs import Job, Record
from ..models.checkpoints import Source, find_sources
from ..models.options import AUTOTUNE, INPUT_FORMATS, IO_PLACES, PRECISIONS, ExportOptions, parse_imgsz
from ..models.tasks import OUTPUT_FORMATS, TASKS
from ..models.variants import VARIANTS
from ..system import probe, requirements
from . import PROG, Subparsers, console, warn
from .progress import Face, Live, Plain, print_summary
from .reports import REPORT, check_report, write_report

if TYPE_CHECKING:
    from ..exporter.cluster import Resources

BASE_PATH = Path("yolo26_cuda_exports")
REPORT_SCHEMA = 1


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="export variants or checkpoints, and test them",
        description="Export YOLO26 models to ExecuTorch, each to a folder of its own, and test inference on each.",
        epilog="Exit status: 0 everything asked for is there and passed its test; 1 something failed; 2 the command "
        "was wrong and nothing was done; 130 interrupted.",
    )
    what = parser.add_argument_group("what to export")
    what.add_argument(
        "--models", nargs="+", metavar="MODEL",
        help="names (yolo26n-seg), wildcards ('yolo26?-seg') or paths of .pt files (default: all 25 variants)",
    )  # fmt: skip
    what.add_argument(
        "--weights-dir", type=Path, metavar="DIR",
        help="where checkpoints are looked up first and downloaded to (default: Ultralytics' weights folder)",
    )  # fmt: skip
    what.add_argument(
        "--random-weights", action="store_true", help="seeded random weights: no download, and no accuracy"
    )
    what.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random weights (default: %(default)s)")
    what.add_argument(
        "--trust-checkpoint", action="store_true",
        help="load .pt files that hold more than weights and known classes; they run whatever code their author chose",
    )  # fmt: skip

    model = parser.add_argument_group("the exported model")
    model.add_argument(
        "--backend", choices=("auto", "cuda", "xnnpack"), default="auto",
        help="auto: CUDA where a usable GPU is seen, else XNNPACK for CPUs, with a warning (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--precision", choices=PRECISIONS, default="tf32",
        help="arithmetic inside the model; inputs and outputs stay float32; where there is no TF32 it means fp32 "
        "(default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--imgsz", nargs="+", default=["640"], metavar="N",
        help="input size in pixels: one number, height and width, or native (default: 640)",
    )  # fmt: skip
    model.add_argument("--batch", type=int, default=1, metavar="N", help="static batch size (default: %(default)s)")
    model.add_argument(
        "--outputs", choices=OUTPUT_FORMATS, default="named",
        help="named: x, y, w, h and a tensor for each quantity; ultralytics: the raw head's (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--input", choices=INPUT_FORMATS, default="float32",
        help="float32 NCHW in 0..1, or uint8 NHWC scaled inside the model (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--io", choices=IO_PLACES, default="host",
        help="device: inputs and outputs stay in GPU memory (default: %(default)s)",
    )  # fmt: skip

    model.add_argument(
        "--autotune", choices=AUTOTUNE, default="off",
        help="measure which tiles are fastest for each convolution on this GPU: fast tries a dozen, full a "
        "hundred; what is found is kept for later exports (default: %(default)s: tiles that were measured on an H100, "
        "or are expected to be the fastest)",
    )  # fmt: skip

    how = parser.add_argument_group("how")
    how.add_argument(
        "--base-path", type=_base_path, default=BASE_PATH, metavar="DIR",
        help="where artifacts go, a folder each; with --ray also a URL that fsspec knows, such as s3://bucket/folder "
        "(default: ./%(default)s)",
    )  # fmt: skip
    how.add_argument("--no-test", action="store_true", help="skip the inference test after each export")
    how.add_argument(
        "--skip-existing", action="store_true",
        help="skip what is there already: complete, intact and made with the same options",
    )  # fmt: skip
    how.add_argument(
        "--jobs", type=int, metavar="N",
        help="exports at a time (default: 1 for XNNPACK, half of the cores for CUDA, as far as memory goes)",
    )  # fmt: skip
    how.add_argument("--devices", metavar="0,1,…|all", help="GPUs to spread the exports over (default: the first)")
    how.add_argument(
        "--ray", metavar="ADDRESS|local",
        help="export on a Ray cluster: the address of one (HOST:PORT, auto), or local to start one on this machine",
    )  # fmt: skip
    how.add_argument(
        "--per-arch",
        action="store_true",
        help="with --ray: one export for each kind of GPU in the cluster, to DIR/KIND/NAME",
    )
    how.add_argument(
        "--time-limit", type=float, default=60, metavar="MIN",
        help="minutes that one export may take; 0 is no limit (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--memory-limit", type=float, default=0, metavar="GB",
        help="GB (10^9 bytes) of memory that one export may hold; 0 is no limit (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--retries", type=int, default=scheduler.RETRIES, metavar="N",
        help="further tries after a download or the GPU's memory failed (default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--no-wait", action="store_true",
        help="fail where another process is exporting to the same folder, instead of waiting for it",
    )  # fmt: skip
    how.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help=f"the outcome as JSON (default: {REPORT} in the base path, or here if that is a URL)",
    )
    how.add_argument("--debug", action="store_true", help="keep every export's log; show tracebacks")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked, then export; raises UsageError before any work is done."""
    with contextlib.ExitStack() as until_done:
        return _run(args, until_done)


def _run(args: argparse.Namespace, until_done: contextlib.ExitStack) -> int:
    command = shlex.join([PROG, *args.argv])
    url = args.base_path if isinstance(args.base_path, str) else None
    from ..exporter import cluster

    _check_ray(args, url)
    base_path = Path() if url else args.base_path.expanduser()
    report_path = args.report.expanduser() if args.report else base_path / REPORT
    weights_dir = _weights_dir(args.weights_dir)
    sources = _sources(args)
    _check_count("--jobs", args.jobs)
    for flag, number in (
        ("--time-limit", args.time_limit),
        ("--memory-limit", args.memory_limit),
        ("--retries", args.retries),
    ):
        if not 0 <= number < float("inf"):
            raise OptionError(f"{flag} {number:g}: expected a number from 0 up; try {flag} 1")
    limits = scheduler.Limits(args.time_limit * 60 or None, round(args.memory_limit * 1e9) or None)
    machine = probe.probe(base_path)
    ray = until_done.enter_context(cluster.connect(args.ray)) if args.ray else None
    options = _options(args, machine, ray)
    devices = _devices(args.devices, options, machine)
    architectures = _architectures(args, options, ray)
    for source in sources:
        _check_size(source, options)
    names = [source.name for source in sources]
    store = cluster.open_store(url or base_path) if ray else None
    if store:
        store.prepare([f"{kind}/{name}" for kind in architectures for name in names] or names)
    else:
        artifact.prepare_base_path(base_path, names)
        artifact.remove_abandoned(base_path)
    check_report(report_path)

    jobs = [
        Job(
            source=source,
            base_path=base_path,
            options=options,
            weights_dir=weights_dir,
            test=not args.no_test,
            skip_existing=args.skip_existing,
            trusted=args.trust_checkpoint,
            command=command,
            wait=not args.no_wait,
        )
        for source in sources
    ]
    parallel = args.jobs or (None if ray else _parallel(options, len(jobs), devices, machine))
    created, began = _now(), time.perf_counter()
    out = console()
    face: Face = Live(out, len(jobs) * max(1, len(architectures))) if out.is_terminal else Plain()
    with face:
        if store:
            records = cluster.run(
                jobs, store=store, architectures=architectures, parallel=parallel, on_event=face.show,
                keep_logs=args.debug, limits=limits, retries=args.retries,
            )  # fmt: skip
        else:
            records = scheduler.run(
                jobs, parallel=parallel or 1, on_event=face.show, keep_logs=args.debug,
                limits=limits, retries=args.retries, devices=devices,
            )  # fmt: skip
    status = _exit_status(records)
    report = {
        "schema": REPORT_SCHEMA,
        "created": created,
        "seconds": round(time.perf_counter() - began, 1),
        "command": command,
        "machine": machine.to_json(),
        "options": {
            **options.to_json(),
            "models": names,
            "test": not args.no_test,
            "skip_existing": args.skip_existing,
            "jobs": parallel,
            "devices": list(devices),
            "time_limit_s": limits.seconds,
            "memory_limit_bytes": limits.memory_bytes,
            "retries": args.retries,
            **({"ray": args.ray, "architectures": list(architectures)} if ray else {}),
        },
        "records": [record.to_json() for record in records],
        "exit_status": status,
    }
    try:
        write_report(report_path, report)
    finally:
        print_summary(out, records, options)
    logs = base_path / LOGS
    if status and logs.is_dir():
        print(f"logs: {logs}")
    print(f"report: {report_path}", flush=True)
    return status


# --- What is refused before any work ----------------------------------------------------------------------------------


def _sources(args: argparse.Namespace) -> list[Source]:
    sources = find_sources(args.models or [*VARIANTS])
    own = next((source for source in sources if source.path), None)
    if own and args.random_weights:
        raise UsageError(
            f"--random-weights makes up the weights of published variants, and {own.path} brings its own; "
            "leave one of the two out"
        )
    return sources


def _base_path(words: str) -> Path | str:
    """Return a folder, or a URL as it is."""
    return words if "://" in words else Path(words)


def _check_ray(args: argparse.Namespace, url: str | None) -> None:
    if args.ray and args.devices:
        raise UsageError(f"--devices {args.devices}: on a cluster Ray chooses the GPUs; leave it out")
    if not args.ray and args.per_arch:
        raise UsageError("--per-arch: expected with --ray, for the kinds of GPU of a cluster")
    if not args.ray and url:
        raise UsageError(f"--base-path {url}: a URL needs --ray (ADDRESS, or local for this machine); name a folder")


def _architectures(args: argparse.Namespace, options: ExportOptions, ray: Resources | None) -> tuple[str, ...]:
    if not args.per_arch or ray is None:
        return ()
    if options.backend != "cuda":
        raise UsageError(f"--per-arch: an export for {options.backend} runs on every machine; leave it out")
    return ray.architectures()


def _options(args: argparse.Namespace, machine: probe.Environment, ray: Resources | None) -> ExportOptions:
    backend, warning = ray.resolve_backend(args.backend) if ray else requirements.resolve_backend(args.backend, machine)
    if warning:
        warn(warning)
    options = ExportOptions(
        backend=backend,
        precision=args.precision,
        imgsz=parse_imgsz(args.imgsz),
        batch=args.batch,
        outputs=args.outputs,
        input=args.input,
        io=args.io,
        random_weights=args.random_weights,
        seed=args.seed,
        autotune=args.autotune,
    )
    # A CUDA artifact's test has PyTorch itself to fall back on; an XNNPACK artifact's has not.
    here = backend == "xnnpack" and not args.no_test and ray is None
    if here and not (fits := requirements.executorch_runtime_fits(machine)):
        raise BackendError(f"the test cannot run here: {fits}; or leave the test out with --no-test")
    return options


def _devices(words: str | None, options: ExportOptions, machine: probe.Environment) -> tuple[str, ...]:
    if words is None:
        return ()
    if options.backend != "cuda":
        raise UsageError(f"--devices {words}: an export for {options.backend} uses no GPU; leave it out")
    return tuple(device.visible for device in requirements.choose_devices(words.split(","), machine))


def _parallel(options: ExportOptions, jobs: int, devices: Sequence[str], machine: probe.Environment) -> int:
    gpu = min((gpu.memory_bytes for gpu in machine.gpus), default=0)
    return scheduler.default_parallel(
        options.backend, jobs, memory_bytes=machine.memory_bytes, gpu_memory_bytes=gpu * max(1, len(devices))
    )


def _check_size(source: Source, options: ExportOptions) -> None:
    """Refuse an input size that the source's task cannot take; where only loading tells the task, that all refuse."""
    refusals = []
    for task in [source.variant.task] if source.variant else TASKS.values():
        try:
            options.resolve(task)
            return
        except OptionError as error:
            refusals.append(error)
    raise refusals[0]


def _check_count(flag: str, count: int | None) -> None:
    if count is not None and count < 1:
        raise OptionError(f"{flag} {count}: expected a whole number from 1 up; try {flag} 1")


def _weights_dir(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    folder = folder.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"--weights-dir {folder}: expected a folder, and this is a file; for one checkpoint: --models {folder}"
        )
    return folder


# --- Afterwards -------------------------------------------------------------------------------------------------------


def _exit_status(records: Sequence[Record]) -> int:
    if any(record.outcome == "interrupted" for record in records):
        return 130
    return 0 if all(record.ok for record in records) else 1


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
