"""Requests: their words and numbers, where artifacts go, and the GPUs that they are made on."""

from __future__ import annotations

import dataclasses
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import CHECKPOINTS, GPU_MACHINE, H100, P100, V100, make_manifest, publish
from support.stub_worker import PREAMBLE
from yolo26_executorch.errors import BackendError, OptionError, UsageError
from yolo26_executorch.exporter import scheduler
from yolo26_executorch.exporter.progress import Display
from yolo26_executorch.exporter.request import Request, Result, carry_out
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.system import probe
from yolo26_executorch.system.files import sha256_of

Ask = Callable[..., Result]


def checkpoint(path: Path, content: bytes = b"x") -> Path:
    """Write a file that passes for a PyTorch archive until somebody loads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content * 1000)
    return path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that changes what is known of this machine; to begin with, it has no GPU."""

    def change(**changes: Any) -> None:
        monkeypatch.setattr(probe, "probe", lambda folder: dataclasses.replace(GPU_MACHINE, **changes))

    change(gpus=(), driver=None)
    return change


@pytest.fixture
def said() -> list[str]:
    """The warnings."""
    return []


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Callable[..., None], said: list[str]) -> Ask:
    """Return a function that carries a request out with workers that only write down what they are asked."""
    path = tmp_path / "stub.py"
    path.write_text(
        PREAMBLE + '(here / f"{name}.json").write_text(json.dumps(job))\n'
        '(here / f"{name}.gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))\nrecord()\n'
    )
    monkeypatch.setattr(scheduler, "WORKER", (sys.executable, "-S", str(path)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(scheduler.system_limits, "cores", lambda: 16)

    def carry(*models: Path | str, **flags: Any) -> Result:
        request = Request(
            models=tuple(map(str, models)), **{"base_path": tmp_path / "out", "backend": "xnnpack", **flags}
        )
        return carry_out(request, display=Display, warn=said.append)

    return carry


def names(result: Result) -> list[str]:
    return [record.name for record in result.records]


def exported(base: Path, name: str, path: Path, folder: str | None = None) -> Path:
    """Publish an artifact that was made from a file."""
    made_of = dataclasses.replace(CHECKPOINTS["user"], file=path.name, sha256=sha256_of(path), folder=folder)
    options = ExportOptions()
    return publish(
        base, make_manifest(backend="xnnpack", origin="user", name=name, checkpoint=made_of, options=options)
    )


# ---- words and numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"jobs": 0}, "--jobs 0: expected a whole number from 1 up"),
        ({"jobs": "2"}, "--jobs '2': expected int"),
        ({"batch": True}, "--batch True: expected int"),
        ({"seed": 1.5}, "--seed 1.5: expected int"),
        ({"no_test": "yes"}, "--no-test 'yes': expected bool"),
        ({"weights_dir": "weights"}, "--weights-dir 'weights': expected"),
        ({"time_limit": -1}, "--time-limit -1: expected a number from 0 up"),
        ({"memory_limit": float("inf")}, "--memory-limit inf"),
        ({"retries": -1}, "--retries -1"),
        ({"name": "a/b"}, "--name 'a/b': expected a folder's name"),
        ({"name": ""}, "--name ''"),
    ],
)
def test_wrong_values_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Request(**flags)
    assert message in str(caught.value)


def test_a_request_knows_its_command() -> None:
    assert Request().command == "yolo26-et export"
    request = Request(
        models=("my best.pt",), imgsz=(640, 480), precision="fp16", no_test=True, base_path=Path("out"), time_limit=5
    )
    assert request.command == (
        "yolo26-et export --models 'my best.pt' --base-path out --precision fp16 --imgsz 640 480 --no-test "
        "--time-limit 5"
    )
    assert Request(imgsz=None).command == "yolo26-et export --imgsz native"


def test_its_limits() -> None:
    assert (Request().limits.seconds, Request().limits.memory_bytes) == (3600, None)
    assert Request(time_limit=0, memory_limit=1.5).limits.memory_bytes == 1_500_000_000


# ---- names, and what is replaced -------------------------------------------------------------------------------------


