from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from yolo26_executorch.models import preprocess
from yolo26_executorch.vision.api import YOLO26

SCRIPT = Path(__file__).parents[2] / "examples" / "ray_batch_inference.py"


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_it_counts_what_is_on_a_folder_of_pictures(
    tmp_path: Path, ray_cluster: str, exported: Callable[[str], Path]
) -> None:
    import pyarrow.parquet

    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in preprocess.sample_images():
        shutil.copy(path, folder)
    (folder / "zzz.jpg").write_bytes(b"no picture")
    words = [str(exported("detect")), str(folder), "--out", str(tmp_path / "found"), "--ray", ray_cluster]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with YOLO26(exported("detect")) as model:
        expected = {path.name: len(model.predict(path)[0].boxes) for path in preprocess.sample_images()}
    rows = pyarrow.parquet.read_table(tmp_path / "found").to_pylist()
    assert {Path(row["path"]).name: row["boxes"] and len(row["boxes"]) for row in rows} == {**expected, "zzz.jpg": None}
    lines = done.stdout.splitlines()
    assert lines[0] == f"{folder / 'zzz.jpg'}: OpenCV cannot read it as an image"
    assert lines[1] == f"{len(expected) + 1} images, {sum(expected.values())} objects:"
