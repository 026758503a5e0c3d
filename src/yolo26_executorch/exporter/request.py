"""What is asked of an export, by the command or from Python: checked as a whole before any work, then carried out.

A `Request` has a field for each of the command's flags. `carry_out` refuses what cannot be done, has the jobs run here
or on a cluster, and returns the report.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ..artifacts.current import Identity
from ..artifacts.manifest import PLAIN_NAME
from ..errors import BackendError, InputError, OptionError, UsageError
from ..lowering import gpus
from ..lowering.target import Target
from ..models import naming
from ..models.checkpoints import Source, find_sources
from ..models.options import STRIDE, ExportOptions
from ..models.tasks import TASKS
from ..models.variants import VARIANTS
from ..system import probe, requirements
from ..system.probe import dotted
from ..system.reports import REPORT, check_report, write_report
from ..system.requirements import Device
from . import existing, scheduler
from .child_process import LOGS
from .expected import History
from .export_process import Limits
from .jobs import Job, Record
from .progress import Display, Tracker

if TYPE_CHECKING:
    from ..artifacts.manifest import Manifest
    from .cluster import Resources, Store

BASE_PATH = Path("yolo26_cuda_exports")
REPORT_SCHEMA = 1


@dataclass(frozen=True)
class Request:
    """What to export, how, and where to; the fields are the command's flags, and so are their defaults."""

    models: tuple[str, ...] = tuple(VARIANTS)
    """Names, wildcards, and paths of `.pt` files."""
    name: str | None = None
    """The artifact's folder, where one model is exported."""
    base_path: Path | str = BASE_PATH
    """A folder; as text a URL that fsspec knows."""
    weights_dir: Path | None = None
    random_weights: bool = False
    seed: int = 0
    trust_checkpoint: bool = False
    backend: str = "auto"
    arch: tuple[str, ...] = ()
    """Compute capabilities to export for, or "all"; none is the GPU at hand."""
    precision: str = "tf32"
    half: bool = False
    """Ultralytics' word for fp16, where the backend has it."""
    imgsz: tuple[int, int] | None = (640, 640)
    """Height and width in pixels; None is the native size."""
    batch: int = 1
    outputs: str = "named"
    input: str = "float32"
    io: str = "host"
    autotune: str = "off"
    words: tuple[str, ...] = ()
    """The classes of an open-vocabulary model."""
    no_test: bool = False
    skip_existing: bool = False
    force: bool = False
    jobs: int | None = None
    devices: str | None = None
    ray: str | None = None
    per_arch: bool = False
    time_limit: float = 60
    """Minutes; 0 is no limit."""
    memory_limit: float = 0
    """GB (10^9 bytes); 0 is no limit."""
    retries: int = scheduler.RETRIES
    no_wait: bool = False
    picture: Path | None = None
    """What the test shows the model; None is a bundled photograph."""
    report: Path | None = None
    debug: bool = False
    """Keep every log."""

    def __post_init__(self) -> None:
        """Refuse values of other types and numbers out of range; raises OptionError."""
        for name, hint in get_type_hints(type(self)).items():
            # `find_sources`, `gpus.named`, `parse_imgsz` and `ExportOptions` check these.
            if name in ("models", "arch", "imgsz", "words"):
                continue
            value = getattr(self, name)
            if not isinstance(value, (int, float) if hint is float else hint) or isinstance(value, bool) > (
                hint is bool
            ):
                raise OptionError(f"{_flag(name)} {value!r}: expected {getattr(hint, '__name__', hint)}")
        if self.jobs is not None and self.jobs < 1:
            raise OptionError(f"--jobs {self.jobs}: expected a whole number from 1 up; try --jobs 1")
        for name in ("time_limit", "memory_limit", "retries"):
            if not 0 <= (number := getattr(self, name)) < float("inf"):
                raise OptionError(f"{_flag(name)} {number:g}: expected a number from 0 up; try {_flag(name)} 1")
        if self.name is not None and not PLAIN_NAME.fullmatch(self.name):
            raise OptionError(f"--name {self.name!r}: expected a folder's name of letters, digits, '.', '_' and '-'")

    @property
    def limits(self) -> Limits:
        """What each export may take."""
        return Limits(self.time_limit * 60 or None, round(self.memory_limit * 1e9) or None)

    @property
    def command(self) -> str:
        """The command line that asks for the same."""
        words = ["yolo26-et", "export"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            words.append(_flag(field.name))
            if field.name == "imgsz":
                words += map(str, value or ("native",))
            elif not isinstance(value, bool):
                words += map(str, value) if isinstance(value, tuple) else [str(value)]
        return shlex.join(words)


@dataclass(frozen=True)
class Result:
    """How an export ended."""

    records: list[Record]
    options: ExportOptions
    status: int
    """What a command exits with: 0, 1 where something failed, 130 where it was interrupted."""
    logs: Path | None
    """The folder of logs, where there are any."""
    report_path: Path
    report: dict[str, Any]

    def write_report(self) -> None:
        """Write the report to its place; raises Yolo26Error where that cannot be done."""
        write_report(self.report_path, self.report)


def carry_out(
    request: Request, *, display: Callable[[Tracker], Display], warn: Callable[[str], None], command: str | None = None
) -> Result:
    """Check all that can be checked, then export.

    Args:
        request: what is asked for.
        display: returns what shows the progress of the exports that a tracker follows.
        warn: called with warnings, a line each.
        command: the command for manifests and the report; None makes it up.

    Raises:
        UsageError: before any work, where the request cannot be carried out.
    """
    command = command or request.command
    from . import cluster

    with contextlib.ExitStack() as until_done:
        url = request.base_path if isinstance(request.base_path, str) else None
        _check_ray(request, url)
        base_path = Path() if url else Path(request.base_path).expanduser()
        report_path = request.report.expanduser() if request.report else base_path / REPORT
        weights_dir = _weights_dir(request.weights_dir)
        sources = _sources(request)
        machine = probe.probe(base_path)
        ray = until_done.enter_context(cluster.connect(request.ray)) if request.ray else None
        options, devices = _options(request, machine, ray, warn)
        kinds = _kinds(request, options, ray)
        for source in sources:
            _check_size(source, options)
        store = cluster.open_store(url or base_path)
        sources = _places(request, sources, options, weights_dir, store, kinds)
        check_report(report_path)
        picture = _picture(request)
        jobs = [
            Job(
                source=source,
                base_path=base_path,
                options=options,
                weights_dir=weights_dir,
                test=not request.no_test,
                skip_existing=request.skip_existing,
                trusted=request.trust_checkpoint,
                command=command,
                wait=not request.no_wait,
                force=request.force,
                picture=picture,
                run_folder=naming.run_of(source.path) if source.path else None,
                capabilities=tuple(dict.fromkeys(dotted(device.gpu.capability) for device in devices)),
                architectures=tuple(dotted(gpu.capability) for gpu in gpus.named(request.arch, options.precision))
                if request.arch
                else (),
            )
            for source in sources
        ]
        slots = {device.visible: scheduler.slots(device.gpu.memory_bytes) for device in devices}
        parallel = request.jobs or (None if ray else _parallel(options, len(jobs), slots, machine))
        created, began = _now(), time.perf_counter()
        history = History() if url else History.of(base_path, options)
        with display(Tracker(jobs, history, copies=max(1, len(kinds)))) as shown:
            if ray:
                records = cluster.run(
                    jobs, store=store, architectures=kinds, parallel=parallel, on_event=shown.show,
                    keep_logs=request.debug, limits=request.limits, retries=request.retries,
                )  # fmt: skip
            else:
                records = scheduler.run(
                    jobs, parallel=parallel or 1, on_event=shown.show, keep_logs=request.debug,
                    limits=request.limits, retries=request.retries, devices=slots,
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
            "models": [source.name for source in sources],
            "test": not request.no_test,
            "skip_existing": request.skip_existing,
            "force": request.force,
            "jobs": parallel,
            "devices": [*slots],
            "time_limit_s": request.limits.seconds,
            "memory_limit_bytes": request.limits.memory_bytes,
            "retries": request.retries,
            **({"ray": request.ray, "architectures": list(kinds)} if ray else {}),
        },
        "records": [record.to_json() for record in records],
        "exit_status": status,
    }
    logs = base_path / LOGS
    return Result(records, options, status, logs if logs.is_dir() else None, report_path, report)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _sources(request: Request) -> list[Source]:
    sources = find_sources(request.models, published=not request.random_weights)
    own = next((source for source in sources if source.path), None)
    if own and request.random_weights:
        raise UsageError(
            f"--random-weights makes up the weights of published variants, and {own.path} brings its own; "
            "leave one of the two out"
        )
    for source in sources:
        _check_words(source, request.words)
    if request.name is None:
        return sources
    if len(sources) != 1:
        raise UsageError(
            f"--name {request.name}: expected one model, given {len(sources)} ({sources[0].name}, {sources[1].name}, "
            "…); export them one by one, or leave it out"
        )
    return [replace(sources[0], name=request.name)]


