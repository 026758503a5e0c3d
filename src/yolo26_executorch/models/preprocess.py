"""Images in, model inputs out: reading, fitting to the input's size, and random inputs for tests."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from .tasks import Task, TensorSpec

    Image = npt.NDArray[np.uint8]
    """RGB, uint8 (H, W, 3)."""


RANDOM_SEEDS = (1, 2)
"""Of the random inputs that an exported model is tested on."""


def read(path: Path) -> Image:
    """Read an image file, upright as its EXIF data says; returns RGB, uint8 (H, W, 3).

    Raises:
        InputError: no such file, not an image, a damaged one, one of more than eight bits a channel, or of a format
            whose package is not installed.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if missing := missing_package(path):
        raise InputError(f"{path} cannot be read: {missing}")
    try:
        with Image.open(path) as image:
            # Pillow would cut such values off at 255.
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{path} has more than 8 bits a channel ({image.mode}); save it as 8-bit PNG or JPEG")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"no image at {path}; check the path") from None
    # Ultralytics' patch of Image.open looks for more decoders, and raises ImportError where it may not install them.
    except (OSError, SyntaxError, ValueError, ImportError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); try a JPEG or PNG file") from None


def missing_package(path: Path) -> str | None:
    """Return what is to be installed before a file of this ending can be read, None where nothing is missing."""
    ending = path.suffix[1:].lower()
    if ending in {"heic", "heif"} and importlib.util.find_spec("pi_heif") is None:
        return f"{ending.upper()} needs the package pi-heif, which is not installed; pip install pi-heif"
    if ending == "avif":
        from PIL import features

        if not features.check("avif"):
            return "AVIF needs a newer Pillow; pip install -U 'pillow>=11.3'"
    return None


def suffixes() -> frozenset[str]:
    """Return the endings, such as ".jpg", of the files that Ultralytics takes for images."""
    from ultralytics.data.utils import IMG_FORMATS

    return frozenset(f".{name}" for name in IMG_FORMATS)


BUNDLED = ("bus.jpg", "zidane.jpg")
"""The photographs that Ultralytics ships: a bus with people, and two people."""


def sample_images() -> list[Path]:
    """Return the two photographs that Ultralytics ships."""
    from ultralytics.utils import ASSETS

    return [Path(ASSETS) / name for name in BUNDLED]


_ON_THEM = frozenset(
    {
        "person", "people", "persons", "pedestrian", "pedestrians", "human", "humans", "man", "woman", "bus", "buses",
        "minibus", "trolleybus",
    }
)  # fmt: skip
"""Words of class names that are on the photographs."""


def shows_on_samples(task: Task, names: Iterable[str]) -> bool:
    """Whether what a model finds on the photographs means something: it knows what is on them, or needs no classes."""
    words = (word for name in names for word in re.findall(r"[a-z]+", name.lower()))
    return not task.has_classes or not _ON_THEM.isdisjoint(words)


def bundled(word: str | Path) -> Path | None:
    """Return the photograph of a name where Ultralytics ships one and no such file is here, else None."""
    if str(word) not in BUNDLED or Path(word).exists():
        return None
    return sample_images()[BUNDLED.index(str(word))]


def fit(image: Image, size: tuple[int, int], task: Task) -> Image:
    """Bring an image to (height, width) in the way of the task; returns uint8 (height, width, 3)."""
    return task.fit(image, size)


def size_of(spec: TensorSpec) -> tuple[int, int]:
    """Return the height and the width, in pixels, of the images that a model's input takes."""
    height, width = spec.shape[1:3] if spec.dtype == "uint8" else spec.shape[2:]
    return height, width


def letterbox(image: Image, size: tuple[int, int]) -> tuple[Image, float, tuple[int, int]]:
    """Scale an image to fit inside (height, width) and pad it with grey 114, as Ultralytics' `LetterBox` does.

    Returns the image, uint8 (height, width, 3); its scale; and the padding (left, top) in pixels. A point of the
    input is `(point - padding) / scale` in the image.
    """
    from ultralytics.data.augment import LetterBox

    fitter = LetterBox(new_shape=size)
    placed: dict[str, Any] = fitter.get_params({"img": image})
    return fitter(image=image), float(placed["ratio"][0]), (int(placed["left"]), int(placed["top"]))


def fit_letterboxed(image: Image, size: tuple[int, int]) -> Image:
    """Return `letterbox`'s image alone."""
    return letterbox(image, size)[0]


def fit_stretched(image: Image, size: tuple[int, int]) -> Image:
    """Scale each side of an image to (height, width), as Ultralytics' depth predictor does; returns uint8 (H, W, 3)."""
    from ultralytics.data.augment import LetterBox

    fitted: Image = LetterBox(new_shape=size, scale_fill=True)(image=image)
    return fitted


def center_crop(image: Image, size: tuple[int, int]) -> Image:
    """Scale an image and cut out its middle, as Ultralytics' classification transform does without torchvision.

    For a square size the shorter side is scaled to it, and the longer side's ends are cut off; any other size is
    reached by scaling each side. Returns uint8 (height, width, 3).
    """
    import numpy as np
    from PIL import Image

    height, width = size
    scaled = size
    if height == width:
        shorter = min(image.shape[:2])
        scaled = (height * image.shape[0] // shorter, height * image.shape[1] // shorter)
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    resized = Image.fromarray(image).resize((scaled[1], scaled[0]), Image.Resampling.BILINEAR)
    return np.array(resized.crop((left, top, left + width, top + height)))


def to_input(images: npt.NDArray[np.uint8], spec: TensorSpec) -> torch.Tensor:
    """Turn images, uint8 (B, H, W, 3), into the input that `spec` describes, float32 NCHW or uint8 NHWC, contiguous.

    Raises:
        InputError: their shape or dtype is not what the model takes.
    """
    import numpy as np
    import torch

    expected = (spec.shape[0], *size_of(spec), 3)
    if images.shape != expected or images.dtype != np.uint8:
        raise InputError(f"expected images as uint8 {expected}, got {images.dtype} {images.shape}; `fit` makes them so")
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if spec.dtype == "uint8":
        return tensor
    # The official runtime reads memory in order whatever the strides say.
    return (tensor.permute(0, 3, 1, 2).float() / 255).contiguous()


def random_input(spec: TensorSpec, seed: int) -> torch.Tensor:
    """Make a random input in the format of `spec`: seeded noise at several scales, the finer the fainter, as in images.

    Independent pixels would be unlike any image: the first layers average them away, and everything after sees grey.
    """
    import torch
    from torch.nn.functional import interpolate

    batch, (height, width) = spec.shape[0], size_of(spec)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(batch, 3, height, width)
    for cells in (4, 16, 64):
        noise = torch.rand(batch, 3, cells, cells, generator=generator) * cells**-0.5
        total += interpolate(noise, size=(height, width), mode="bilinear")
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    images = ((total - low) / (high - low) * 255).round().to(torch.uint8)
    return to_input(images.permute(0, 2, 3, 1).numpy(), spec)
