from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import support
from support import CHECKPOINTS, SIZES, each_task
from yolo26_executorch.artifacts.card import Accuracy, columns, figures, render, size, write
from yolo26_executorch.artifacts.manifest import DelegateRecord, FileRecord, Manifest
from yolo26_executorch.artifacts.reading import load_manifest, verify
from yolo26_executorch.errors import UsageError, Yolo26Error
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.tasks import TASKS, TensorSpec
from yolo26_executorch.report.val_report import accuracy_of
from yolo26_executorch.vision.validate import Measured, ValReport

COMPARISON: dict[str, Any] = {
    "passed": True,
    "failures": [],
    "agreement": {"rows": 300, "matched": 300, "min_box_iou": 0.99991, "min_mask_iou": None},
    "quantities": [
        {
            "name": "box_px",
            "unit": "px",
            "values": 1200,
            "max": 0.0123456,
            "mean": 0.001,
            "p99": 0.01,
            "absolute": 0.02,
            "relative": 1e-4,
            "smallest_tolerance": 0.0,
            "ratio": 0.5,
            "passed": True,
        }
    ],
}


def make_manifest(task: str = "detect", backend: str = "cuda", origin: str = "published", **changes: Any) -> Manifest:
    files = {"model.pte": FileRecord("a" * 64, 9_500_000)}
    if backend == "cuda":
        files["aoti_cuda_blob.ptd"] = FileRecord("b" * 64, 4_900)
    test = {"picture": COMPARISON, "latency_ms": {"p50": 1.25}}
    manifest = support.make_manifest(task, backend, origin, **{"files": files, "test": test, **changes})
    return Manifest.from_json(manifest.to_json())


