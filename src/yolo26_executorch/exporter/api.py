"""Exporting from Python, by the code of the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import errors
from ..models.options import parse_imgsz
from . import progress
from .request import Request, carry_out


def export(
    model: str | os.PathLike[str],
    *,
    base_path: str | os.PathLike[str] = Request.base_path,
    name: str | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    random_weights: bool = False,
    seed: int = 0,
    trust_checkpoint: bool = False,
    backend: str = "auto",
    arch: str | Sequence[str] = (),
    precision: str = "tf32",
    half: bool = False,
    imgsz: int | str | Sequence[int] = 640,
    batch: int = 1,
    outputs: str = "named",
    input: str = "float32",
    io: str = "host",
    autotune: str = "off",
    words: Sequence[str] = (),
    no_test: bool = False,
    skip_existing: bool = False,
    force: bool = False,
    devices: str | int | None = None,
    time_limit: float = 60,
    memory_limit: float = 0,
    retries: int = Request.retries,
    no_wait: bool = False,
    picture: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    debug: bool = False,
) -> Path:
    """Export one model to ExecuTorch, test it, and return the artifact's folder.

    The arguments are the flags of `yolo26-et export`, which also explains them. The export runs in a process of its
    own, so that nothing of it stays in this one, and is shown while it runs.

    Args:
        model: a variant's name, or the path of a `.pt` file.
        base_path: the folder that the artifact's own folder goes to.
        name: the artifact's folder; None names it after the model.
        weights_dir: where checkpoints are looked up first and downloaded to.
        random_weights: make up the weights of a published variant.
        seed: of random weights.
        trust_checkpoint: load a file that holds more than weights and known classes, and can run code.
        backend: "auto", "cuda" or "xnnpack".
        arch: compute capabilities of GPUs to export for, which need not be here, such as "8.6", or "all".
        precision: "tf32", "fp32", "fp16" or "bf16".
        half: "fp16" where the backend is CUDA; with XNNPACK it warns and has no effect.
        imgsz: input size in pixels: one number, (height, width), or "native".
        batch: static batch size.
        outputs: "named" or "ultralytics".
        input: "float32" or "uint8".
        io: "host" or "device".
        autotune: "off", "fast" or "full".
        words: the classes of an open-vocabulary model, such as yoloe-26n-seg.
        no_test: skip the smoke test.
        skip_existing: return the folder that is there, if it is what would be made.
        force: replace an artifact that was made from another checkpoint.
        devices: the GPU to export on, by its index.
        time_limit: minutes that it may take; 0 is no limit.
        memory_limit: GB (10^9 bytes) of memory that it may hold; 0 is no limit.
        retries: further tries after a download or the GPU's memory failed.
        no_wait: fail where another process is exporting to the same folder, instead of waiting for it.
        picture: an image that the test shows the model, with what the model finds in it; None is a bundled photograph,
            shown to all, with the answers of those that know what is on it.
        report: the outcome as JSON; None writes `report.json` in the base path.
        debug: keep the log.

    Raises:
        UsageError: the arguments are wrong, and nothing was done.
        ExportError: the model could not be exported; the subclass and the message say why.
        KeyboardInterrupt: it was interrupted.

    Examples:
        >>> folder = export("best.pt", imgsz=640, precision="fp16", name="mine")  # doctest: +SKIP
        >>> model = YOLO26(folder)  # doctest: +SKIP
    """
    word, place = os.fspath(model), os.fspath(base_path)
    if not word.endswith(".pt") and set(word) & set("*?["):
        raise errors.UsageError(f"{word}: expected one model, given a wildcard; call export for each")
    if not isinstance(imgsz, int | str | Sequence):
        raise errors.OptionError(f"imgsz={imgsz!r}: expected a number, (height, width) or 'native'; try imgsz=640")
    sizes = [imgsz] if isinstance(imgsz, (int, str)) else [*imgsz]
    request = Request(
        models=(word,),
        base_path=place if "://" in place else Path(place),
        name=name,
        weights_dir=None if weights_dir is None else Path(weights_dir),
        random_weights=random_weights,
        seed=seed,
        trust_checkpoint=trust_checkpoint,
        backend=backend,
        arch=(arch,) if isinstance(arch, str) else tuple(arch),
        precision=precision,
        half=half,
        imgsz=parse_imgsz([str(size) for size in sizes]),
        batch=batch,
        outputs=outputs,
        input=input,
        io=io,
        autotune=autotune,
        words=tuple(words),
        no_test=no_test,
        skip_existing=skip_existing,
        force=force,
        devices=None if devices is None else str(devices),
        time_limit=time_limit,
        memory_limit=memory_limit,
        retries=retries,
        no_wait=no_wait,
        picture=None if picture is None else Path(picture),
        report=None if report is None else Path(report),
        debug=debug,
    )
    result = carry_out(request, display=progress.display, warn=_warn)
    result.write_report()
    (record,) = result.records
    if record.outcome == "interrupted":
        raise KeyboardInterrupt
    if not record.ok or record.folder is None:
        kind = getattr(errors, record.error or "", None)
        if not isinstance(kind, type) or not issubclass(kind, errors.Yolo26Error):
            kind = errors.ExportError
        raise kind(f"{record.name}: {progress.failure(record)}")
    return Path(record.folder)


def _warn(message: str) -> None:
    print(f"warning: {errors.printable(message)}", file=sys.stderr, flush=True)
