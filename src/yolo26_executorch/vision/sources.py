"""Where images come from: files, folders, lists, addresses, arrays, cameras and streams.

Knows `ultralytics/data/loaders.py` (8.4).
"""

from __future__ import annotations

import csv
import glob
import importlib.util
import itertools
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image
from ultralytics.data.build import load_inference_source
from ultralytics.data.loaders import LOADERS, LoadImagesAndVideos, LoadPilAndNumpy, LoadTensor, SourceTypes
from ultralytics.data.utils import IMG_FORMATS, VID_FORMATS
from ultralytics.utils import NUM_THREADS
from ultralytics.utils.patches import PIL_FALLBACK_SUFFIXES, imread

from ..errors import InputError, UsageError, first_line
from ..models.preprocess import bundled, missing_package

TIMEOUT_S = 30
"""How long a server may be silent before an address is given up."""

_PARALLEL = 8
"""Images from which on several threads decode a batch, as in Ultralytics' loader."""

Batch = tuple[list[str], list[Any], list[str]]
"""Paths, images (BGR, uint8 (H, W, 3)) and what a log says of each."""


class Files(LoadImagesAndVideos):  # type: ignore[misc]
    """Images and videos of any number of files, addresses and arrays, one batch at a time.

    What cannot be read is left out: `problems` says why, and `unreadable` names it.
    """

    def __init__(self, source: Any, *, batch: int = 1, vid_stride: int = 1) -> None:
        """Look for files; nothing is read yet.

        Args:
            source: path, glob pattern, folder, list of paths (.txt, .csv) or address; or a list of such, of Pillow
                images and of arrays (BGR, uint8 (H, W, 3)), whose order is kept.
            batch: images at a time.
            vid_stride: take every n-th frame.

        Raises:
            InputError: there is nothing to read, or an array is no image.
        """
        self.problems: dict[str, str] = {}
        self.source_type = SourceTypes(False, False, False, False)
        self.bs, self.vid_stride = batch, vid_stride
        self.cap: Any = None
        self.frame = self.frames = self.count = 0
        self._fetched: dict[str, Path] = {}
        self._erase: weakref.finalize[Any, Files] | None = None
        self._batches: Iterator[Batch] = iter(())
        found = [*self._find(source)]
        self.files = [name for name, _ in found]
        self._images = [image for _, image in found]
        if not found:
            (name, why), *others = self.problems.items() or {"an empty list": "no image is in it"}.items()
            raise InputError(f"{name}: {why}{f' (and {len(others)} more)' if others else ''}")
        self.nf = len(found)
        self.video_flag = [image is None and _ending(name) in VID_FORMATS for name, image in found]
        self.ni = self.nf - sum(self.video_flag)
        self.mode = "image" if self.ni else "video"

    @property
    def unreadable(self) -> list[str]:
        """What was passed by so far without a single image or frame."""
        return [*self.problems]

    @property
    def done(self) -> float:
        """How many of the `nf` files are done, that of a video in the middle as a fraction."""
        in_video = self.mode == "video" and self.count < self.nf and self.frames
        return float(self.count) + (min(self.frame / self.frames, 1.0) if in_video else 0.0)

    def __iter__(self) -> Files:
        """Start anew."""
        self.count = 0
        self._batches = self._read()
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        return next(self._batches)

    def close(self) -> None:
        """Release the video, and erase what was fetched."""
        super().close()
        if self._erase is not None:
            self._erase()
            self._erase = None
            self._fetched.clear()

    def _find(self, source: Any) -> Iterator[tuple[str, Any]]:
        """Yield names and, where they are in memory, images; what is known to be unreadable goes to `problems`."""
        for index, item in enumerate([source] if isinstance(source, str | Path) else source):
            if isinstance(item, str | Path):
                yield from ((name, None) for name in self._find_files(item))
            else:
                yield str(getattr(item, "filename", "") or f"image{index}.jpg"), checked(item)

    def _find_files(self, word: str | Path) -> list[str]:
        """Return what a path, pattern, folder, list or address stands for: images, then videos."""
        if is_address(word):
            return [str(word)]
        path = bundled(word) or Path(word).absolute()
        found: list[str] = []
        if _ending(path.name) in {"txt", "csv"} and path.is_file():
            for line in sorted(_lines(path)):
                beside = path.parent / line
                there = is_address(line) or glob.glob(line, recursive=True)  # noqa: PTH207 (as Ultralytics does)
                found += self._find_files(line if there else beside)
        elif "*" in str(path) and not path.exists():
            matching = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
            found = [name for name in matching if _ending(name) in IMG_FORMATS | VID_FORMATS]
            if not found:
                self.problems[str(word)] = "no image or video fits the pattern"
        elif path.is_dir():
            inside = sorted(glob.glob(f"{glob.escape(str(path))}/*.*"))  # noqa: PTH207
            found = [name for name in inside if _ending(name) in IMG_FORMATS | VID_FORMATS]
            if not found:
                self.problems[str(word)] = (
                    f"no image or video is in this folder (folders inside are not searched; '{word}/**/*.jpg' does)"
                )
        elif not path.exists():
            self.problems[str(word)] = "no such file"
        elif _ending(path.name) not in IMG_FORMATS | VID_FORMATS:
            self.problems[str(path)] = wrong_ending(path)
        else:
            found = [str(path)]
        return sorted(found, key=lambda name: _ending(name) in VID_FORMATS)

    def _read(self) -> Iterator[Batch]:
        """Yield batches, none of which has both images and frames or frames of two videos."""
        batch: Batch = ([], [], [])
        while self.count < self.nf:
            if path := is_address(self.files[self.count]) and self._local(self.files[self.count]):
                self.video_flag[self.count] = _ending(path.name) in VID_FORMATS  # now that the server has told
            if self.video_flag[self.count]:
                if batch[0]:
                    yield batch
                    batch = ([], [], [])
                yield from self._read_video(self.files[self.count])
                self.count += 1
                continue
            self.mode = "image"
            ahead = range(self.count + 1, min(self.nf, self.count + self.bs - len(batch[0])))
            group = [self.count, *itertools.takewhile(self._is_local_image, ahead)]
            for index, image in zip(group, self._decode(group), strict=True):
                self.count += 1
                if image is not None:
                    _add(batch, self.files[index], image, f"image {self.count}/{self.nf} {self.files[index]}: ")
            if len(batch[0]) == self.bs:
                yield batch
                batch = ([], [], [])
        if batch[0]:
            yield batch

    def _is_local_image(self, index: int) -> bool:
        return not self.video_flag[index] and not is_address(self.files[index])

    def _read_video(self, name: str) -> Iterator[Batch]:
        batch: Batch = ([], [], [])
        self.mode, self.frame, self.frames = "video", 0, 0
        path = self._local(name)
        try:
            if path is not None:
                self._new_video(str(path))
        except FileNotFoundError:  # Ultralytics' word for whatever cannot be opened
            self.problems[name] = why_unreadable(Path(path or name))
            path = None
        while path is not None:
            if not all(self.cap.grab() for _ in range(self.vid_stride)):
                break
            there, image = self.cap.retrieve()
            if there and image is not None:
                self.frame += 1
                _add(
                    batch, name, image, f"video {self.count + 1}/{self.nf} (frame {self.frame}/{self.frames}) {name}: "
                )
            if len(batch[0]) == self.bs:
                yield batch
                batch = ([], [], [])
        if batch[0]:
            yield batch
        if path is not None:
            self.cap.release()
            if not self.frame:
                self.problems[name] = why_unreadable(path)

    def _decode(self, group: Sequence[int]) -> list[Any]:
        """Return the images of these numbers, None for those that cannot be read."""
        # Pillow registers the decoders of these when it needs them first, which no other thread may see.
        alone = any(Path(self.files[index]).suffix.lower() in PIL_FALLBACK_SUFFIXES for index in group)
        if len(group) < _PARALLEL or alone:
            return [self._image(index) for index in group]
        with ThreadPool(min(len(group), NUM_THREADS)) as pool:
            return pool.map(self._image, group)

    def _image(self, index: int) -> Any:
        name = self.files[index]
        if self._images[index] is not None:
            return LoadPilAndNumpy._single_check(self._images[index])
        path = self._local(name)
        if path is None:
            return None
        # Ultralytics would run pip for the package.
        image = None if missing_package(path) else imread(path)
        if image is None:
            self.problems[name] = why_unreadable(path)
        if name in self._fetched:  # a long list of addresses is not to fill the disk
            self._fetched.pop(name).unlink()
        return image

    def _local(self, name: str) -> Path | None:
        """Return where a file lies, an address' content fetched; None, with the problem told, where it cannot be."""
        if not is_address(name):
            return Path(name)
        if name not in self._fetched and name not in self.problems:
            if self._erase is None:
                self._folder = Path(tempfile.mkdtemp(prefix="yolo26-et-"))
                self._erase = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            try:
                self._fetched[name] = fetch(name, Path(tempfile.mkdtemp(dir=self._folder)))
            except InputError as error:
                self.problems[name] = str(error)
        return self._fetched.get(name)