def _check_words(source: Source, words: Sequence[str]) -> None:
    """Refuse words where a published model has classes of its own, and no words where it has none."""
    if source.variant is None:
        return  # only loading tells
    open_vocabulary = source.variant.weights.vocabulary == "words"
    if words and not open_vocabulary:
        raise UsageError(
            f"--words {shlex.join(words)}: {source.name} has classes of its own; words are for open-vocabulary models, "
            "such as yoloe-26n-seg"
        )
    if open_vocabulary and not words:
        raise UsageError(
            f"{source.name} is an open-vocabulary model: name its classes, such as --words person 'traffic light'"
        )


def _check_ray(request: Request, url: str | None) -> None:
    if request.ray and request.devices:
        raise UsageError(f"--devices {request.devices}: on a cluster Ray chooses the GPUs; leave it out")
    if not request.ray and request.per_arch:
        raise UsageError("--per-arch: expected with --ray, for the kinds of GPU of a cluster")
    if not request.ray and url:
        raise UsageError(f"--base-path {url}: a URL needs --ray (ADDRESS, or local for this machine); name a folder")


def _picture(request: Request) -> Path | None:
    """Return the picture's place; raises UsageError where none can be read there."""
    if request.picture is None:
        return None
    if request.ray:
        raise UsageError(f"--picture {request.picture}: a cluster's machines may not have it; leave it out")
    if request.no_test:
        raise UsageError("--picture says what the test shows the model, --no-test leaves it out; leave out one of them")
    from ..models import preprocess

    path = preprocess.bundled(request.picture) or request.picture.expanduser().absolute()
    try:
        preprocess.read(path)
    except InputError as error:
        raise UsageError(f"--picture {request.picture}: {error}") from None
    return path