def test_trainings_are_told_apart_within_one_call_and_over_several(ask: Ask, tmp_path: Path) -> None:
    """`runs/train/weights/best.pt`, then `runs/train2/weights/best.pt`; and of two projects the same run."""
    runs = tmp_path / "runs"
    first = checkpoint(runs / "train" / "weights" / "best.pt", b"1")
    second = checkpoint(runs / "train2" / "weights" / "best.pt", b"2")
    assert names(ask(first)) == ["train-best"]
    assert names(ask(second)) == ["train2-best"]
    assert names(ask(first, second)) == ["train-best", "train2-best"]
    assert json.loads((tmp_path / "train-best.json").read_text())["run_folder"] == "runs/train/weights"
    detect = checkpoint(runs / "detect" / "train" / "weights" / "best.pt", b"3")
    segment = checkpoint(runs / "segment" / "train" / "weights" / "best.pt", b"4")
    assert names(ask(detect, segment)) == ["detect-train-best", "segment-train-best"]
    exported(tmp_path / "out", "train-best", detect, "detect/train/weights")
    assert names(ask(segment)) == ["segment-train-best"]
    assert names(ask(detect)) == ["train-best"]


def test_a_retrained_checkpoint_replaces_nothing_unless_it_is_told_to(ask: Ask, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "runs" / "train" / "weights" / "best.pt", b"1")
    place = exported(tmp_path / "out", "train-best", path, "runs/train/weights")
    assert names(ask(path)) == ["train-best"]
    checkpoint(path, b"2")
    (tmp_path / "train-best.json").unlink()
    with pytest.raises(UsageError, match=rf"{place} holds an artifact .* --force, .* --name NAME") as caught:
        ask(path, skip_existing=True)
    assert caught.value.exit_status == 2
    assert not (tmp_path / "train-best.json").exists()
    assert names(ask(path, force=True)) == ["train-best"]
    assert json.loads((tmp_path / "train-best.json").read_text())["force"] is True
    assert names(ask(path, name="retrained")) == ["retrained"]


def test_force_replaces_no_other_trainings_artifact(ask: Ask, tmp_path: Path) -> None:
    detect = checkpoint(tmp_path / "detect" / "train" / "weights" / "best.pt", b"1")
    segment = checkpoint(tmp_path / "segment" / "train" / "weights" / "best.pt", b"2")
    exported(tmp_path / "out", "train-best", detect, "detect/train/weights")
    assert names(ask(segment, force=True)) == ["segment-train-best"]


def test_another_file_of_the_same_name_is_refused(ask: Ask, tmp_path: Path) -> None:
    first, second = checkpoint(tmp_path / "a" / "mine.pt", b"1"), checkpoint(tmp_path / "b" / "mine.pt", b"2")
    exported(tmp_path / "out", "mine", first)
    with pytest.raises(UsageError, match=r"--force.*--name NAME"):
        ask(second)
    with pytest.raises(UsageError, match="would both be written to the folder 'mine'"):
        ask(first, second)


def test_random_weights_replace_no_others(ask: Ask, tmp_path: Path) -> None:
    options = ExportOptions(random_weights=True, seed=3)
    publish(tmp_path / "out", make_manifest(backend="xnnpack", options=options))
    assert names(ask("yolo26n", random_weights=True, seed=3)) == ["yolo26n"]
    for flags in ({"random_weights": True, "seed": 4}, {"weights_dir": tmp_path}):
        with pytest.raises(UsageError, match=r"random weights of seed 3.*--force"):
            ask("yolo26n", **flags)


def test_a_damaged_artifact_is_nobodys(ask: Ask, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "mine.pt")
    place = exported(tmp_path / "out", "mine", path)
    checkpoint(path, b"2")
    (place / "manifest.json").write_text("{")
    assert names(ask(path)) == ["mine"]


