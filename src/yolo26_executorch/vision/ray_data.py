"""Batch inference with Ray Data: an exported model as the callable that `map_batches` takes.

    import ray
    from yolo26_executorch.vision.ray_data import YOLO26Predictor

    images = ray.data.read_images("s3://bucket/images", include_paths=True)
    found = images.map_batches(
        YOLO26Predictor, fn_constructor_kwargs={"artifact": "yolo26_cuda_exports/yolo26n"}, batch_size=16, num_gpus=1,
        compute=ray.data.ActorPoolStrategy(size=4))
    found.write_parquet("found")

`examples/ray_batch_inference.py` is a whole program.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_line
from ..models.tasks import TASKS
from .api import YOLO26
from .results import KINDS

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ("image", "bytes", "path", "item")
"""Columns that are searched for images, as `read_images`, `read_binary_files` and `from_items` name them."""


class YOLO26Predictor:
    """Predict on images: a row for each, in the order given. Everything but running the model is Ultralytics'.

    An image is an array (uint8 (H, W, 3), RGB), the bytes of a file, or the path of one; sizes may differ. The columns
    it came with are kept, except arrays and bytes of images. Added are, in pixels of the image:

        boxes         (n, 4) x1, y1, x2, y2; of rotated boxes, what encloses them; null where the task has none
        rotated       (n, 5) centre, width, height, angle in radians; null where the task has none
        classes       (n,) index; of a classifier the top five, of a class map those in it; null for depths
        names         (n,) the class names
        confidences   (n,) 0..1; null for maps
        keypoints     (n, k, 2 or 3) x, y and where the model has it visibility 0..1; null where the task has none
        masks         (n, points, 2) polygon of each, as --save-txt has it; null where the task has none
        class_map     (h, w) the class of each pixel; null where the task has none
        depth         (h, w) the distance of what each pixel shows, metres; null where the task has none
        error         why the image could not be read, else null; one bad file does not end a long run
    """

    def __init__(
        self, artifact: str | Path, *, runner: str = "auto", column: str | None = None, **settings: Any
    ) -> None:
        """Open an artifact, once for each worker.

        Args:
            artifact: its folder, on every machine.
            runner: see `open_runner`.
            column: where the images are; None takes the first of `COLUMNS` that is there.
            settings: Ultralytics' for predicting, such as `conf` and `classes`; see `YOLO26.predict`.

        Raises:
            ArtifactError: as `open_runner`.
        """
        self._model = YOLO26(artifact, runner=runner)
        self._column = column
        self._settings = settings

    def __call__(self, batch: Mapping[str, Any]) -> pyarrow.Table:
        """Run a batch.

        Args:
            batch: arrays (rows, …) by column, as `map_batches` gives them.

        Raises:
            InputError: no such column, or what is in it is not an image.
            OptionError: a setting is not legal.
        """
        import pyarrow

        column = self._column or next((name for name in COLUMNS if name in batch), None)
        if column is None or column not in batch:
            raise InputError(
                f"no images in the columns {', '.join(batch)}: expected {column or ', '.join(COLUMNS)}; name it "
                'with fn_constructor_kwargs={"column": …}'
            )
        images, errors = [], []
        for value in batch[column]:
            image, error = _read(value)
            errors.append(error)
            if image is not None:
                images.append(image)
        results = iter(self._model.predict(images, **self._settings) if images else [])
        columns = KINDS[TASKS[self._model.task].kind].columns
        rows = [{"error": error} if error else columns(next(results)) for error in errors]
        kept = [name for name in batch if name != column or all(isinstance(value, str) for value in batch[name])]
        found = pyarrow.Table.from_pylist(rows, schema=_schema())
        for place, name in enumerate(kept):
            values = [value.tolist() if isinstance(value, np.ndarray) else value for value in batch[name]]
            found = found.add_column(place, name, pyarrow.array(values))
        return found


def _schema() -> pyarrow.Schema:
    """Return the columns added, whose types must not depend on what a batch happens to hold."""
    import pyarrow as pa

    rows = pa.list_(pa.list_(pa.float32()))
    return pa.schema(
        {
            "boxes": rows,
            "rotated": rows,
            "classes": pa.list_(pa.int32()),
            "names": pa.list_(pa.string()),
            "confidences": pa.list_(pa.float32()),
            "keypoints": pa.list_(rows),
            "masks": pa.list_(rows),
            "class_map": pa.list_(pa.list_(pa.int32())),
            "depth": rows,
            "error": pa.string(),
        }
    )


def _read(value: Any) -> tuple[NDArray[np.uint8] | None, str | None]:
    """Return an image as Ultralytics' predictors take it (uint8 (H, W, 3), BGR), or why it cannot be read."""
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
            raise InputError(f"expected images of uint8 (H, W, 3), RGB; given {value.dtype} {value.shape}")
        return np.ascontiguousarray(value[..., ::-1]), None
    if not isinstance(value, str | bytes):
        raise InputError(f"expected images as arrays, bytes or paths; given {type(value).__name__}")
    import cv2

    try:
        data = Path(value).read_bytes() if isinstance(value, str) else value
        # As Ultralytics reads files.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except (OSError, cv2.error) as error:
        return None, first_line(error)
    return (None, "OpenCV cannot read it as an image") if image is None else (image, None)