def open_source(source: Any, *, batch: int = 1, vid_stride: int = 1, buffer: bool = False) -> Any:
    """Open whatever Ultralytics takes as a source, as the loader that it takes for it; a tensor is only checked.

    Args:
        source: path of an image, video, folder or list of paths (.txt, .csv); glob pattern; address of an image,
            video or stream; number of a camera; "screen"; image (Pillow), array (BGR, uint8 (H, W, 3)), list of
            such; tensor (RGB, 0..1, (B, 3, H, W) in the model's size); or a loader.
        batch: images at a time, from files.
        vid_stride: take every n-th frame.
        buffer: keep all of a stream's frames instead of the latest.

    Raises:
        InputError: there is no such source, nothing in it, or not of a kind that is taken.
        UsageError: a package that the source needs is not installed.
    """
    if isinstance(source, LOADERS):
        return source
    files: Any = source
    if isinstance(source, Image.Image | np.ndarray):
        files = [source]
    if isinstance(files, list | tuple):
        return Files(files, batch=batch, vid_stride=vid_stride)
    if isinstance(source, str | Path) and not is_stream(source):
        found = Files(source, batch=batch, vid_stride=vid_stride)
        if is_address(source) and found._local(str(source)) is None:
            raise InputError(f"{source}: {found.problems[str(source)]}")
        return found
    if str(source).partition(" ")[0].lower() == "screen" and importlib.util.find_spec("mss") is None:
        raise UsageError("the source 'screen' needs the package mss, which is not installed: pip install mss")
    name = source if isinstance(source, str | int | Path) else f"a {type(source).__name__}"
    try:
        loader = load_inference_source(source, batch=batch, vid_stride=vid_stride, buffer=buffer)
    except Exception as error:  # whatever OpenCV, mss and the packages for video sites raise
        why = first_line(error).removeprefix("❌ ")
        raise InputError(f"{name} cannot be used as a source: {why}{_hint(source)}") from None
    # Of all its loaders, the predictor does not know a tensor's again.
    return source if isinstance(loader, LoadTensor) else loader