def test_words_are_for_open_vocabulary_models_and_those_need_them(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="yolo26n has classes of its own; words are for open-vocabulary models, such"):
        ask("yolo26n", words=("person",), random_weights=True)
    with pytest.raises(UsageError, match="yoloe-26n-seg-pf has classes of its own"):
        ask("yoloe-26n-seg-pf", words=("person",), random_weights=True)
    with pytest.raises(
        UsageError, match="yoloe-26n-seg is an open-vocabulary model: name its classes, such as --words"
    ):
        ask("yoloe-26n-seg", random_weights=True)
    result = ask("yoloe-26n-seg", words=("person", "traffic light"), random_weights=True)
    assert result.status == 0
    job = json.loads((tmp_path / "yoloe-26n-seg.json").read_text())
    assert job["options"]["words"] == ["person", "traffic light"]


def test_sizes_follow_a_models_own_largest_stride(ask: Ask) -> None:
    with pytest.raises(OptionError, match=r"--imgsz 352: detect takes multiples of 64 .* --imgsz 320 or --imgsz 384"):
        ask("yolo26n-p6", random_weights=True, imgsz=(352, 352))


def test_a_name_is_for_one_model(ask: Ask, tmp_path: Path) -> None:
    assert names(ask("yolo26n", name="mine", random_weights=True)) == ["mine"]
    source = json.loads((tmp_path / "mine.json").read_text())["source"]
    assert source == {"name": "mine", "variant": "yolo26n", "path": None}
    with pytest.raises(UsageError, match=r"--name mine: expected one model, given 5 \(yolo26n, yolo26s, …\)"):
        ask("yolo26?", name="mine")


# ---- GPUs ------------------------------------------------------------------------------------------------------------


def test_the_gpu_that_is_named_is_used_and_its_memory_counts(
    ask: Ask, tmp_path: Path, machine: Callable[..., None], said: list[str]
) -> None:
    small = dataclasses.replace(H100, memory_bytes=4 * 10**9)
    machine(gpus=(small, H100))
    result = ask("yolo26?", random_weights=True, backend="auto", devices="1")
    assert {(tmp_path / f"{name}.gpu").read_text() for name in names(result)} == {"1"}
    assert result.report["options"]["jobs"] == 5
    assert result.report["options"]["devices"] == ["1"]
    assert json.loads((tmp_path / "yolo26n.json").read_text())["capabilities"] == ["9.0"]
    assert ask("yolo26?", random_weights=True, backend="cuda").report["options"]["jobs"] == 1  # GPU 0 is the small one
    assert ask("yolo26?", random_weights=True, backend="cuda", devices="all").report["options"]["jobs"] == 5
    assert said == []


def test_a_gpu_too_old_is_passed_over_and_that_is_said(
    ask: Ask, tmp_path: Path, machine: Callable[..., None], said: list[str]
) -> None:
    machine(gpus=(P100, H100))
    ask("yolo26n", random_weights=True, backend="auto")
    assert (tmp_path / "yolo26n.gpu").read_text() == "1"
    assert said == [
        "GPU 0 (Tesla P100, compute capability 6.0, 16 GB): too old for Triton; exporting on GPU 1 (NVIDIA H100, "
        "compute capability 9.0, 80 GB)"
    ]
    for backend in ("auto", "cuda"):
        with pytest.raises(BackendError, match=r"GPU 0 \(Tesla P100.*fix: --devices 1"):
            ask("yolo26n", random_weights=True, backend=backend, devices="0")


def test_mixed_kinds_are_said(ask: Ask, tmp_path: Path, machine: Callable[..., None], said: list[str]) -> None:
    machine(gpus=(H100, V100))
    ask("yolo26n", random_weights=True, backend="cuda", devices="all")
    (warning,) = said
    assert "GPU 1 (Tesla V100, compute capability 7.0, 16 GB) are of different kinds" in warning
    assert "--devices 0 or --devices 1" in warning
    assert json.loads((tmp_path / "yolo26n.json").read_text())["capabilities"] == ["9.0", "7.0"]
    ask("yolo26n", random_weights=True, backend="cuda", devices="1")
    assert len(said) == 1


def test_devices_without_a_use_are_refused(ask: Ask, machine: Callable[..., None]) -> None:
    with pytest.raises(UsageError, match="an export for xnnpack uses no GPU"):
        ask("yolo26n", devices="0")
    machine()
    with pytest.raises(BackendError, match="--devices 3: no such GPU"):
        ask("yolo26n", backend="cuda", devices="3")


