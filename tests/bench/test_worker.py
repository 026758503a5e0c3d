"""What works in a row's process: timing, peers, counted work; and one benchmark from end to end on the CPU."""

from __future__ import annotations

import itertools
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from support import ROOT, random_checkpoint, random_model
from support.stub_runner import StubRunner
from yolo26_executorch.bench import Settings, baselines, measure, roofline, timing, worker
from yolo26_executorch.bench.baselines import Unavailable, open_peer
from yolo26_executorch.bench.process import WORKER, Job
from yolo26_executorch.bench.worker import Opened
from yolo26_executorch.errors import Yolo26Error
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.preprocess import random_input
from yolo26_executorch.models.tasks import TASKS
from yolo26_executorch.runtime.eager import EagerRunner

# ---- timing ----------------------------------------------------------------------------------------------------------


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).random(37).tolist()
    for percent in (0, 20, 50, 80, 100):
        assert timing.percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))
    assert timing.percentile([3.0], 80) == 3.0
    with pytest.raises(ValueError, match="no values"):
        timing.percentile([], 50)


def test_a_round_takes_every_input_in_turn_and_times_the_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(now[0]))
    now, done = [0.0], []

    def advance() -> None:
        now[0] += 100.0  # what is not timed takes longest
        done.append("advance")

    def run() -> None:
        now[0] += float(next(clock))
        done.append("run")

    found = timing.measure(timing.Call(run, advance, timing.HOST, False), runs=11, seconds=0, warm_s=0)
    assert done == ["advance", "run"] * 12
    assert (found.runs, found.p20_ms, found.p50_ms, found.p80_ms) == (11, 3000.0, 6000.0, 9000.0)
    assert (found.block_ms, found.cold_ms, found.sm_mhz, found.power_w) == (None, None, None, None)


def test_a_round_lasts_as_long_as_asked() -> None:
    call = timing.Call(lambda: None, lambda: None, timing.HOST, False)
    assert timing.measure(call, runs=1, seconds=0.02, warm_s=0.01).runs > 1


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a program of that name first on PATH."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_the_gpus_readings_are_nvidia_smis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(timing, "_synchronize", lambda: None)
    nvidia_smi(tmp_path, monkeypatch, '[ "$1$2" = "-i3" ] && echo "1980, [N/A], 41"')
    call = timing.Call(lambda: None, lambda: None, timing.HOST, True)
    assert timing.warm_up(call, 0) == {"clocks.sm": 1980.0, "power.draw": None, "temperature.gpu": 41.0}
    nvidia_smi(tmp_path, monkeypatch, "echo 512")
    assert timing.gpu_memory_used() == 512 * 2**20


@pytest.mark.parametrize("body", ["echo no such GPU; exit 6", "echo 1, 2", "exit 0", "echo [N/A]"])
def test_readings_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    nvidia_smi(tmp_path, monkeypatch, body)
    assert timing.gpu_memory_used() is None
    monkeypatch.setenv("PATH", "/nonexistent")
    assert timing.gpu_memory_used() is None


# ---- the roofline ----------------------------------------------------------------------------------------------------


def test_work_is_that_of_convolutions_and_products() -> None:
    def work(size: int, precision: str, batch: int = 1) -> Any:
        options = ExportOptions(backend="cuda", precision=precision, imgsz=(size, size), batch=batch)
        return roofline.count_work(random_checkpoint("yolo26n"), options, precision)

    whole, half = work(640, "fp32"), work(640, "fp16")
    assert whole.gflop == pytest.approx(5.4, rel=0.03)  # Ultralytics' figure
    assert half.gflop == whole.gflop
    # The weights alone are 2.4 million values; of the first layer's output alone there are 1.6 million.
    assert 0.01 < half.gb == pytest.approx(whole.gb / 2, rel=0.01)
    assert work(640, "fp32", batch=2).gflop == pytest.approx(2 * whole.gflop)
    assert whole.floor_ms is None


def test_each_tensor_of_an_operator_counts_once() -> None:
    image, weight, bias = torch.empty(1, 3, 8, 8), torch.empty(4, 3, 1, 1), torch.empty(4)
    with torch.no_grad(), roofline._Traffic() as traffic:
        torch.nn.functional.conv2d(image, weight, bias).relu()
    assert traffic.bytes == 4 * (3 * 64 + 12 + 4 + 4 * 64)


