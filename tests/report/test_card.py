from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import support
from support import CHECKPOINTS, SIZES, xnnpack_program
from yolo26_executorch.lowering.options import ExportOptions
from yolo26_executorch.manifest import FileRecord, Manifest
from yolo26_executorch.report.card import columns, figures, render, size
from yolo26_executorch.tasks import TASKS, TensorSpec

COMPARISON = {
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


@pytest.mark.parametrize("origin", CHECKPOINTS)
@pytest.mark.parametrize("backend", ["cuda", "xnnpack"])
@pytest.mark.parametrize("task", TASKS)
def test_card_says_what_it_is(task: str, backend: str, origin: str) -> None:
    manifest = make_manifest(task, backend, origin)
    card = render(manifest)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "agpl-3.0",
        "library_name": "executorch",
        "pipeline_tag": TASKS[task].pipeline_tag,
        "model_name": manifest.name,
        "tags": ["yolo26", "ultralytics", "executorch", backend],
    }
    top = body.split("\n## ")[0]
    assert ("Random weights" in top) == (origin == "random")
    assert ("seed 3" in top) == (origin == "random")
    assert ("c" * 64 in top) == (origin != "random")
    assert ("CPU only" in top) == (backend == "xnnpack")
    assert ("compute capability 8.0" in body) == (backend == "cuda")
    assert ("native code, which runs with your rights" in body) == (backend == "cuda")
    assert ('data_path="aoti_cuda_blob.ptd"' in body) == (backend == "cuda")
    assert ("17 keypoints of 3 values" in body) == (task == "pose")
    for spec in manifest.outputs:
        assert f"| {spec.name} | {spec.dtype} | {' × '.join(map(str, spec.shape))} |" in body
    for part in ("AGPL-3.0-or-later", manifest.command, "9.5 MB", "a" * 64, "torch 2.13.0", "0 person,\n1 bicycle"):
        assert part in body
    assert "\n\n\n" not in body
    assert "{{" not in body and "{%" not in body and "None" not in body


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
    assert "not tested" not in card


def test_untested_and_partly_delegated_models_say_so() -> None:
    card = render(make_manifest(test=None, delegate={"name": "X", "delegated": 3, "outside": {"aten::a.out": 2}}))
    assert "It was **not tested** after its export." in card
    assert "X runs 3 operators; outside it run aten::a.out (2).\n" in card


def test_words_from_a_checkpoint_cannot_break_out() -> None:
    hostile = "a|b <script>x</script> `c` [d](http://e) *f*\n# g\x1b[2J"
    card = render(
        make_manifest(
            origin="user",
            classes={0: hostile},
            checkpoint={**CHECKPOINTS["user"], "file": hostile},
            command=f"yolo26-et {hostile}",
            versions={hostile: hostile},
            test={hostile: hostile},
        )
    )
    body = card.replace(f"yolo26-et {hostile.translate({10: 32, 27: 32})}", "")
    for part in ("<script>", "|b", "`c`", "[d]", "*f*", "\n# g", "\x1b"):
        assert part not in body


def test_device_io_has_no_snippet_for_the_host() -> None:
    card = render(make_manifest(options=ExportOptions(backend="cuda", io="device")))
    assert "leaves its outputs there (`--io device`)" in card
    assert "```python" not in card


def test_uint8_input_is_in_the_snippet() -> None:
    spec = TensorSpec("images", (1, 640, 640, 3), "uint8", "RGB pictures", ("R", "G", "B"), ("0..255",))
    assert "images = torch.randint(0, 256, (1, 640, 640, 3), dtype=torch.uint8)" in render(make_manifest(input=spec))


@pytest.mark.parametrize("task", ["detect", "pose"])
def test_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    manifest = make_manifest(task, "xnnpack", input=TensorSpec("images", (1, 3, 8, 8), "float32", "pictures"))

    class Net(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(images * (index + 2) for index in range(len(manifest.outputs)))

    (tmp_path / "model.pte").write_bytes(xnnpack_program(Net(), torch.zeros(1, 3, 8, 8)))
    snippet = re.search(r"```python\n(.*?)```", render(manifest), re.DOTALL)
    assert snippet
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExecuTorch's, when it is imported
        exec(snippet[1], names)  # noqa: S102
    for index, spec in enumerate(manifest.outputs):
        assert torch.equal(names[spec.name], names["images"] * (index + 2))


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
