"""What people type: Ultralytics' words, near misses, and the line that is told instead."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from support import make_manifest, publish, shapes_checkpoint
from yolo26_executorch import cli
from yolo26_executorch.cli import export as export_command
from yolo26_executorch.cli import predict as predict_command
from yolo26_executorch.errors import UsageError
from yolo26_executorch.models.preprocess import BUNDLED


def parsed(line: str) -> Any:
    return cli._parse(shlex.split(line))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("export yolo26n", "export --models yolo26n"),
        ("export yolo26n.pt", "export --models yolo26n.pt"),
        ("export yolo26n yolo26s-seg --imgsz 320", "export --models yolo26n yolo26s-seg --imgsz 320"),
        ("export --imgsz 640 yolo26n", "export --imgsz 640 --models yolo26n"),
        ("export --imgsz 640,480 yolo26n", "export --imgsz 640 480 --models yolo26n"),
        ("export model=yolo26n.pt imgsz=640,480", "export --models yolo26n.pt --imgsz 640 480"),
        ("export model=yolo26n imgsz=[640,480]", "export --models yolo26n --imgsz 640 480"),
        ("export model=yolo26n imgsz=640x480", "export --models yolo26n --imgsz 640 480"),
        ("export model=yolo26n.pt format=executorch half=True", "export --models yolo26n.pt --half"),
        ("export yolo26n --half --device 0", "export --models yolo26n --half --devices 0"),
        ("export yolo26n device=0,1", "export --models yolo26n --devices 0,1"),
        ("export yolo26n device=cuda:1", "export --models yolo26n --devices 1"),
        ("export yolo26n device=cpu", "export --models yolo26n --backend xnnpack"),
        ("export yolo26n --device cpu", "export --models yolo26n --backend xnnpack"),
        ("export yolo26n half=False", "export --models yolo26n"),
        ("export yolo26n backend=xnnpack batch=4", "export --models yolo26n --backend xnnpack --batch 4"),
        ("export yolo26n skip_existing=True no-test=1", "export --models yolo26n --skip-existing --no-test"),
        ("export yolo26n project=out name=mine", "export --models yolo26n --base-path out --name mine"),
        ("export yolo26n dynamic=False verbose=True", "export --models yolo26n"),
        ("detect export model=yolo26n.pt", "export --models yolo26n.pt"),
        ("mode=export model=yolo26n.pt", "export --models yolo26n.pt"),
        ("export --format executorch --models yolo26n", "export --models yolo26n"),
        ("export --model runs/best.pt --half", "export --models runs/best.pt --half"),
        ("export --weights best.pt --img 640", "export --models best.pt --imgsz 640"),
        ("export weights=best.pt img_size=640 batch_size=2", "export --models best.pt --imgsz 640 --batch 2"),
        ("export model = best.pt imgsz= 640 half =True", "export --models best.pt --imgsz 640 --half"),
        ("export best.pt imgsz=640 480 batch=1", "export --models best.pt --imgsz 640 480 --batch 1"),
        ("export detect model=yolo26n.pt", "export --models yolo26n.pt"),
        ("export best.pt half skip_existing", "export --models best.pt --half --skip-existing"),
    ],
)
def test_an_export_as_ultralytics_users_type_it(typed: str, meant: str) -> None:
    found, expected = vars(parsed(typed)), vars(parsed(meant))
    for args in (found, expected):
        args["models"] = [*args.pop("named"), *args["models"]]
        del args["argv"]
    assert found == expected


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("predict model=ART source=a.jpg conf=0.4 save=True", "predict ART a.jpg --conf 0.4 --save"),
        ("predict ART a.jpg b.jpg save_txt=True", "predict ART a.jpg b.jpg --save-txt"),
        ("predict --conf 0.4 ART a.jpg", "predict ART a.jpg --conf 0.4"),
        ("predict ART a.jpg classes=0,2", "predict ART a.jpg --classes 0 2"),
        ("predict ART a.jpg show_labels=False", "predict ART a.jpg --no-show-labels"),
        ("predict ART a.jpg device=1", "predict ART a.jpg --device 1"),
        ("track ART video.mp4", "predict --track ART video.mp4"),
        (
            "track model=ART source=video.mp4 tracker=bytetrack.yaml",
            "predict ART video.mp4 --track --tracker bytetrack.yaml",
        ),
        ("segment predict model=ART source=0", "predict ART 0"),
        ("benchmark model=ART", "bench ART"),
        ("val model=ART data=d.yaml", "val ART --data d.yaml"),
        ("predict detect model=ART source=a.jpg save", "predict ART a.jpg --save"),
        ("predict --weights ART --source a.jpg --conf-thres 0.4", "predict ART a.jpg --conf 0.4"),
        ("predict ART a.jpg device=cpu", "predict ART a.jpg --device cpu"),
        ("predict ART a.jpg --device cuda:1", "predict ART a.jpg --device 1"),
    ],
)
def test_other_commands_as_ultralytics_users_type_them(typed: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.artifacts, "find_artifact", lambda *_: None)
    found, expected = vars(parsed(typed)), vars(parsed(meant))
    del found["argv"], expected["argv"]
    assert found == expected


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("export yolo26n iou=0.5", "iou=0.5 has no effect: YOLO26's end-to-end head gives final objects"),
        ("export yolo26n --iou 0.5", "--iou 0.5 has no effect: YOLO26's end-to-end head"),
        ("export yolo26n --iou-thres=0.5", "--iou-thres=0.5 has no effect: YOLO26's end-to-end head"),
        ("export yolo26n nms=True", "nms=True has no effect"),
        ("export yolo26n --simplify", "--simplify has no effect: it belongs to other export formats"),
        ("predict ART a.jpg iou=0.5", "iou=0.5 has no effect"),
        ("predict ART a.jpg half=True", "half=True has no effect: the precision was settled by the export"),
        ("predict ART a.jpg --half", "--half has no effect: the precision was settled by the export"),
        ("val ART data=d.yaml imgsz=640 batch=16", "batch=16 has no effect: the export settled the size and the batch"),
        ("benchmark model=ART imgsz=640 half=False", "imgsz=640 has no effect"),
    ],
)
def test_what_has_no_effect_is_told(
    typed: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.artifacts, "find_artifact", lambda *_: None)
    parsed(typed)
    assert f"yolo26-et: warning: {told}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("exprot yolo26n", "no command exprot; did you mean `yolo26-et export yolo26n`?"),
        ("pedict a b", "no command pedict; did you mean `yolo26-et predict a b`?"),
        ("frobnicate", "no command frobnicate; `yolo26-et --help` shows them: export, predict"),
        ("export --presicion fp16", "did you mean --precision? `yolo26-et export --help`"),
        ("export yolo26n presicion=fp16", "did you mean precision=fp16?"),
        ("export yolo26n format=onnx", "format=onnx: this command makes ExecuTorch programs alone"),
        ("export yolo26n --format onnx", "ExecuTorch programs alone"),
        ("export yolo26n dynamic=True", "dynamic=True: shapes are fixed when a model is exported"),
        ("export yolo26n end2end=False", "the end-to-end head is the one that is exported"),
        ("export yolo26n half=maybe", "half=maybe: expected True or False"),
        ("export yolo26n device=mps", "expected cpu or a GPU's number"),
        ("predict", "`yolo26-et predict --help`"),
        ("", "no command; `yolo26-et export best.pt` exports, `yolo26-et predict best.pt bus.jpg` runs"),
        ("train data=a.yaml model=yolo26n.pt", "no command train here; type `yolo train data=a.yaml model=yolo26n.pt`"),
        ("checks", "type `yolo26-et doctor`"),
        ("version", "type `yolo26-et --version`"),
        ("best.pt", "did you mean `yolo26-et export best.pt`?"),
        ("yolo26n --half", "did you mean `yolo26-et predict yolo26n --half`?"),
        ("best.pt bus.jpg", "did you mean `yolo26-et predict best.pt bus.jpg`?"),
        ("model=best.pt source=bus.jpg", "did you mean `yolo26-et predict model=best.pt source=bus.jpg`?"),
        ("model=best.pt half=True", "did you mean `yolo26-et export model=best.pt half=True`?"),
        ("predict ART a.jpg --weight-deca 1", "no flag --weight-deca; `yolo26-et predict --help` shows what it takes"),
    ],
)
def test_what_cannot_be_is_told_with_what_to_type(typed: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        parsed(typed)
    assert told in str(raised.value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an artifact in exports/ and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    publish(tmp_path / "exports", make_manifest(origin="user", name="yolo26n-shapes"))
    (tmp_path / "best.pt").symlink_to(shapes_checkpoint("detect"))
    (tmp_path / "a.jpg").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "predict yolo26n-shapes a.jpg",
            "no artifact at yolo26n-shapes; did you mean `yolo26-et predict exports/yolo26n-shapes a.jpg`?",
        ),
        ("inspect yolo26n-shapes", "did you mean `yolo26-et inspect exports/yolo26n-shapes`?"),
        ("bench yolo26n-shapes", "did you mean `yolo26-et bench exports/yolo26n-shapes`?"),
        (
            "predict best.pt a.jpg",
            "best.pt is to be exported before it can run: type `yolo26-et predict best.pt a.jpg --export`, or "
            "`yolo26-et export best.pt` first",
        ),
        ("predict yolo26n a.jpg --save", "type `yolo26-et predict yolo26n a.jpg --save --export`"),
        ("val yolo26n.pt --data d.yaml", "type `yolo26-et export yolo26n.pt` first"),
        ("predict none.pt a.jpg", "no such artifact or checkpoint: none.pt"),
        ("predict exports/yolo26n-shapes/model.pte a.jpg", "type `yolo26-et predict exports/yolo26n-shapes a.jpg`"),
        ("predict model=exports source=a.jpg", "type `yolo26-et predict model=exports/yolo26n-shapes source=a.jpg`"),
        (
            "predict model=yolo26n-shapes source=a.jpg",
            "did you mean `yolo26-et predict model=exports/yolo26n-shapes source=a.jpg`?",
        ),
    ],
)
def test_an_artifact_that_is_elsewhere_or_not_made_yet(here: Path, typed: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        parsed(typed)
    assert told in str(raised.value)


def test_a_word_with_an_equals_sign_may_be_a_file(here: Path) -> None:
    (here / "a=b.jpg").touch()
    assert parsed("predict exports/yolo26n-shapes a=b.jpg").source == ["a=b.jpg"]


def test_a_file_of_a_variants_name_comes_before_the_variant(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yolo26_executorch.models.checkpoints import find_sources

    assert find_sources(["yolo26n.pt"])[0].path is None
    (here / "yolo26n.pt").symlink_to(shapes_checkpoint("detect"))
    assert find_sources(["yolo26n.pt"])[0].path == here / "yolo26n.pt"


def test_predict_exports_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def made(model: Path) -> Path:
        asked.append(str(model))
        return here / "exports" / "missing"

    monkeypatch.setattr(predict_command, "_exported", made)
    assert cli.main(["predict", "best.pt", "a.jpg", "--export"]) == 1
    assert asked == ["best.pt"]


def test_what_predict_exports_first_is_not_shown_among_results(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(model: str, *, skip_existing: bool) -> Path:
        print(f"{model}: load, stage 1 of 5")
        return here / "exports" / "best"

    monkeypatch.setattr("yolo26_executorch.exporter.api.export", export)
    assert predict_command._exported(Path("best.pt")) == here / "exports" / "best"
    assert capsys.readouterr() == ("", "best.pt: load, stage 1 of 5\n")


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_photographs_are_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = Path(predict_command._bundled(name))
    assert found.name == name and found.is_file()
    (tmp_path / name).touch()
    assert predict_command._bundled(name) == name


def test_models_stand_with_and_without_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def carried_out(request: Any, **_: Any) -> Any:
        asked.append(request.models)
        raise UsageError("enough")

    monkeypatch.setattr(export_command, "carry_out", carried_out)
    assert cli.main(["export", "yolo26s", "--models", "yolo26n", "yolo26m"]) == 2
    assert asked == [("yolo26s", "yolo26n", "yolo26m")]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--hlep", "no flag --hlep without a command; did you mean `yolo26-et --help`?"),
        ("--foo", "no flag --foo without a command; a command goes before flags; `yolo26-et --help` shows them"),
        ("--imgsz 320 export yolo26n", "did you mean `yolo26-et export --imgsz 320 yolo26n`?"),
        ("export --hlep", "no flag --hlep; did you mean --help? `yolo26-et export --help` shows all"),
        ("", "no command; `yolo26-et export best.pt` exports"),
    ],
)
def test_flags_without_a_command(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(typed.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