def test_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SIDE", {"cpu": 64})
    monkeypatch.setattr(roofline, "_COPIED_BYTES", {"cpu": 1 << 16})
    for precision in ("fp32", "fp16"):
        found = roofline.measure_ceilings("cpu", precision)
        assert (found.device, found.precision) == ("cpu", precision)
        assert found.gflop_s > 0 and found.gb_s > 0


# ---- peers -----------------------------------------------------------------------------------------------------------


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("task", TASKS)
def test_eager_is_eager(task: str) -> None:
    name = f"yolo26n{TASKS[task].suffix}"
    with open_peer("eager", random_model(name), "cpu", compile_mode="default", graph=False) as peer:
        images = random_input(peer.input, 1)
        assert same(peer(images), EagerRunner(random_model(name))(images))
        assert (peer.name, peer.settings) == ("eager", {"threads": "1"})


@pytest.mark.slow
def test_compile_is_one_graph_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked = torch.compile, []

    def compile_(graph: Any, **options: Any) -> Any:
        asked.append(options)
        return whole(graph, fullgraph=options["fullgraph"], dynamic=options["dynamic"], backend="eager")

    monkeypatch.setattr(torch, "compile", compile_)
    peer = open_peer("compile", random_model("yolo26n"), "cpu", compile_mode="default", graph=False)
    images = random_input(peer.input, 1)
    assert same(peer(images), EagerRunner(random_model("yolo26n"))(images))
    assert asked == [{"fullgraph": True, "dynamic": False, "mode": None}]
    assert peer.settings["mode"] == "default"
    torch._dynamo.reset()


def test_an_onnxruntime_without_the_gpus_provider_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("onnxruntime")
    module.get_available_providers = lambda: ["CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    with pytest.raises(Unavailable, match=r"no CUDAExecutionProvider; pip install onnxruntime-gpu"):
        baselines.OnnxRuntimePeer(random_model("yolo26n-cls"), "cuda", graph=True)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("said", [(), ("no engine for compute capability 9.0", "and so on")])
def test_a_tensorrt_that_does_not_serve_the_gpu_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: tuple[str, ...]
) -> None:
    class Logger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

        def log(self, severity: int, message: str) -> None:
            raise NotImplementedError

    def no_engine(logger: Logger) -> Any:
        logger.log(Logger.WARNING, "slow")
        for message in said:
            logger.log(Logger.ERROR, message)
        return Mock(deserialize_cuda_engine=lambda plan: None)

    module: Any = Mock(ILogger=Logger, Runtime=no_engine, __version__="1.7")
    module.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    monkeypatch.setitem(sys.modules, name.replace("-", "_"), module)
    monkeypatch.setattr(baselines, "to_onnx", lambda model: b"model")
    why = said[0] if said else "it does not say why"
    with pytest.raises(Unavailable, match=f"^{name} 1.7 does not run on this GPU: {why}$"):
        open_peer(name, random_model("yolo26n-cls"), "cuda", compile_mode="default", graph=True)
    assert capsys.readouterr().err.splitlines() == list(said)


def test_a_replay_needs_a_capture() -> None:
    peer = open_peer("eager", random_model("yolo26n-cls"), "cpu", compile_mode="default", graph=False)
    with pytest.raises(RuntimeError, match="capture"):
        peer.replay()


# ---- the worker's parts ----------------------------------------------------------------------------------------------


