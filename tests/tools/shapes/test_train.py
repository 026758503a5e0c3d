from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from shapes import train
from support import load_tool
from yolo26_executorch.models.tasks import TASKS

WEIGHTS = Path(__file__).parents[2] / "weights"


def test_every_task_has_a_recipe_and_begins_with_one_that_is_trained_before() -> None:
    assert set(train.RECIPES) == set(TASKS)
    order = list(train.RECIPES)
    for name, recipe in train.RECIPES.items():
        assert recipe.start_from is None or order.index(recipe.start_from) < order.index(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's and Ultralytics' own, about a training this small
def test_a_training_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.utils import callbacks

    monkeypatch.setattr(train, "VALIDATION", 3)
    recipe = train.Recipe(epochs=2, imgsz=64, batch=4, pictures=4)
    epochs: list[int] = []

    def begin(trainer: Any) -> None:
        epochs.append(trainer.epoch)

    def cut(trainer: Any) -> None:
        raise KeyboardInterrupt

    defaults = callbacks.default_callbacks
    monkeypatch.setitem(defaults, "on_train_epoch_start", [begin])
    monkeypatch.setitem(defaults, "on_model_save", [cut])

    def run() -> dict[str, Any]:
        return train.train(TASKS["detect"], tmp_path / "weights", tmp_path, recipe=recipe, device="cpu")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert epochs == [0]
    assert not (tmp_path / "weights").exists()
    monkeypatch.setitem(defaults, "on_model_save", [])
    record = run()
    assert epochs == [0, 1]
    with zipfile.ZipFile(tmp_path / "weights" / record["file"]) as archive:
        [pickled] = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    assert str(tmp_path).encode() not in pickled
    assert 0 <= record["metrics"]["metrics/mAP50-95(B)"] <= 1
    assert record["recipe"]["epochs"] == 2
    # Once more finds the training at its end.
    run()
    assert epochs == [0, 1]


def test_a_checkpoint_does_not_say_where_it_was_trained(tmp_path: Path) -> None:
    import torch

    network = torch.nn.Identity()
    network.args = {"data": "/secret/data.yaml"}  # type: ignore[assignment]
    network.yaml_file = "/secret/yolo26n.yaml"  # type: ignore[assignment]
    content = {"model": network, "train_args": {"project": Path("/secret/runs"), "epochs": 3}}
    for git in ({"root": "/secret", "branch": "main"}, None):
        torch.save({**content, "git": git}, tmp_path / "last.pt")
        train._without_paths(tmp_path / "last.pt", tmp_path / "made.pt")
        found = torch.load(tmp_path / "made.pt", weights_only=False)
        assert "/secret" not in f"{found} {vars(found['model'])}"
        assert found["train_args"] == {"project": "runs", "epochs": 3}


def test_what_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "yolo26n-shapes-seg.pt").write_bytes(b"mine")
    assert load_tool("train").main(["--output", str(tmp_path), "--tasks", "segment"]) == 0
    assert "remove it to train it again" in capsys.readouterr().out
    assert (tmp_path / "yolo26n-shapes-seg.pt").read_bytes() == b"mine"
