"""What each model of a tree sees in a picture, drawn by Ultralytics."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.manifest import Manifest
from ..errors import Yolo26Error, first_line
from ..models.tasks import TASKS
from .tree import Tree

if TYPE_CHECKING:
    from ..models.preprocess import Image

_LONGER_SIDE = 640
"""Pixels of the sample picture."""
_DRAWN = 20
"""Objects drawn at most; untrained models see hundreds."""
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Sample:
    """What a model sees in a picture, drawn; or why that is not known."""

    words: str
    uri: str | None = None
    """The picture as a data: address."""
    width: int = 0
    height: int = 0


def draw(
    base: Path, tree: Tree, picture: Path, say: Callable[[str], None] = lambda _: None, *, only_meant: bool = False
) -> dict[str, Sample]:
    """Run every artifact that is intact on a picture; returns what they see, by `Entry.place`.

    Args:
        base: the tree's folder.
        tree: what is in it.
        picture: the picture's file.
        say: told the name of each model before it is run.
        only_meant: the picture is a bundled photograph: leave out models that do not know what is on it.

    Raises:
        InputError: the picture cannot be read.
    """
    from ..models import preprocess

    image = _shrunk(preprocess.read(picture))
    found = {}
    for entry in tree.entries:
        if entry.manifest and entry.outcome != "damaged":
            if only_meant and not preprocess.shows_on_samples(
                TASKS[entry.manifest.task], entry.manifest.classes.values()
            ):
                found[entry.place] = Sample(
                    "No sample picture: none of its classes is on the photograph; `yolo26-et report --picture FILE` "
                    "shows another."
                )
                continue
            say(entry.name)
            folder = base / entry.place if (base / entry.place).is_dir() else base
            found[entry.place] = _sample(folder, entry.manifest, image, picture.name)
    return found


def _sample(folder: Path, manifest: Manifest, image: Image, name: str) -> Sample:
    from ..vision.api import YOLO26
    from ..vision.results import KINDS
    from ..vision.validators import offline

    task = TASKS[manifest.task]
    try:
        with YOLO26(folder) as model, offline():
            [result] = model.predict(image[..., ::-1].copy())
            result, count = (result[:_DRAWN], len(result)) if task.ranked else (result, 0)
            drawn = result.plot(font=_font())[..., ::-1]
            words = KINDS[task.kind].words(result) or "(no detections)"
    except Yolo26Error as error:
        return Sample(f"No sample picture: it cannot run here. {' '.join(str(error).split())}")
    except Exception as error:  # whatever the libraries raise: one model must not cost the page
        return Sample(f"No sample picture: running it failed here. {type(error).__name__}: {first_line(error)}")
    more = f" (the {_DRAWN} most confident of {count})" if count > _DRAWN else ""
    return Sample(f"{name}: {words}{more}", *_jpeg(drawn))


def _shrunk(image: Image) -> Image:
    """Scale a picture down so that what is drawn on it stays legible in a page."""
    import numpy as np
    from PIL import Image

    shown = Image.fromarray(image)
    shown.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    return np.array(shown)


def _jpeg(image: Image) -> tuple[str, int, int]:
    """Return a picture as a data: address, and its width and height in pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_JPEG_QUALITY)
    height, width = image.shape[:2]
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", width, height


def _font() -> str:
    """Return a font that is here, or Ultralytics would look for its own at an address."""
    from matplotlib import font_manager

    return str(font_manager.findfont("DejaVu Sans"))