# ---- GPUs that are not here ------------------------------------------------------------------------------------------


def test_architectures_need_no_gpu(tmp_path: Path, ask: Ask) -> None:
    result = ask("yolo26n", backend="auto", arch=("9.0", "8.6"), random_weights=True)
    assert result.options.backend == "cuda"
    job = json.loads((tmp_path / "yolo26n.json").read_text())
    assert (job["architectures"], job["capabilities"]) == (["8.6", "9.0"], [])


def test_an_architecture_without_tf32_computes_in_fp32_and_says_so(ask: Ask) -> None:
    result = ask("yolo26n", backend="cuda", arch=("7.5",), random_weights=True)
    assert result.options.precision == "fp32"
    assert ask("yolo26n", backend="cuda", arch=("8.6",), random_weights=True).options.precision == "tf32"


@pytest.mark.parametrize(
    ("flags", "machine_is", "error", "message"),
    [
        ({"arch": ("8.5",)}, {}, OptionError, "--arch 8.5: expected one of 7.0"),
        ({"arch": ("8.6",), "backend": "xnnpack"}, {}, UsageError, "--arch 8.6: an export for xnnpack uses no GPU"),
        ({"arch": ("8.6",), "devices": "0"}, {}, UsageError, "and --devices 0 asks for some"),
        ({"arch": ("8.6",), "ray": "local"}, {}, UsageError, "and --ray local asks for some"),
        ({"arch": ("8.6",), "autotune": "fast"}, {}, UsageError, "--autotune fast measures on the GPU at hand"),
        ({"arch": ("7.5",), "precision": "bf16"}, {}, OptionError, "there is no bf16 before"),
        (
            {"arch": ("8.6",)},
            {"cxx": None},
            BackendError,
            'no C++ compiler (g++) is found; fix: pip install "yolo26-executorch[cross]"',
        ),
        ({"arch": ("8.6",)}, {"triton": None}, BackendError, "Triton, which writes the GPU's code, is not installed"),
        ({"arch": ("8.6",)}, {"nvcc": None}, BackendError, "which packs the kernels for compute capability 8.6"),
        ({"arch": ("8.6",)}, {"system": "Darwin"}, BackendError, "CUDA export needs Linux, and this is Darwin"),
    ],
)
def test_what_cannot_be_exported_for_an_architecture_is_refused_in_words(
    tmp_path: Path,
    ask: Ask,
    machine: Callable[..., None],
    flags: dict[str, Any],
    machine_is: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    machine(gpus=(), driver=None, **machine_is)
    with pytest.raises(error) as caught:
        ask("yolo26n", **{"backend": "auto", "random_weights": True, **flags})
    assert message in str(caught.value)
    assert not (tmp_path / "yolo26n.json").exists()


def test_compilers_by_pip_do(ask: Ask, machine: Callable[..., None]) -> None:
    packages = {
        "zig": "/packages/ziglang/zig",
        "cuda_headers": ("/packages/triton/include", "/packages/nvidia/include"),
    }
    machine(gpus=(), driver=None, cxx=None, nvcc=None, cuda_home=None, **packages)
    assert ask("yolo26n", backend="auto", arch=("8.6",), random_weights=True).status == 0


def test_hopper_needs_no_nvcc(ask: Ask, machine: Callable[..., None]) -> None:
    machine(gpus=(), driver=None, nvcc=None)
    assert ask("yolo26n", backend="auto", arch=("9.0",), random_weights=True).status == 0


def test_a_picture_that_cannot_be_shown(ask: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for flags, said in (
        ({"picture": tmp_path / "none.jpg"}, "--picture .*none.jpg: no image at"),
        ({"picture": tmp_path / "text.jpg"}, "--picture .*text.jpg: .* cannot be read as an image"),
        ({"picture": tmp_path / "text.jpg", "no_test": True}, "leave out one of them"),
    ):
        with pytest.raises(UsageError, match=said):
            ask("yolo26n", **flags)
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]