class Held(StubRunner):
    """A stub that takes tensors on its device, and has a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.held = torch.zeros(self.input.shape)
        self.seen: list[float] = []

    def run(self, batch: Tensor) -> list[Tensor]:
        return [batch.mean()[None]]

    def capture(self) -> tuple[Tensor, list[Tensor]]:
        self.result = torch.zeros(1)
        return self.held, [self.result]

    def replay(self) -> None:
        self.seen.append(float(self.held[0, 0, 0, 0]))
        self.result.copy_(self.held.mean()[None])


def inputs_of(values: tuple[float, ...] = (0.25, 0.5)) -> list[Tensor]:
    return [torch.full((1, 3, 320, 320), value) for value in values]


def test_a_graph_gets_every_input_before_it_is_replayed() -> None:
    runner, inputs = Held(), inputs_of()
    call, outputs = worker._call(Job("row", mode="graph"), Opened(runner, None), inputs, "cuda")
    assert worker._replay_equals_call(runner, inputs[0], outputs) is True
    assert worker._replay_equals_call(runner, inputs[1], outputs) is False
    for _ in range(3):
        call.advance()
        call.run()
    assert runner.seen == [0.25, 0.25, 0.5, 0.25]
    assert call.clock == timing.DEVICE
    runner.relaunches = False  # type: ignore[attr-defined]
    assert worker._replay_equals_call(runner, inputs[1], outputs) is None


@pytest.mark.parametrize(("mode", "clock"), [("launched", timing.DEVICE), ("host", timing.HOST)])
def test_calls_take_inputs_in_turns(mode: str, clock: str) -> None:
    runner = Held()
    call, outputs = worker._call(Job("row", mode=mode), Opened(runner, None), inputs_of(), "cpu")
    assert outputs and call.clock == clock
    results = []
    for _ in range(2):
        call.advance()
        results.append(call.run())
    if mode == "host":
        assert [float(batch.mean()) for batch in runner.given] == [0.25, 0.5, 0.25]
    else:
        assert [float(result[0]) for result in results] == [0.5, 0.25]  # type: ignore[index]


def test_wrong_numbers_are_not_timed() -> None:
    worker._check_finite([torch.ones(2), torch.ones(2, dtype=torch.uint8)])
    for value in (float("nan"), float("inf")):
        with pytest.raises(Yolo26Error, match="NaN or infinity"):
            worker._check_finite([torch.ones(2), torch.tensor([value])])


@pytest.mark.parametrize(
    ("job", "event", "words"),
    [
        ('{"kind": "row", "folder": "/nonexistent"}', "failed", "no artifact at /nonexistent"),
        ('{"kind": "nonsense"}', "failed", "KeyError"),
        ("", "failed", "JSONDecodeError"),
    ],
)
def test_every_failure_is_an_event(job: str, event: str, words: str) -> None:
    done = subprocess.run(
        WORKER,
        input=job + "\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert f'"event": "{event}"' in line and words in line


# ---- from end to end -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_benchmark_on_the_cpu(exported: Callable[[str], Path]) -> None:
    settings = Settings(against=("eager",), runs=4, rounds=2, warm_s=0, round_s=0, weights_dir=ROOT / "weights", jobs=2)
    said: list[str] = []
    report = measure([exported("detect")], settings, command="yolo26-et bench", progress=said.append)
    rows = {f"{row.subject} {row.mode}": row for row in report.rows}
    assert {name: row.outcome for name, row in rows.items()} == {
        "artifact graph": "skipped", "eager graph": "skipped", "artifact launched": "skipped",
        "artifact host": "measured", "eager host": "measured", "artifact file": "measured",
    }, said  # fmt: skip
    for row in rows.values():
        if row.measured:
            assert row.latency is not None and row.memory is not None
            assert 0 < row.latency.p20_ms <= row.latency.p50_ms <= row.latency.p80_ms
            assert (row.latency.runs, len(row.rounds), row.device, row.clock) == (4, 2, "cpu", "host clock")
            assert row.memory.host_bytes and row.memory.host_bytes > 10**8
    assert (rows["artifact host"].runner, rows["eager host"].runner) == ("executorch", "eager")
    (most,) = report.ceilings
    assert (most.device, most.precision) == ("cpu", "fp32")
    (work,) = report.work.values()
    assert work.gflop == pytest.approx(1.3, abs=0.2) and work.floor_ms
    assert not report.failed and not report.warnings


def test_without_its_checkpoint_a_peer_fails_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "yolo26_executorch.models.checkpoints.default_weights_dir", lambda: tmp_path
    )  # may be this repository's
    job = Job("row", str(exported("detect")), "eager", "host", weights_dir=str(tmp_path))
    said: list[dict[str, Any]] = []
    with pytest.raises(Yolo26Error, match="no such file in"):
        worker._row(job, said.append)
    assert said == []
