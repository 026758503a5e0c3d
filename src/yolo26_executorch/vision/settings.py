"""What becomes of each of Ultralytics' settings with an exported model: honoured, refused with the reason, or idle.

Light to import, so that a command can judge its settings before anything is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import OptionError
from ..models.tasks import Task

HONOURED = frozenset(
    {
        "conf", "classes", "max_det", "retina_masks", "imgsz", "batch", "vid_stride", "stream_buffer", "tracker",
        "save", "save_dir", "save_txt", "save_conf", "save_crop", "save_frames", "project", "name", "exist_ok",
        "show", "show_labels", "show_conf", "show_boxes", "line_width", "verbose",
        "boxes", "hide_labels", "hide_conf", "line_thickness",  # former names
    }
)  # fmt: skip
"""Settings that do what they do in Ultralytics, where the task has what they are about."""

_BY_EXPORT = "it was settled by the export"

REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "model": ("it is the exported one", (None,)),
    "task": ("it is the exported model's", ()),
    "mode": ("call predict or track", ()),
    "source": ("it is the first argument", (None,)),
    "cfg": ("give the settings themselves", (None,)),
    "data": ("class names are the exported model's", (None,)),
    "device": ("a model runs where it was opened", (None,)),
    **dict.fromkeys(("half", "int8", "quantize", "dnn", "compile", "channels_last"), (_BY_EXPORT, (None, False))),
    **dict.fromkeys(("augment", "embed", "visualize"), ("it needs the PyTorch model", (None, False))),
    "agnostic_nms": ("the exported head ranks each class by itself", (None, False)),
    "nms": ("the exported head is the end-to-end one, which needs none", (None, False)),
    "end2end": ("the exported head is the end-to-end one", (None, True)),
}
"""Settings that would change the results and cannot be honoured: why, and the values that ask for nothing else."""

IDLE: dict[str, str] = {
    "iou": "nothing is suppressed, since the end-to-end head finds each object once",
    "rect": "the model takes images of one size",
    **dict.fromkeys(
        (
            "epochs", "time", "patience", "save_period", "cache", "workers", "pretrained", "cls_remap", "optimizer",
            "seed", "deterministic", "single_cls", "cos_lr", "close_mosaic", "resume", "amp", "fraction", "profile",
            "freeze", "multi_scale", "overlap_mask", "mask_ratio", "dropout", "val", "split", "save_json", "plots",
            "format", "optimize", "dynamic", "simplify", "opset", "workspace", "lr0", "lrf", "momentum",
            "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr", "distill_model", "dis", "box", "cls",
            "cls_pw", "dfl", "pose", "kobj", "rle", "angle", "dlog", "dgrad", "dlam", "nbs", "hsv_h", "hsv_s", "hsv_v",
            "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "bgr", "mosaic", "mixup",
            "cutmix", "copy_paste", "copy_paste_mode", "auto_augment", "erasing", "augmentations",
            "label_smoothing", "save_hybrid", "crop_fraction", "keras",
        ),
        "it is one of training, validation or export",
    ),
}  # fmt: skip
"""Settings without an effect, in Ultralytics' prediction as well or because of the head: why."""

SWITCHES = frozenset(
    {
        "save", "save_txt", "save_conf", "save_crop", "save_frames", "exist_ok", "show", "show_labels", "show_conf",
        "show_boxes", "verbose", "retina_masks", "stream_buffer", "boxes", "hide_labels", "hide_conf", "half", "int8",
        "dnn", "compile", "channels_last", "augment", "visualize", "agnostic_nms", "nms", "end2end", "rect",
        "deterministic", "single_cls", "cos_lr", "resume", "profile", "overlap_mask", "val", "save_json", "plots",
        "optimize", "dynamic", "simplify", "cls_remap",
    }
)  # fmt: skip
"""Settings that are true or false; on a command line they stand without a value."""

_OUTPUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("conf", "max_det", "save_conf", "save_crop", "show_boxes", "line_width", "boxes"), ("detections",)
    ),
    "classes": ("detections", "classes"),
    "save_txt": ("detections", "probabilities"),
    "retina_masks": ("masks",),
}
"""The outputs that a setting is about; one of them is to be there."""

_TOGETHER = {"save_frames": ("save",), "save_conf": ("save_txt",)}
"""Settings that do nothing without another one."""


def check_settings(
    given: Mapping[str, Any], *, task: Task, size: Sequence[int], rows: int | None, mode: str = "predict"
) -> list[str]:
    """Judge settings for an exported model; returns what is to be said of those that have no effect.

    Args:
        given: Ultralytics' settings by name.
        task: the model's.
        size: height and width of the model's input, pixels.
        rows: the most objects that the model gives, None where it gives none.
        mode: "predict" or "track".

    Raises:
        OptionError: a setting is unknown, or cannot be honoured.
    """
    known = HONOURED | REFUSED.keys() | IDLE.keys()
    notes = []
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, HONOURED, 3) or difflib.get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see docs.ultralytics.com/usage/cfg"
            raise OptionError(f"{name}={value}: there is no such setting; {hint}")
        if name in REFUSED:
            why, harmless = REFUSED[name]
            same = value == {"task": task.name, "mode": mode}.get(name, ...)
            if not same and not any(value is one for one in harmless):
                raise OptionError(f"{name}={value}: {why}; leave it out")
        elif name in IDLE:
            if value is None or (value is False and name in SWITCHES):
                continue
            notes.append(f"{name}={value} has no effect: {IDLE[name]}")
        elif name in _OUTPUTS and not {*_OUTPUTS[name]} & {row.name for row in task.named}:
            notes.append(f"{name}={value} has no effect: a {task.name} model has no {_OUTPUTS[name][0]}")
        elif value and not all(given.get(other) for other in _TOGETHER.get(name, ())):
            notes.append(f"{name}={value} has no effect without {' and '.join(_TOGETHER[name])}=True")
    if mode != "track" and given.get("tracker") is not None:
        notes.append(f"tracker={given['tracker']} has no effect without tracking")
    _check_numbers(given, size, rows)
    return notes


def _check_numbers(given: Mapping[str, Any], size: Sequence[int], rows: int | None) -> None:
    most = given.get("max_det")
    if rows is not None and isinstance(most, int) and most > rows:
        raise OptionError(f"max_det={most}: this model was exported with {rows} rows, so that it finds at most {rows}")
    batch = given.get("batch", 1)
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise OptionError(f"batch={batch}: expected a number of images from 1 up")
    wanted = given.get("imgsz")
    if wanted is None:
        return
    pair = [wanted] * 2 if isinstance(wanted, int) else wanted
    if not isinstance(pair, Sequence) or list(pair) != list(size):
        raise OptionError(
            f"imgsz={wanted}: this model was exported for {size[0]} x {size[1]} pixels; leave it out, or export again "
            "with another --imgsz"
        )
