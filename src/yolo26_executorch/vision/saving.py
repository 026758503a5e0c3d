"""Results on the disk: images, videos, labels and crops, by Ultralytics' names, each whole or told to be missing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
from PIL import Image
from ultralytics.utils.plotting import save_one_box

from ..errors import first_line
from .sources import name_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from ultralytics.engine.results import Results

    Drawn = npt.NDArray[np.uint8]
    """BGR, uint8 (H, W, 3)."""

NAME_BYTES = 255
"""The longest name of a file that the usual file systems take."""

JPEG_SIDE = 65_535
"""The most pixels of a JPEG's side."""

_VIDEO = (".mp4", "avc1") if sys.platform == "darwin" else (".avi", "MJPG")


class Saver:
    """Writes what `save`, `save_txt`, `save_crop` and `save_frames` ask for into one folder.

    A file is written aside and renamed, so that what lies there is whole; videos are checked when they are closed.
    """

    def __init__(self, folder: Path, settings: Any) -> None:
        """Take Ultralytics' settings as a namespace; nothing is written yet."""
        self.folder = folder
        self.saved = 0
        """Files that were written."""
        self.unsaved: dict[str, str] = {}
        """Files that could not be written, whole, and why."""
        self._settings = settings
        self._bases: dict[Any, str] = {}
        self._taken: set[str] = set()
        self._videos: dict[str, _Video] = {}

    def write(
        self, result: Results, drawn: Drawn | None, *, mode: str, frame: int | None, fps: float, key: Any
    ) -> None:
        """Write one result.

        Args:
            result: of one image or frame.
            drawn: the image with the result drawn in, where that is to be saved.
            mode: "image", "video" or "stream".
            frame: the frame's number, None for an image.
            fps: of the video that is written, frames a second.
            key: what the frames of one video have in common.
        """
        base = self._base(result.path, None if mode == "image" else key)
        label = base if mode == "image" else f"{base}_{frame}"
        if self._settings.save_txt:
            path = self.folder / "labels" / safe_name(label, ".txt")
            with_conf = self._settings.save_conf
            self._try(path, lambda part: result.save_txt(part, save_conf=with_conf), replace=True)
        if self._settings.save_crop:
            self._crops(result, label)
        if drawn is None or not self._settings.save:
            return
        if mode == "image":
            self._try(self.folder / safe_name(base, ".jpg"), lambda part: part.write_bytes(jpeg(drawn)))
            return
        path = self.folder / safe_name(base, _VIDEO[0])
        if base not in self._videos:
            self._videos[base] = _Video(path, fps, (drawn.shape[1], drawn.shape[0]))
        self._videos[base].write(drawn)
        if self._settings.save_frames:
            place = self.folder / safe_name(base, "_frames") / safe_name(label, ".jpg")
            self._try(place, lambda part: part.write_bytes(jpeg(drawn)))

    def close(self) -> None:
        """Finish the videos; those that are not whole go to `unsaved`."""
        for video in self._videos.values():
            why = video.close()
            if why is None:
                self.saved += 1
            else:
                self.unsaved[str(video.path)] = why
        self._videos.clear()

    def _crops(self, result: Results, label: str) -> None:
        boxes = result.boxes if result.obb is None else result.obb
        for box in () if boxes is None else boxes.cpu():
            folder = self.folder / "crops" / safe_name(result.names[int(box.cls.item())])
            path = self._free(folder, label)
            corners = box.xyxy if result.obb is None else box.xyxyxyxy
            crop = save_one_box(corners, result.orig_img.copy(), BGR=True, save=False)
            self._try(path, lambda part, crop=crop: part.write_bytes(jpeg_of_crop(crop)))  # type: ignore[misc]

    def _free(self, folder: Path, label: str) -> Path:
        """Return the name of a class' next crop: of several there are, or could not be saved, -2, -3 and so on."""
        path, count = folder / safe_name(label, ".jpg"), 1
        while path.exists() or str(path) in self.unsaved:
            count += 1
            path = folder / safe_name(f"{label}-{count}", ".jpg")
        return path

    def _base(self, path: str, key: Any) -> str:
        """Return the name of a source's results; sources of the same name get -2, -3 and so on."""
        if key is not None and key in self._bases:
            return self._bases[key]
        name = safe_name(name_of(path), room=NAME_BYTES - 24)  # the rest is for numbers and endings
        base, count = name, 1
        while base in self._taken:
            count += 1
            base = f"{name}-{count}"
        self._taken.add(base)
        if key is not None:
            self._bases[key] = base
        return base

    def _try(self, path: Path, write: Callable[[Path], object], *, replace: bool = False) -> None:
        """Write a file aside and rename it; `replace` also erases a former one where nothing was written."""
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(part)
            if part.exists():
                part.replace(path)
                self.saved += 1
            elif replace:
                path.unlink(missing_ok=True)
        # Pillow's and OpenCV's encoders raise the last three.
        except (OSError, ValueError, SystemError, cv2.error) as error:
            self.unsaved[str(path)] = first_line(error)
            with contextlib.suppress(OSError):
                part.unlink()


class _Video:
    """A video that is being written, by a library that does not tell when it cannot."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self._size, self._written = path, size, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_VIDEO[1]), fps, size)

    def write(self, drawn: Drawn) -> None:
        self._written += 1
        if (drawn.shape[1], drawn.shape[0]) == self._size:  # others would be dropped in silence
            self._writer.write(drawn)

    def close(self) -> str | None:
        """Return why the video is not whole, or None."""
        opened = self._writer.isOpened()
        self._writer.release()
        if not opened:
            return "the video could not be started: is the disk full, or the folder not to be written to?"
        reader = cv2.VideoCapture(str(self.path))
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.set(cv2.CAP_PROP_POS_FRAMES, self._written - 1)
        last = reader.grab()
        reader.release()
        if count >= self._written and last:
            return None
        return f"the video was cut: {min(count, self._written)} of {self._written} frames are in it; is the disk full?"


def jpeg(image: Drawn) -> bytes:
    """Return an image, BGR uint8 (H, W, 3), as a JPEG.

    Raises:
        ValueError: it is too large for one.
    """
    height, width = image.shape[:2]
    if max(height, width) > JPEG_SIDE:
        raise ValueError(f"a JPEG has at most {JPEG_SIDE} pixels a side, and the image is {width} x {height}")
    encoded, data = cv2.imencode(".jpg", image)
    if not encoded:
        raise ValueError(f"an image of {width} x {height} pixels could not be encoded as a JPEG")
    return data.tobytes()


def jpeg_of_crop(crop: Drawn) -> bytes:
    """Return a crop as the JPEG that Ultralytics makes of it: with colours at full resolution."""
    stream = io.BytesIO()
    Image.fromarray(crop[..., ::-1]).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def safe_name(text: str, ending: str = "", *, room: int = NAME_BYTES) -> str:
    """Return a text with an ending as the name of one file or folder, of at most `room` bytes, whatever is in it.

    What is no plain name, or too long, is changed, and then ends in a hash, so that different texts stay apart.
    """
    plain = re.sub(r"[/\\\x00-\x1f\x7f]", "_", text)
    if not plain.strip(". "):
        plain = "_"
    try:
        name = os.fsencode(plain)
    except UnicodeEncodeError:  # half a surrogate pair, or a letter that the file system's encoding lacks
        name = plain.encode(sys.getfilesystemencoding(), "replace")
    room -= len(ending)
    if os.fsdecode(name) == text and len(name) <= room:
        return text + ending
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: room - 9].decode(sys.getfilesystemencoding(), 'ignore')}-{digest}{ending}"