def is_address(word: str | Path) -> bool:
    """Whether a word is an address that HTTP serves."""
    return str(word).lower().startswith(("http://", "https://"))


def is_stream(word: str | Path) -> bool:
    """Whether a word names a camera, the screen, or a stream without an end, instead of files."""
    text = str(word).lower()
    if text.isnumeric() or text.startswith(("rtsp://", "rtmp://", "tcp://")) or text.endswith(".streams"):
        return True
    if text.partition(" ")[0] == "screen":
        return not Path(word).exists()
    if not is_address(text) or _ending(urlsplit(text).path) in IMG_FORMATS | VID_FORMATS:
        return False
    import requests

    try:
        with requests.get(str(word), stream=True, timeout=TIMEOUT_S) as response:
            response.raise_for_status()
            return not response.headers.get("Content-Type", "").startswith(("image/", "video/"))
    except requests.RequestException as error:
        raise InputError(f"{word}: {_no_answer(error)}") from None


def fetch(address: str, folder: Path) -> Path:
    """Download what is at an address into a folder; returns the file, whose ending tells its kind.

    Raises:
        InputError: the server does not answer, or has no image or video there.
    """
    import mimetypes

    import requests

    try:
        with requests.get(address, stream=True, timeout=TIMEOUT_S) as response:
            response.raise_for_status()
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
            if kind.startswith("text/"):
                raise InputError(f"the server sent {kind}, which is no image or video")
            ending = _ending(urlsplit(address).path)
            if ending not in IMG_FORMATS | VID_FORMATS:
                ending = (mimetypes.guess_extension(kind) or ".jpg").removeprefix(".")
            path = folder / f"fetched.{ending}"
            with path.open("wb") as file:
                for part in response.iter_content(1 << 20):
                    file.write(part)
            return path
    except (requests.RequestException, OSError) as error:
        raise InputError(_no_answer(error)) from None


