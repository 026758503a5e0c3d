from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo26_executorch.errors import OptionError
from yolo26_executorch.models.options import ExportOptions, check_imgsz, parse_imgsz
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.models.variants import ALL_VARIANTS

DETECT, CLASSIFY, OBB, SEMANTIC = (TASKS[name] for name in ("detect", "classify", "obb", "semantic"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "metal"}, "--backend metal: expected one of cuda, xnnpack"),
        ({"precision": "int8"}, "--precision int8: expected one of tf32, fp32, fp16, bf16"),
        ({"outputs": "raw"}, "--outputs raw: expected one of named, ultralytics"),
        ({"input": "uint16"}, "--input uint16: expected one of float32, uint8"),
        ({"io": "disk"}, "--io disk: expected one of host, device"),
        ({"autotune": "slow"}, "--autotune slow: expected one of off, fast, full"),
        ({"autotune": "fast"}, "--autotune fast measures GPU kernels and needs --backend cuda"),
        ({"words": ("car", " ")}, "--words ' ': expected names of classes, each once"),
        ({"words": ("car", "bus", "car")}, "--words 'car': expected names of classes, each once"),
        ({"batch": 0}, "try --batch 1"),
        ({"batch": -3}, "--batch -3"),
        ({"io": "device"}, "needs --backend cuda; try --io host"),
        ({"precision": "fp16"}, "--precision fp16 needs --backend cuda"),
        ({"precision": "bf16"}, "try --precision fp32"),
    ],
)
def test_illegal_values_are_refused_at_once(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        ExportOptions(**changes)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert caught.value.exit_status == 2


def test_what_the_gpu_alone_can_do() -> None:
    for precision in ("tf32", "fp32", "fp16", "bf16"):
        ExportOptions(backend="cuda", precision=precision, io="device")


@pytest.mark.parametrize("imgsz", [None, (640, 480)])
def test_options_survive_json(imgsz: tuple[int, int] | None) -> None:
    options = ExportOptions(backend="cuda", precision="fp16", imgsz=imgsz, batch=4, input="uint8", seed=7)
    assert ExportOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_foreign_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"imgsz\[0\]: expected int, given str"):
        ExportOptions.from_json({**ExportOptions().to_json(), "imgsz": ["640", 640]})
    with pytest.raises(OptionError):
        ExportOptions.from_json({**ExportOptions().to_json(), "batch": 0})


@pytest.mark.parametrize(
    ("words", "size"),
    [(["640"], (640, 640)), (["480", "640"], (480, 640)), (["native"], None), (["8192", "320"], (8192, 320))],
)
def test_imgsz_in_words(words: list[str], size: tuple[int, int] | None) -> None:
    assert parse_imgsz(words) == size


@pytest.mark.parametrize("words", [[], ["big"], ["640", "native"], ["1", "2", "3"], ["-640"], ["6.4e2"], ["640x640"]])
def test_imgsz_in_wrong_words(words: list[str]) -> None:
    with pytest.raises(OptionError, match=r"expected one number, two \(height, width\), or native"):
        parse_imgsz(words)


def test_native_size_is_the_model_s_or_the_task_s() -> None:
    options = ExportOptions(imgsz=None)
    assert options.resolve(DETECT).size == (640, 640)
    assert options.resolve(OBB).size == (1024, 1024)
    assert options.resolve(CLASSIFY).size == (224, 224)
    assert options.resolve(SEMANTIC).size == (1024, 2048)
    assert options.resolve(SEMANTIC, native=ALL_VARIANTS["yolo26n-sem-ade20k"].native).size == (512, 512)
    assert options.resolve(DETECT) == replace(options, imgsz=(640, 640))
    with pytest.raises(ValueError, match="not resolved"):
        _ = options.size


@pytest.mark.parametrize(
    ("height", "width", "task", "nearest"),
    [
        (650, 650, "detect", "nearest: --imgsz 640 or --imgsz 672"),
        (0, 0, "detect", "nearest: --imgsz 320"),
        (319, 319, "pose", "nearest: --imgsz 320"),
        (9000, 9000, "segment", "nearest: --imgsz 8192"),
        (640, 650, "detect", "nearest: --imgsz 640 or --imgsz 640 672"),
        (650, 640, "detect", "nearest: --imgsz 640 or --imgsz 672 640"),
        (300, 8200, "detect", "nearest: --imgsz 320 8192"),
        (224, 224, "detect", "nearest: --imgsz 320"),
        (224, 320, "classify", "or 224; nearest: --imgsz 320 or --imgsz 224"),
        (100, 100, "classify", "nearest: --imgsz 320 or --imgsz 224"),
    ],
)
def test_an_illegal_size_names_the_nearest_legal_ones(height: int, width: int, task: str, nearest: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_imgsz(height, width, TASKS[task])
    assert str(caught.value).endswith(nearest)
    assert f"{task} takes multiples of 32 from 320 to 8192 pixels" in str(caught.value)


@given(st.integers(-100, 10_000), st.integers(-100, 10_000), st.sampled_from(list(TASKS)))
def test_what_is_named_as_nearest_is_legal(height: int, width: int, task: str) -> None:
    try:
        check_imgsz(height, width, TASKS[task])
    except OptionError as error:
        for choice in str(error).split("nearest: ")[1].split(" or "):
            sides = parse_imgsz(choice.split()[1:])
            assert sides is not None
            check_imgsz(*sides, TASKS[task])
    else:
        assert (height, width) == (224, 224) or (height % 32 == width % 32 == 0)
