"""Ultralytics' trackers over an exported model: which there are, what they need, and their errors in words.

Light to import, so that a command can refuse a tracker before anything is loaded. Knows
`ultralytics/trackers/track.py` (8.4).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import OptionError, UsageError, Yolo26Error, first_line
from ..models.tasks import TASKS

TRACKING_CONFIDENCE = 0.1
"""Trackers make use of weak detections; Ultralytics' own default for them."""

_OPTIONAL = {"model"}
"""Keys of a tracker's file that may be missing."""


def check_tracking(task: str, tracker: str | Path | None = None) -> str | None:
    """Refuse tracking where it cannot work; returns the path of the tracker's file, where one is named.

    Raises:
        UsageError: the task has no objects, or `lap`, which Ultralytics' trackers need, is not installed.
        OptionError: there is no such tracker, or its file is not complete.
    """
    if not TASKS[task].ranked:
        raise UsageError(f"a {task} model finds no objects that could be tracked; take one of another task")
    if importlib.util.find_spec("lap") is None:
        raise UsageError("tracking needs the package lap, which is not installed: pip install 'lap>=0.5.12'")
    return None if tracker is None else str(_find(tracker))


def register(predictor: Any, *, persist: bool) -> None:
    """Make a predictor track; an error of the tracker is an OptionError then.

    Args:
        predictor: Ultralytics' predictor of mode "track".
        persist: go on with the objects that it has.
    """
    from ultralytics.trackers import register_tracker

    register_tracker(predictor, persist)
    for event in ("on_predict_start", "on_predict_postprocess_end"):
        predictor.callbacks[event] = [
            _in_words(callback) if isinstance(callback, functools.partial) else callback
            for callback in predictor.callbacks[event]
        ]


def _in_words(callback: functools.partial[None]) -> Callable[[Any], None]:
    def call(predictor: Any) -> None:
        try:
            callback(predictor)
        except Yolo26Error:
            raise
        except Exception as error:  # whatever a tracker makes of its file
            what = f"{type(error).__name__}: {first_line(error)}"
            raise OptionError(f"tracker={predictor.args.tracker} does not work: {what}") from error

    # Ultralytics finds its callbacks again by this, to replace instead of stacking them.
    call.func = callback.func  # type: ignore[attr-defined]
    return call


def _find(tracker: str | Path) -> Path:
    known = _known()
    path = Path(tracker) if Path(tracker).is_file() else known.get(str(tracker)) or known.get(f"{tracker}.yaml")
    if path is None:
        raise OptionError(f"tracker={tracker}: no such file, and none of the trackers {', '.join(known)}")
    if path in known.values():
        return path
    content = _read(path)
    kind = f"{content.get('tracker_type')}.yaml"
    if kind not in known:
        raise OptionError(f"tracker={path}: its tracker_type is none of {', '.join(Path(name).stem for name in known)}")
    default = _read(known[kind])
    if missing := sorted(default.keys() - content.keys() - _OPTIONAL):
        raise OptionError(
            f"tracker={path} lacks {', '.join(missing)}; start from a copy of {known[kind]}, or take one of "
            f"{', '.join(known)}"
        )
    for key, value in default.items():
        given = content.get(key, value)
        numbers = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(given, int | float if numbers else type(value)):
            raise OptionError(f"tracker={path}: {key}: {given!r} is no {type(value).__name__}, such as {value!r}")
    return path


def _known() -> dict[str, Path]:
    """Return the files of Ultralytics' own trackers by name, without importing it."""
    spec = importlib.util.find_spec("ultralytics")
    places = (spec.submodule_search_locations if spec is not None else None) or []
    return {path.name: path for place in places for path in sorted(Path(place, "cfg", "trackers").glob("*.yaml"))}


def _read(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped,unused-ignore]

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OptionError(f"tracker={path} cannot be read: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise OptionError(f"tracker={path} is no tracker's file: expected lines such as tracker_type: bytetrack")
    return content