def front_and_body(card: str) -> tuple[dict[str, Any], str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("origin", CHECKPOINTS)
@pytest.mark.parametrize("backend", ["cuda", "xnnpack"])
@pytest.mark.parametrize("task", TASKS)
def test_card_says_what_it_is(task: str, backend: str, origin: str) -> None:
    manifest = make_manifest(task, backend, origin)
    front, body = front_and_body(render(manifest))
    base_model = {"base_model": "Ultralytics/YOLO26"} if origin == "published" else {}
    assert front == {
        "license": "agpl-3.0",
        "library_name": "executorch",
        "pipeline_tag": TASKS[task].pipeline_tag,
        "model_name": manifest.name,
        "tags": ["executorch", "yolo26", "ultralytics", task, backend],
        **base_model,
    }
    top = body.split("\n## ")[0]
    assert ("Random weights" in top) == (origin == "random")
    assert ("seed 3" in top) == (origin == "random")
    assert ("c" * 64 in top) == (origin != "random")
    assert (f"trained on {TASKS[task].dataset.split('.')[0]}" in top) == (origin == "published")
    assert ("CPU only" in top) == (backend == "xnnpack")
    assert f"| arithmetic | {'tf32' if backend == 'cuda' else 'fp32'} |" in top
    assert ("compute capability 8.0 and newer |" in top) == (backend == "cuda")
    assert ("native code, which runs with your rights" in body) == (backend == "cuda")
    assert ('data_path="aoti_cuda_blob.ptd"' in body) == (backend == "cuda")
    assert ('Module module("model.pte", "aoti_cuda_blob.ptd")' in body) == (backend == "cuda")
    assert ("| each object | 17 keypoints of 3 values each |" in top) == (task == "pose")
    for spec in manifest.outputs:
        assert f"| {spec.name} | {spec.dtype} | {' × '.join(map(str, spec.shape))} |" in body
    for part in ("AGPL-3.0-or-later", manifest.command, "9.5 MB", "a" * 64, "torch 2.13.0", "0 person,\n1 bicycle"):
        assert part in body
    assert "\n\n\n" not in body
    assert "{{" not in body and "{%" not in body and "None" not in body


def test_hubs_and_people_read_the_same_card() -> None:
    card = render(make_manifest())
    read = ModelCard(card)
    assert str(read) == card
    assert (read.data.library_name, read.data.license) == ("executorch", "agpl-3.0")
    assert card.startswith("---\n")
    assert card.endswith(".\n")


def test_units_and_figures_are_in_the_tables() -> None:
    card = render(make_manifest())
    assert "x (px), y (px), w (px), h (px), confidence (0..1), class_id (index)" in card
    assert "| picture | passed |" in card
    assert "| picture / agreement | rows 300, matched 300, min box iou 0.9999 |" in card
    assert (
        "| picture / box_px | error up to 0.01235 px, mean 0.001, 99th percentile 0.01; allowed 0.02 + 0.0001 × scale |"
        in card
    )
    assert "| latency_ms / p50 | 1.25 |" in card
    assert "not tested" not in card.lower()


@pytest.mark.parametrize(
    ("runner", "device", "words"),
    [
        ("aoti", "NVIDIA H100", "1.25 ms on NVIDIA H100, [measured](#measured) inside PyTorch"),
        (
            "executorch",
            "cpu",
            "1.25 ms on the exporter's CPU, [measured](#measured) in ExecuTorch's own Python runtime",
        ),
        ("another", "cpu", "1.25 ms on the exporter's CPU, [measured](#measured) by its exporter"),
    ],
)
def test_latency_says_how_and_where_it_was_measured(runner: str, device: str, words: str) -> None:
    latency = {"p50": 1.25, "min": 1.2, "max": 2.345678, "runs": 20}
    card = render(make_manifest(test={"latency_ms": latency, "runner": runner, "device": device}))
    assert words in card
    assert "**1.25 ms**, the median of 20 (1.2 to 2.35 ms), from host memory and back" in card


def test_the_worst_of_all_inputs_is_in_the_table() -> None:
    better = {**COMPARISON["quantities"][0], "max": 0.001, "ratio": 0.01}
    inputs = [
        {"input": "bus.jpg", "against": "eager fp32", **COMPARISON},
        {"input": "random 1", "against": "eager fp32", **COMPARISON, "quantities": [better]},
    ]
    card = render(make_manifest(test={"inputs": inputs, "picture": "own.png", "answer": ["bus 0.9"]}))
    assert "What it found in own.png:\n\n- bus 0.9\n" in card
    assert card.count("| PyTorch fp32 | box_px | 0.012 | px | 0.02 + 0.0001 s | 50% |") == 1
    assert "- bus 0.9\n" in card
    random = render(make_manifest(origin="random", test={"inputs": inputs, "answer": ["bus 0.9"]}))
    assert "bus 0.9" not in random


@pytest.mark.parametrize("test", [{"inputs": 3}, {"inputs": [1, {"quantities": [{"max": "x"}]}]}, {"latency_ms": [1]}])
def test_foreign_figures_do_no_harm(test: dict[str, Any]) -> None:
    card = render(make_manifest(test={**test, "runner": ["x"], "answer": 3}))
    assert "the median of" not in card and "compared with PyTorch's" not in card


def test_untested_and_partly_delegated_models_say_so() -> None:
    card = render(make_manifest(test=None, delegate=DelegateRecord("X", 3, {"aten::a.out": 2})))
    assert "> **Not tested** after its export" in card.split("\n## ")[0]
    assert "It was **not tested** after its export." in card
    assert "X runs 3 operators; outside it, in ExecuTorch's portable kernels, run aten::a.out (2).\n" in card


def test_words_from_a_checkpoint_cannot_break_out() -> None:
    hostile = "a|b <script>x</script> `c` [d](http://e) *f*\n# g\x1b[2J"
    card = render(
        make_manifest(
            origin="user",
            classes={0: hostile},
            checkpoint=replace(CHECKPOINTS["user"], file="a|b <script> `c` [d] *f*"),
            command=f"yolo26-et {hostile}",
            versions={hostile: hostile},
            seconds={hostile: 1.0},
            test={hostile: hostile, "answer": [hostile]},
        )
    )
    body = card.replace(f"yolo26-et {hostile.translate({10: 32, 27: 32})}", "")
    for part in ("<script>", "|b", "`c`", "[d]", "*f*", "\n# g", "\x1b"):
        assert part not in body


def test_device_io_has_no_snippet_for_the_host() -> None:
    card = render(make_manifest(options=ExportOptions(backend="cuda", io="device")))
    assert "leaves its outputs there (`--io device`)" in card
    assert "executorch.runtime" not in card
    assert "In the folder that holds these files, with yolo26-executorch" in card
    assert 'YOLO26(".")' in card


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"input": "uint8", "batch": 3}, {"imgsz": (320, 640)}])
def test_the_snippet_gives_what_the_model_takes(options: dict[str, Any]) -> None:
    """What leads to the input runs without ExecuTorch."""
    chosen = ExportOptions(backend="cuda", **options)
    model = snippets(render(make_manifest(options=chosen)))[0]
    names: dict[str, Any] = {"torch": torch, "np": np, "Image": Image}
    lines = [line for line in model.splitlines() if line.startswith(("picture =", "images ="))]
    exec("\n".join(lines), names)  # noqa: S102
    images = names["images"]
    shape = (*chosen.size, 3) if chosen.input == "uint8" else (3, *chosen.size)
    assert (tuple(images.shape), str(images.dtype)) == ((chosen.batch, *shape), f"torch.{chosen.input}")
    assert "[images.contiguous()]" in model


