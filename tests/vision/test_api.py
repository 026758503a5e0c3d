from __future__ import annotations

import importlib
import importlib.machinery
import multiprocessing
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.stub_runner import NAMES, StubRunner, backend, cut, folder_of_pictures, picture, video
from yolo26_executorch import YOLO26
from yolo26_executorch.errors import ArtifactError, InputError, OptionError, UsageError
from yolo26_executorch.vision import sources, ultralytics_backend, validate
from yolo26_executorch.vision.api import class_indices


@pytest.fixture
def runner() -> StubRunner:
    return StubRunner()


@pytest.fixture
def model(runner: StubRunner, monkeypatch: pytest.MonkeyPatch) -> YOLO26:
    monkeypatch.setattr(
        ultralytics_backend.RunnerBackend, "open", lambda folder, runner_name, device=None: backend(runner=runner)
    )
    return YOLO26("exports/yolo26n")


@pytest.fixture
def lap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package `lap`: the assignment of least cost, by SciPy."""
    linear_sum_assignment: Any = importlib.import_module("scipy.optimize").linear_sum_assignment

    def lapjv(cost: Any, extend_cost: bool, cost_limit: float) -> tuple[float, Any, Any]:
        to_column, to_row = np.full(cost.shape[0], -1), np.full(cost.shape[1], -1)
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if cost[row, column] <= cost_limit:
                to_column[row], to_row[column] = column, row
        return 0.0, to_column, to_row

    module: Any = types.ModuleType("lap")
    module.lapjv, module.__version__ = lapjv, "0.5.12"
    module.__spec__ = importlib.machinery.ModuleSpec("lap", None)
    monkeypatch.setitem(sys.modules, "lap", module)


def test_a_list_or_a_generator(model: YOLO26, runner: StubRunner, tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "pictures", 3)
    results = model.predict(source)
    assert isinstance(results, list)
    assert [Path(result.path).name for result in results] == ["00.jpg", "01.jpg", "02.jpg"]
    streamed = model.predict(source, stream=True)
    assert isinstance(streamed, Iterator) and len(runner.given) == 3
    next(streamed)
    assert len(runner.given) == 4
    assert len(list(streamed)) == 2
    assert len(model(picture())) == 1


def test_one_model_serves_several_calls_at_once(model: YOLO26, tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "pictures", 3)
    few, many = model.predict(source, stream=True, conf=0.8), model.predict(source, stream=True, conf=0.01)
    assert [(len(a), len(b)) for a, b in zip(few, many, strict=True)] == [(1, 3)] * 3


def test_it_knows_its_task_and_classes(model: YOLO26) -> None:
    assert (model.task, model.names) == ("detect", NAMES)
    assert str(model.device) == "cpu"


def test_what_ultralytics_users_tell_it_is_compared(model: YOLO26) -> None:
    assert YOLO26("exports/yolo26n", "detect").task == "detect"
    with pytest.raises(OptionError, match=r"task='segment': this model's is detect; leave it out"):
        YOLO26("exports/yolo26n", task="segment")
    assert len(model(picture(), device="cpu", half=False, verbose=False)) == 1
    with pytest.raises(OptionError, match="device=0: a model runs where it was opened"):
        model(picture(), device=0)


def test_without_a_source_the_photographs_are_taken(model: YOLO26) -> None:
    assert [Path(result.path).name for result in model()] == ["bus.jpg", "zidane.jpg"]


def test_an_image_that_could_not_be_read_is_not_taken_for_no_source(model: YOLO26) -> None:
    with pytest.raises(InputError, match=r"None is no image; cv2\.imread gives it for a file that it cannot read"):
        model.predict(None)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda model: model.train(data="coco8.yaml"), r'no train: train the checkpoint, YOLO\("best.pt"\).train'),
        (lambda model: model.tune(), r'no tune: train the checkpoint, YOLO\("best.pt"\).tune'),
        (lambda model: model.export(format="onnx"), r'no export: it is exported already; export\("best.pt"'),
        (lambda model: model.half(), "no half: precision and device were settled"),
        (lambda model: model.to("cuda"), "no to: precision and device were settled"),
        (lambda model: model.model, "no model: it is no PyTorch module"),
        (lambda model: model.benchmark(), "no benchmark: `yolo26-et bench FOLDER`"),
        (lambda model: model.info(), "no info: `yolo26-et inspect FOLDER`"),
        (lambda model: model.add_callback("on_predict_end", print), "no add_callback: it calls none"),
        (lambda model: model.wobble, r"no wobble: help\(YOLO26\)"),
    ],
)
def test_what_an_exported_model_lacks_is_told_with_what_to_do(
    model: YOLO26, use: Callable[[Any], object], told: str
) -> None:
    with pytest.raises(AttributeError, match=f"an exported model has {told}"):
        use(model)


def test_val_without_data_says_what_to_give(model: YOLO26) -> None:
    with pytest.raises(UsageError, match=r'give val\(data="data.yaml"\)'):
        model.val()


def test_classes_by_name(model: YOLO26) -> None:
    assert [result.boxes.cls.tolist() for result in model.predict(picture(), classes=["Person"])] == [[0]]
    with pytest.raises(OptionError, match="no class persn; did you mean person"):
        model.predict(picture(), classes="persn")


def test_mistakes_are_reported_before_anything_runs(model: YOLO26, runner: StubRunner) -> None:
    with pytest.raises(InputError):
        model.predict("nothing.jpg", stream=True)
    with pytest.raises(OptionError):
        model.predict(picture(), stream=True, device="cuda:0")
    assert not runner.given


def test_it_says_what_it_is(model: YOLO26) -> None:
    described = "YOLO26('exports/yolo26n': detect, 3 classes, input 320x320, batch 1, on cpu, runner stub"
    assert repr(model) == f"{described})"
    model.close()
    assert repr(model) == f"{described}, closed)"


def test_a_closed_model_says_so(model: YOLO26) -> None:
    model.close()
    for call in (model.predict, model.track):
        with pytest.raises(UsageError, match=r"the model of exports/yolo26n was closed; open it again with YOLO26\("):
            call(picture())


def test_a_list_of_paths_holds_one_batch_at_a_time(
    model: YOLO26, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[weakref.ref[Any]] = []

    def imread(_: Path) -> Any:
        image = picture()
        read.append(weakref.ref(image))
        return image

    monkeypatch.setattr(sources, "imread", imread)
    folder = folder_of_pictures(tmp_path / "pictures", 1)
    alive = []
    for _ in model.predict([str(folder / "00.jpg")] * 100, stream=True):
        alive.append(sum(image() is not None for image in read))
    assert len(alive) == len(read) == 100 and max(alive) <= 3


def test_what_is_bad_in_a_list_is_named(model: YOLO26, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of_pictures(tmp_path / "pictures", 2)
    bad = cut(folder / "00.jpg", tmp_path / "cut.jpg")
    results = model.predict([str(folder / "00.jpg"), str(bad), "nothing.jpg", str(folder / "01.jpg")])
    assert [Path(result.path).name for result in results] == ["00.jpg", "01.jpg"]
    assert sorted(Path(path).name for path in model.predictor.dataset.unreadable) == ["cut.jpg", "nothing.jpg"]
    assert [record.getMessage() for record in caplog.records] == [
        "nothing.jpg was left out: no such file",
        f"{bad} was left out: it is damaged, or not what its ending .jpg says",
    ]


def test_it_closes(model: YOLO26, runner: StubRunner) -> None:
    with model as entered:
        assert entered is model and not runner.closed
    assert runner.closed


def test_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nothing", str(tmp_path / "empty")):
        with pytest.raises(ArtifactError, match="no artifact at") as caught:
            YOLO26(folder)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__  # one traceback, not two


def test_a_tracker_that_is_missing_is_refused_at_once(model: YOLO26, runner: StubRunner, lap: None) -> None:
    with pytest.raises(OptionError, match=r"tracker=nothing: no such file, and none of the trackers botsort\.yaml"):
        model.track(picture(), stream=True, tracker="nothing")
    assert not runner.given


@pytest.mark.parametrize("tracker", ["tracktrack.yaml", "bytetrack.yaml", "botsort.yaml"])
def test_tracked_objects_keep_their_numbers(model: YOLO26, lap: None, tracker: str, tmp_path: Path) -> None:
    results = list(model.track(video(tmp_path / "clip.mp4", 5), stream=True, tracker=tracker))
    assert len(results) == 5
    numbers = [result.boxes.id.int().tolist() for result in results if result.boxes.id is not None]
    assert len(numbers) >= 3 and all(found == numbers[-1] for found in numbers[-3:]) and numbers[-1]


def test_tracking_goes_on_from_call_to_call_if_asked(model: YOLO26, lap: None) -> None:
    def numbers(persist: bool) -> list[int]:
        (result,) = model.track(picture(), persist=persist, tracker="bytetrack.yaml")
        return [] if result.boxes.id is None else result.boxes.id.int().tolist()

    first = numbers(persist=True)
    assert first and numbers(persist=True) == first
    assert model.predictor.trackers[0].frame_id == 2
    numbers(persist=False)
    assert model.predictor.trackers[0].frame_id == 1


def test_validation_is_passed_on(model: YOLO26, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def stand_in(*words: Any, **options: Any) -> str:
        given.update(words=words, options=options)
        return "report"

    monkeypatch.setattr(validate, "validate", stand_in)
    assert model.val(data="data.yaml", split="test") == "report"
    assert given == {"words": (Path("exports/yolo26n"), "data.yaml"), "options": {"runner": "auto", "split": "test"}}


@pytest.mark.parametrize(
    ("wanted", "found"), [(1, [1]), ("car", [2]), (["CAR", 0], [2, 0]), (["2", "person"], [2, 0]), ([], [])]
)
def test_classes_are_found_by_index_and_name(wanted: Any, found: list[int]) -> None:
    assert class_indices(wanted, NAMES) == found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (3, "no class 3; it has 3: person, bicycle, car"),
        ("-1", "no class -1; it has 3"),
        (["car", "bycicle"], "no class bycicle; did you mean bicycle?"),
        ("cat", "no class cat; did you mean car?"),
    ],
)
def test_other_classes_are_refused(wanted: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        class_indices(wanted, NAMES)
    assert message in str(caught.value)


def test_a_class_may_be_called_a_number() -> None:
    assert class_indices("7", {0: "7", 7: "seven"}) == [0]


def test_a_forked_child_opens_a_model_of_its_own(exported: Callable[[str], Path]) -> None:
    """As a server's worker does, whose parent has predicted, too."""
    context = multiprocessing.get_context("fork")
    image = picture()
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        with YOLO26(exported("detect")) as own:
            sender.send([result.boxes.data.tolist() for result in own.predict([image, image], conf=0.01)])

    with YOLO26(exported("detect")) as model:
        expected = [result.boxes.data.tolist() for result in model.predict([image, image], conf=0.01)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
            child = context.Process(target=work)
            child.start()
        try:
            assert receiver.poll(120), "it hangs"
            found = receiver.recv()
        finally:
            child.kill()
            child.join()
    assert len(found[0]) > 0
    for one, other in zip(found, expected, strict=True):
        assert one == [pytest.approx(row, rel=1e-4, abs=1e-4) for row in other]