def _kinds(request: Request, options: ExportOptions, ray: Resources | None) -> tuple[str, ...]:
    if not request.per_arch or ray is None:
        return ()
    if options.backend != "cuda":
        raise UsageError(f"--per-arch: an export for {options.backend} runs on every machine; leave it out")
    return ray.architectures()


def _options(
    request: Request, machine: probe.Environment, ray: Resources | None, warn: Callable[[str], None]
) -> tuple[ExportOptions, tuple[Device, ...]]:
    """Return the options and the GPUs to export on; without a GPU, on a cluster, or for others than are here, none."""
    named: tuple[Device, ...] = ()
    wanted = request.backend
    if request.arch:
        targets = _check_arch(request, machine)
        options = _options_for(request, "cuda", warn)
        # Those of one artifact agree on it: `gpus.named` has seen to that.
        return replace(options, precision=targets[0].precision(options.precision)), ()
    if request.devices and machine.gpus and wanted != "xnnpack":
        named = requirements.choose_devices(request.devices.split(","), machine)
        wanted = "cuda"
    backend, warning = ray.resolve_backend(wanted) if ray else requirements.resolve_backend(wanted, machine, named)
    if warning:
        warn(warning)
    if request.devices and backend != "cuda":
        raise UsageError(f"--devices {request.devices}: an export for {backend} uses no GPU; leave it out")
    options = _options_for(request, backend, warn)
    # A CUDA artifact's test has PyTorch itself to fall back on; an XNNPACK artifact's has not.
    here = backend == "xnnpack" and not request.no_test and ray is None
    if here and not (fits := requirements.executorch_runtime_fits(machine)):
        raise BackendError(f"the test cannot run here: {fits}; or leave the test out with --no-test")
    if backend != "cuda" or ray:
        return options, ()
    devices = named or tuple(filter(None, [requirements.default_device(machine)]))
    if not (alike := requirements.of_one_kind(devices)):
        warn(str(alike))
    if not named and devices and devices[0].index:
        older = ", ".join(map(str, requirements.all_devices(machine)[: devices[0].index]))
        warn(f"{older}: too old for Triton; exporting on {devices[0]}")
    return options, devices