@pytest.mark.parametrize(
    ("task", "output", "value", "classes", "printed"),
    [
        ("semantic", "classes", torch.tensor([0, 1, 1, 1]).view(1, 2, 2).byte(), 2, "a 25.0%\nb 75.0%\n"),
        ("semantic", "classes", torch.tensor([0, 1, 1, 1]).view(1, 2, 2).byte(), 1, "a 75.0%\n"),
        ("semantic", "logits", torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1), 2, "b 100.0%\n"),
        ("semantic", "logits", torch.tensor([1.0]).view(1, 1, 1, 1), 1, "a 100.0%\n"),
        ("depth", "depth", torch.tensor([1.5, 2.25]).view(1, 1, 1, 2), 1, "a 1.50 to 2.25 m\n"),
    ],
)
def test_the_snippet_reads_maps(
    task: str, output: str, value: torch.Tensor, classes: int, printed: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    named = dict(zip(range(classes), "ab", strict=False))
    format_ = "named" if output != "logits" else "ultralytics"
    outputs = TASKS[task].output_specs(format_, dict.fromkeys(("B", "CLASSES", "H", "W", "H8", "W8"), 1))
    manifest = support.make_manifest(task, "xnnpack", classes=named, outputs=outputs)
    code = snippets(render(manifest))[0]
    (tmp_path / "manifest.json").write_text(json.dumps({"classes": named}))
    monkeypatch.chdir(tmp_path)
    exec(code[code.index("names = json") :], {"json": json, "Path": Path, "torch": torch, output: value})  # noqa: S102
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("task", each_task("classify"))
def test_the_snippets_of_a_real_artifact_run_as_they_stand(
    exported: Callable[[str], Path], task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(task)
    card = (folder / "README.md").read_text(encoding="utf-8")
    official, ours = snippets(card)
    monkeypatch.chdir(folder)
    manifest = load_manifest(folder)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExecuTorch's, when it is imported
        exec(official, names)  # noqa: S102
        told = capsys.readouterr().out
        assert any(name in told for name in manifest.classes.values())
        exec(ours, {})  # noqa: S102
    assert capsys.readouterr().out
    for spec in manifest.outputs:
        assert tuple(names[spec.name].shape) == spec.shape


def test_the_card_of_an_artifact_is_what_its_manifest_gives(exported: Callable[[str], Path]) -> None:
    folder = exported("classify")
    assert render(load_manifest(folder)) == (folder / "README.md").read_text(encoding="utf-8")


def val_report(**changes: Any) -> dict[str, Any]:
    """Return what `yolo26-et val --report` writes about `make_manifest()`."""
    metrics = {"metrics/precision(B)": 0.5, "metrics/mAP50-95(B)": 0.4123456}
    pytorch = Measured("eager", "cpu", {**metrics, "metrics/mAP50-95(B)": 0.4124}, {})
    report = ValReport(
        "yolo26n", "detect", "cuda", "tf32", (640, 640), 1, "/data/coco.yaml", "val", 5000, 36335, {},
        Measured("aoti", "NVIDIA H100", metrics, {}), pytorch, {}, "2026-11-23T08:00:00+00:00",
    )  # fmt: skip
    return {"schema": 1, "command": "yolo26-et val", **json.loads(json.dumps(report.to_json())), **changes}


def read(tmp_path: Path, report: object, manifest: Manifest | None = None) -> Accuracy:
    path = tmp_path / "val.json"
    path.write_text(report if isinstance(report, str) else json.dumps(report))
    return accuracy_of(path, manifest or make_manifest())


def test_accuracy_is_in_the_card_and_its_front_matter(tmp_path: Path) -> None:
    assert "was not measured for this card" in render(make_manifest())
    card = render(make_manifest(), read(tmp_path, val_report()))
    assert "was not measured for this card" not in card
    assert "On coco.yaml (val, 5000 pictures)" in card and "on NVIDIA H100 (2026-11-23T08:00:00+00:00)" in card
    assert "| box mAP50-95 | 0.41235 | 0.41240 | -0.00005 |" in card
    results = ModelCard(card).data.eval_results
    assert [(r.metric_type, r.metric_value, r.dataset_name, r.task_type) for r in results] == [
        ("box precision", 0.5, "coco.yaml", "object-detection"),
        ("box mAP50-95", 0.41235, "coco.yaml", "object-detection"),
    ]


def test_accuracy_without_pytorch_beside_it(tmp_path: Path) -> None:
    card = render(make_manifest(), read(tmp_path, val_report(pytorch=None)))
    assert "| metric (0..1) | this model |\n|---|---|\n| box precision | 0.50000 |\n" in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "yolo26s"}, "name yolo26n.* about yolo26s"),
        ({"backend": "xnnpack"}, "backend cuda"),
        ({"precision": "fp16"}, "precision tf32"),
        ({"imgsz": [320, 320]}, "input size 640×640"),
        ({"batch": 2}, "batch 1"),
        ({"artifact": 3}, "is no report of `yolo26-et val`"),
        ({"pytorch": {"metrics": {}}}, "is no report of `yolo26-et val`"),
    ],
)
def test_a_report_about_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, val_report(**changes))


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000], ids=range(4))
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="is no report of `yolo26-et val`"):
        read(tmp_path, text)
    with pytest.raises(UsageError, match="No such file"):
        accuracy_of(tmp_path / "nothing", make_manifest())