def checked(image: Any) -> Any:
    """Return an image in memory as it can be read: a Pillow image as it is, an array as uint8 or uint16.

    Raises:
        InputError: it is no image, or its values are not those of one.
    """
    if isinstance(image, Image.Image):
        if image.mode in {"I", "F"}:
            raise InputError(f"an image of mode {image.mode} cannot be used: convert it to 8 bits a channel")
        return image
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"a {type(image).__name__} cannot be used as an image: give a path, a Pillow image or an array"
        )
    if image.ndim not in {2, 3} or not all(image.shape):
        raise InputError(f"an array of shape {image.shape} cannot be used as an image: expected (H, W, 3), BGR")
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype.kind not in "iuf":
        raise InputError(f"an array of {image.dtype} cannot be used as an image: expected uint8, 0..255")
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise InputError(f"an array of {image.dtype} holds NaN or infinite values: expected uint8, 0..255")
    if image.dtype.kind == "f" and 0 < high <= 1 and low >= 0:
        raise InputError(
            f"an array of {image.dtype} in 0..1 cannot be told from a black image: give (image * 255).astype('uint8')"
        )
    if low < 0 or high > 255:
        raise InputError(f"an array of {image.dtype} in {low:g}..{high:g} is no image: expected uint8, 0..255")
    return np.rint(image).astype(np.uint8)


def why_unreadable(path: Path) -> str:
    """Return why a file gave no image."""
    try:
        if not path.stat().st_size:
            return "the file is empty"
        with path.open("rb"):
            pass
    except OSError as error:
        return first_line(error)
    return missing_package(path) or f"it is damaged, or not what its ending .{_ending(path.name)} says"


def wrong_ending(path: Path) -> str:
    """Say that a file's name does not tell what it is."""
    found = f"its ending .{_ending(path.name)} is not" if path.suffix else "its name has no ending; it must have"
    known = ", ".join(sorted(IMG_FORMATS)), ", ".join(sorted(VID_FORMATS))
    return f"{found} one of an image ({known[0]}) or a video ({known[1]}): rename it"


def _ending(name: str) -> str:
    return Path(name).suffix[1:].lower()


def _lines(path: Path) -> Iterable[str]:
    """Return the entries of a list of paths; a .csv may begin with the heading "source"."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of paths: {first_line(error)}") from None
    words = text.splitlines()
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(words) if row]
        words = [word for row in rows[rows[:1] == [["source"]] :] for word in row]
    return (word.strip() for word in words if word.strip())


def _add(batch: Batch, name: str, image: Any, words: str) -> None:
    for values, value in zip(batch, (name, image, words), strict=True):
        values.append(value)


def _no_answer(error: OSError) -> str:
    import requests

    if not isinstance(error, requests.RequestException):
        return f"it could not be stored: {first_line(error)}"
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    return f"the server does not answer ({type(error).__name__})"


def _hint(source: Any) -> str:
    """Return what to look at where a camera or stream could not be opened."""
    text = str(source).lower()
    if text.isnumeric():
        return f"; is a camera connected, and may you read /dev/video{text}?"
    return "; check the address and that the stream runs" if "://" in text else ""


def name_of(path: str) -> str:
    """Return the last part of a path or an address, without its ending, as a name for results."""
    return Path(unquote(urlsplit(path).path) if is_address(path) else path).stem