def _options_for(request: Request, backend: str, warn: Callable[[str], None]) -> ExportOptions:
    return ExportOptions(
        backend=backend,
        precision=_precision(request, backend, warn),
        imgsz=request.imgsz,
        batch=request.batch,
        outputs=request.outputs,
        input=request.input,
        io=request.io,
        random_weights=request.random_weights,
        seed=request.seed,
        autotune=request.autotune,
        words=tuple(request.words),
    )


def _check_arch(request: Request, machine: probe.Environment) -> tuple[Target, ...]:
    """Return the GPUs that an export is for, which need not be here.

    Raises:
        UsageError: other flags say otherwise.
        BackendError: a compiler is missing.
    """
    arch = f"--arch {' '.join(request.arch)}"
    wanted = gpus.named(request.arch, "fp16" if request.half else request.precision)
    if request.backend == "xnnpack":
        raise UsageError(f"{arch}: an export for xnnpack uses no GPU; leave it out")
    if request.devices or request.ray:
        other = f"--devices {request.devices}" if request.devices else f"--ray {request.ray}"
        raise UsageError(f"{arch}: such an export needs no GPU, and {other} asks for some; leave one of the two out")
    if request.autotune != "off":
        raise UsageError(f"{arch}: --autotune {request.autotune} measures on the GPU at hand; leave one of the two out")
    if not (usable := requirements.usable_for([gpu.capability for gpu in wanted], machine)):
        raise BackendError(f"{arch}: {usable}")
    return wanted


def _precision(request: Request, backend: str, warn: Callable[[str], None]) -> str:
    if not request.half:
        return request.precision
    if request.precision not in (Request.precision, "fp16"):
        raise OptionError(f"--half is --precision fp16, and --precision {request.precision} is given; leave one out")
    if backend == "cuda":
        return "fp16"
    warn("--half: XNNPACK models compute in fp32, whatever is asked for; exporting in fp32")
    return Request.precision


def _parallel(options: ExportOptions, jobs: int, slots: dict[str, int], machine: probe.Environment) -> int:
    return scheduler.default_parallel(
        options.backend, jobs, memory_bytes=machine.memory_bytes, gpu_slots=sum(slots.values())
    )


def _check_size(source: Source, options: ExportOptions) -> None:
    """Refuse an input size that the source's task cannot take; where only loading tells the task, that all refuse."""
    refusals = []
    stride = source.variant.weights.stride if source.variant else STRIDE
    native = source.variant.native if source.variant else None
    for task in [source.variant.task] if source.variant else TASKS.values():
        try:
            options.resolve(task, stride, native=native)
            return
        except OptionError as error:
            refusals.append(error)
    raise refusals[0]


def _weights_dir(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    folder = folder.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"--weights-dir {folder}: expected a folder, and this is a file; for one checkpoint: --models {folder}"
        )
    return folder


def _places(
    request: Request,
    sources: Sequence[Source],
    options: ExportOptions,
    weights_dir: Path | None,
    store: Store,
    kinds: Sequence[str],
) -> list[Source]:
    """Return the sources under the names of their artifacts, whose places can be written to.

    Raises:
        UsageError: a place cannot be written to, or has something that must not be replaced.
    """

    @functools.cache
    def identity(source: Source) -> Identity:
        return existing.identity_of(source, options, weights_dir)

    def places(name: str) -> list[str]:
        return [f"{kind}/{name}" for kind in kinds] or [name]

    def there(name: str) -> list[tuple[str, Manifest]]:
        found = [(store.where(place), store.manifest(place)) for place in places(name)]
        return [(where, manifest) for where, manifest in found if manifest is not None]  # a damaged one may be replaced

    def is_taken(name: str, source: Source) -> bool:
        return any(existing.is_another_runs(source, manifest, identity(source)) for _, manifest in there(name))

    named = list(sources) if request.name else naming.tell_apart(sources, is_taken)
    if not request.force:
        existing.refuse_to_replace(
            (where, manifest, identity(source)) for source in named for where, manifest in there(source.name)
        )
    names = [source.name for source in named]
    store.prepare([place for name in names for place in places(name)])
    return named


def _exit_status(records: Sequence[Record]) -> int:
    if any(record.outcome == "interrupted" for record in records):
        return 130
    return 0 if all(record.ok for record in records) else 1


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