def test_a_card_is_written_anew_with_its_manifest(tmp_path: Path) -> None:
    manifest = make_manifest()
    folder = support.publish(tmp_path, manifest)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    (folder / "README.md").write_text("of somebody's own")
    accuracy = read(tmp_path, val_report())
    assert write(folder, accuracy) == folder
    written = verify(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == render(written, accuracy)
    assert replace(written, files={}) == replace(manifest, files={})
    for name in ("model.pte", "aoti_cuda_blob.ptd"):
        assert (folder / name).read_bytes() == before[name][1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [".yolo26n.lock"]


def test_a_card_is_written_where_files_cannot_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    folder = support.publish(tmp_path, make_manifest())
    write(folder)
    verify(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.pte").write_bytes(b"progrom"), "is not what its manifest says"),
        (lambda folder: (folder / "model.pte").unlink(), "is missing"),
        (lambda folder: (folder / "notes.txt").touch(), "it holds 'notes.txt'"),
    ],
)
def test_a_damaged_artifact_gets_no_card(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = support.publish(tmp_path, make_manifest())
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(Yolo26Error, match=message):
        write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {*tmp_path.iterdir()} == {folder, tmp_path / ".yolo26n.lock"}


def test_columns_of_raw_outputs_end_in_an_ellipsis() -> None:
    raw = TASKS["segment"].output_specs("ultralytics", SIZES)
    assert columns(raw[0]).endswith("class_id (index), …")
    assert columns(raw[1]) == "logit"
    assert columns(TensorSpec("x", (2,), "uint8", "", ("a", "b"), ("px",))) == "a (px), b (px)"
    assert columns(TensorSpec("x", (2,), "uint8", "", ("a", "b"))) == "a, b"


def test_figures_of_any_structure() -> None:
    data = {
        "passed": False,
        "none": None,
        "runs": [{"name": "a", "ms": 1.23456}, {"ms": 2}, 3],
        "random": {**COMPARISON, "failures": ["box_px is off"], "agreement": None, "quantities": [1]},
    }
    assert list(figures(data)) == [
        ("passed", "no"),
        ("runs / a / ms", "1.235"),
        ("runs / 1 / ms", "2"),
        ("runs / 2", "3"),
        ("random", "failed: box_px is off"),
    ]


def test_sizes() -> None:
    counts = (0, 999, 1000, 99_999, 100_000, 9_437_184)
    assert [size(n) for n in counts] == ["0 B", "999 B", "1.0 kB", "100.0 kB", "0.1 MB", "9.4 MB"]


def test_comparisons_are_named_by_what_was_compared() -> None:
    data = {"inputs": [{"input": "bus.jpg", "against": "eager fp32", "quantities": [], "failures": []}]}
    assert list(figures(data)) == [("inputs / bus.jpg against eager fp32", "passed")]
