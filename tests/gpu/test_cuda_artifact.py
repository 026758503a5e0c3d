"""A CUDA artifact from its export to its runs inside PyTorch. The exports take minutes; the tests share them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor

import check_runners
from support import random_checkpoint
from yolo26_executorch import cli
from yolo26_executorch.artifacts.manifest import PROGRAM, WEIGHTS, Manifest
from yolo26_executorch.artifacts.reading import verify
from yolo26_executorch.errors import CompatibilityError, InputError, IntegrityError, UsageError
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.parity.baseline import Reference
from yolo26_executorch.runtime import open_runner
from yolo26_executorch.system.requirements import executorch_runtime_fits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # Inductor's and Triton's own, of every release others.
    pytest.mark.filterwarnings("ignore"),
]

NAMES = ("yolo26n", "yolo26n-seg", "yolo26s")
"""One output; two, with the rewritten transposed convolution; weights beyond the cache, so that kernels overlap."""

Exported = Callable[[str], Path]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a variant once for all processes of this run; returns its folder."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def export(name: str) -> Path:
        base = root / f"cuda {name}"
        with FileLock(root / f"{name}.lock"):
            if not (base / "report.json").exists():
                words = ["export", "--models", name, "--backend", "cuda", "--random-weights", "--imgsz", "320"]
                cli.main([*words, "--base-path", str(base), "--debug"])
        return base / name

    return export


def open_aoti(folder: Path) -> Any:
    return open_runner(folder, runner="aoti")


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, exported: Exported) -> Path:
    return exported(request.param)


@pytest.fixture
def runner(folder: Path) -> Iterator[Any]:
    with open_aoti(folder) as opened:
        yield opened


def pictures(runner: Any, seed: int) -> Tensor:
    return random_input(runner.input, seed)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def agrees(manifest: Manifest, outputs: dict[str, Tensor], images: Tensor) -> list[str]:
    """What is wrong with outputs, compared with eager on the GPU as in the smoke test."""
    reference = Reference(manifest, random_checkpoint(manifest.name))
    reports = reference.compare(outputs, reference.predictions(images))
    return [failure for report in reports.values() for failure in report.failures]


# ---- the export ------------------------------------------------------------------------------------------------------


def test_it_is_exported_whole_and_passes_its_smoke_test(folder: Path) -> None:
    (record,) = json.loads((folder.parent / "report.json").read_text())["records"]
    assert (record["outcome"], record["message"]) == ("exported", None)
    assert record["test"]["passed"]
    assert set(record["seconds"]) == {"load", "export", "lower", "compile", "write", "test"}
    manifest = verify(folder)
    assert (manifest.backend, manifest.delegate.name, manifest.delegate.outside) == ("cuda", "CudaBackend", {})
    assert manifest.delegate.delegated > 50
    assert manifest.platform.runs_on(torch.cuda.get_device_capability())
    assert {PROGRAM, WEIGHTS} <= set(manifest.files)
    assert {"cuda", "triton", "gpu"} <= set(manifest.versions)


def test_inspect_reads_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(folder)]) == 0
    assert "CudaBackend × 1" in capsys.readouterr().out


def test_a_truncated_weights_file_is_refused(folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(folder, tmp_path / folder.name)  # others are reading the original
    path = own / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        open_runner(own)


def test_auto_takes_the_runner_that_there_is(folder: Path) -> None:
    with open_runner(folder) as runner:
        assert runner.name in ("aoti", "executorch")
    if not executorch_runtime_fits() or runner.name == "aoti":
        with pytest.raises(CompatibilityError):
            open_runner(folder, runner="executorch")


# ---- inside PyTorch --------------------------------------------------------------------------------------------------


def test_outputs_follow_the_input(folder: Path, runner: Any) -> None:
    manifest = verify(folder)
    seen = {}
    for seed in (1, 2):
        images = pictures(runner, seed)
        seen[seed] = runner(images)
        assert agrees(manifest, seen[seed], images) == []
        assert all(output.device.type == "cpu" for output in seen[seed].values())
    assert not same(seen[1], seen[2])
    assert same(runner(pictures(runner, 1)), seen[1])


def test_a_graphs_replay_is_the_call(runner: Any) -> None:
    expected = {seed: runner(pictures(runner, seed)) for seed in (1, 2)}
    batch, outputs = runner.capture()
    names = [spec.name for spec in runner.outputs]
    for seed in (1, 2, 1):
        batch.copy_(pictures(runner, seed))
        runner.replay()
        torch.cuda.synchronize()
        assert same(dict(zip(names, (output.cpu() for output in outputs), strict=True)), expected[seed])
    # A plain call in between disturbs neither what was written nor what is to be read.
    assert same(runner(pictures(runner, 2)), expected[2])
    torch.cuda.synchronize()
    assert same(dict(zip(names, (output.cpu() for output in outputs), strict=True)), expected[1])
    runner.replay()
    torch.cuda.synchronize()
    assert same(dict(zip(names, (output.cpu() for output in outputs), strict=True)), expected[1])


def test_a_call_is_what_its_launches_give(runner: Any) -> None:
    names = [spec.name for spec in runner.outputs]
    for seed in (1, 2, 1):
        images = pictures(runner, seed)
        launched = [output.cpu() for output in runner.run(images.cuda())]
        assert same(runner(images), dict(zip(names, launched, strict=True)))


def test_a_call_can_be_captured_in_a_graph_of_the_callers(runner: Any) -> None:
    expected = runner(pictures(runner, 1))
    held = pictures(runner, 1).cuda()
    side: Any = torch.cuda.Stream
    with torch.cuda.stream(side()):
        runner.run(held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = runner(held)
    graph.replay()
    torch.cuda.synchronize()
    assert same({name: output.cpu() for name, output in outputs.items()}, expected)


def test_another_thread_may_pin_memory_while_a_call_is_captured(folder: Path) -> None:
    """As data loaders do; a capture forbids it unless told otherwise."""
    done = threading.Event()
    failures: list[Exception] = []

    def pin() -> None:
        while not done.is_set():
            try:
                torch.empty(100_003).pin_memory()
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for _ in range(5):
            with open_aoti(folder) as runner:
                runner(pictures(runner, 1))
    finally:
        done.set()
        thread.join()
    assert failures == []


def test_results_are_the_callers_to_keep(runner: Any) -> None:
    first = runner(pictures(runner, 1))
    kept = {name: output.clone() for name, output in first.items()}
    runner(pictures(runner, 2))
    assert same(first, kept)


def test_replay_needs_a_capture(runner: Any) -> None:
    with pytest.raises(RuntimeError, match="capture"):
        runner.replay()


def test_other_streams_give_the_same(runner: Any) -> None:
    expected = runner(pictures(runner, 1))
    stream: Any = torch.cuda.Stream
    with torch.cuda.stream(stream()):
        given = runner(pictures(runner, 1))
    assert same(given, expected)


def test_two_runners_side_by_side(folder: Path, runner: Any) -> None:
    expected = runner(pictures(runner, 1))
    with open_aoti(folder) as other:
        assert same(other(pictures(other, 1)), expected)
    assert same(runner(pictures(runner, 1)), expected)


def test_strides_dtypes_and_devices_are_made_right(runner: Any) -> None:
    images = pictures(runner, 1)
    expected = runner(images)
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for given in (strided, images.double(), images.numpy(), images.cuda(), strided.cuda()):
        assert same(runner(given), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images[0],
        lambda images: images.permute(0, 2, 3, 1),
        lambda images: torch.cat([images, images]),
        lambda images: (images * 255).to(torch.uint8),
        lambda images: images * 255,
        lambda images: images[:, :, :-32],
    ],
)
def test_wrong_input_is_refused_and_the_runner_goes_on(runner: Any, change: Callable[[Tensor], Tensor]) -> None:
    expected = runner(pictures(runner, 1))
    with pytest.raises(InputError):
        runner(change(pictures(runner, 1)))
    assert same(runner(pictures(runner, 1)), expected)


def test_closing_twice_is_no_error_and_gives_the_memory_back(folder: Path) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    runner = open_aoti(folder)
    runner(pictures(runner, 1))
    runner.capture()
    assert torch.cuda.memory_allocated() > before
    runner.close()
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner(pictures(runner, 1))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_threads_get_the_answers_to_their_own_images(folder: Path) -> None:
    check = check_runners.check_threads(lambda device: open_aoti(folder), "cuda:0", 4, 400)
    assert check.wrong == 0


def test_opening_and_closing_leaves_no_memory_behind(exported: Exported) -> None:
    folder = exported("yolo26n")
    check = check_runners.check_openings(lambda device: open_aoti(folder), "cuda:0", 40)
    assert check.passed, check


def test_what_was_closed_gives_the_same_when_it_is_opened_again(folder: Path) -> None:
    with open_aoti(folder) as runner:
        expected = {seed: runner(pictures(runner, seed)) for seed in (1, 2)}
    with open_aoti(folder) as runner, open_aoti(folder) as other:
        for seed, outputs in expected.items():
            assert same(runner(pictures(runner, seed)), outputs)
            assert same(other(pictures(other, seed)), outputs)


def test_outputs_stay_on_the_gpu_where_that_is_asked_for(runner: Any) -> None:
    expected = runner(pictures(runner, 1))
    first = runner.outputs[0].name
    kept = runner(pictures(runner, 1), outputs=[first], on_device=True)
    assert list(kept) == [first]
    assert kept[first].device == runner.device
    runner(pictures(runner, 2))
    assert torch.equal(kept[first].cpu(), expected[first])


def test_a_fork_is_refused_in_words(runner: Any) -> None:
    import multiprocessing

    images = pictures(runner, 1)
    expected = runner(images)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def call() -> None:
        try:
            runner(images)
        except Exception as error:
            sender.send(f"{type(error).__name__}: {error}")
        runner.close()

    child = context.Process(target=call)
    child.start()
    try:
        assert receiver.poll(60), "it hangs"
        assert "open the model in the child" in receiver.recv()
    finally:
        child.kill()
        child.join()
    assert same(runner(images), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runners_on_two_gpus(folder: Path) -> None:
    def open_on(device: str) -> Any:
        return open_runner(folder, runner="aoti", device=device)

    for check in check_runners.check_two(open_on, ("cuda:0", "cuda:1"), 4, 250):
        assert check.wrong == 0, check
    assert torch.cuda.current_device() == 0
