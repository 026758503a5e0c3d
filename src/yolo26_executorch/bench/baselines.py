"""What artifacts are measured against, behind the runners' protocol.

Each is given its best: PyTorch and torch.compile run channels-last with cuDNN's own search for algorithms, and from
host memory all replay a CUDA graph, between the copies that the artifact's runner makes, too. torch.compile takes what
`torch.export` makes of the model, one graph without breaks; its usual mode is measured unless another is asked for,
since max-autotune takes minutes a model.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import first_line
from ..models.export_model import ExportModel, float32_precision, products
from ..runtime import gpu
from ..runtime.runner import BaseRunner, choose, prepare
from ..runtime.staging import StagedCalls
from .records import TENSORRTS, module_of

if TYPE_CHECKING:
    from ..runtime.runner import Images


class Unavailable(Exception):
    """A peer cannot run here; says why in one line."""


class Peer(BaseRunner):
    """A model that runs on tensors of one device, with a CUDA graph where that is a GPU."""

    name: str
    settings: dict[str, str]
    relaunches = True
    """Whether `run` still launches kernels one by one once a graph was captured."""

    def __init__(self, model: ExportModel, device: str) -> None:
        super().__init__()
        self.input = model.input_spec
        self.outputs = model.output_specs
        self.device = torch.device(device)
        self._captured: gpu.Captured | None = None
        self._staged: StagedCalls | None = None

    def __call__(
        self, images: Images, *, outputs: Sequence[str] | None = None, on_device: bool = False
    ) -> dict[str, Tensor]:
        """Run one batch from host memory and back; see `Runner`. On a GPU it is a graph's replay."""
        chosen = choose(self.outputs, outputs)
        to_host = self.device.type != "cpu" and not on_device
        batch = prepare(images, self.input, check_values=not to_host)
        with self._exclusive():
            if self.device.type == "cpu":
                computed = self.run(batch)
                results = [computed[index] for index in chosen]
            else:
                staged = self._staged = self._staged or StagedCalls(self._captured or self._capture(), self.input)
                results = staged(batch, chosen, to_host=to_host)
        return {self.outputs[index].name: result for index, result in zip(chosen, results, strict=True)}

    def run(self, batch: Tensor) -> list[Tensor]:
        """Run one batch on its device; returns the outputs there."""
        raise NotImplementedError

    def capture(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Capture one call in a CUDA graph; returns the input to write into and the outputs to read from."""
        self._captured = self._capture()
        return self._captured.batch, self._captured.outputs

    def replay(self) -> None:
        """Replay the captured call."""
        if self._captured is None:
            raise RuntimeError("capture() first")
        self._captured.replay()

    def _capture(self) -> gpu.Captured:
        return gpu.capture(self.run, self.input, self.device)


class TorchPeer(Peer):
    """PyTorch itself, eager or compiled."""

    def __init__(self, model: ExportModel, device: str, *, compile_mode: str | None) -> None:
        super().__init__(model, device)
        self.name = "compile" if compile_mode else "eager"
        self.settings = {"threads": str(torch.get_num_threads())} if device == "cpu" else {}
        self._flags = contextlib.ExitStack()
        self._flags.enter_context(float32_precision(products(model.options.precision)))
        if device == "cuda":
            torch.backends.cudnn.benchmark = True
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.settings = {"memory format": "channels last", "cuDNN": "benchmark"}
        model.to(device)
        model.move_anchors(device)
        self._model: Callable[[Tensor], Sequence[Tensor]] = model
        if compile_mode:
            self.settings["mode"] = compile_mode
            example = model.example_input.to(device)
            with torch.no_grad():
                graph = torch.export.export(model, (example,), strict=False).module()
            mode = None if compile_mode == "default" else compile_mode
            self._model = torch.compile(graph, fullgraph=True, dynamic=False, mode=mode)

    def run(self, batch: Tensor) -> list[Tensor]:
        """Run one batch; see `Peer`."""
        with torch.inference_mode():
            return list(self._model(batch))

    def _release(self) -> None:
        """Put PyTorch's settings back."""
        self._flags.close()


class OnnxRuntimePeer(Peer):
    """ONNX Runtime, with its CPU or its CUDA provider; a CUDA graph is its own."""

    name = "onnxruntime"
    relaunches = False

    def __init__(self, model: ExportModel, device: str, *, graph: bool) -> None:
        super().__init__(model, device)
        import onnxruntime  # type: ignore[import-not-found]

        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise Unavailable(f"this onnxruntime has no {provider}; pip install onnxruntime-gpu")
        self.settings = {"version": onnxruntime.__version__, "provider": provider}
        options: dict[str, str] = {}
        if device == "cuda":
            # A graph cannot be captured on the default stream.
            torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]
            options = {
                "use_tf32": str(int(model.options.precision != "fp32")),
                "enable_cuda_graph": str(int(graph)),
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "user_compute_stream": str(torch.cuda.current_stream().cuda_stream),
            }
        self._session = onnxruntime.InferenceSession(to_onnx(model), providers=[(provider, options)])
        if provider not in self._session.get_providers():  # it falls back to the CPU with a warning
            raise Unavailable(f"onnxruntime could not start its {provider}; its message is in the log")
        self._unsynchronized = onnxruntime.RunOptions()
        self._unsynchronized.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._results = [
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=device) for spec in self.outputs
        ]
        self._bound: tuple[int, Any] | None = None

    def run(self, batch: Tensor) -> list[Tensor]:
        """Run one batch; see `Peer`. The outputs are the same tensors each time."""
        if self._bound is None or self._bound[0] != batch.data_ptr():
            self._bound = batch.data_ptr(), self._binding(batch)
        self._session.run_with_iobinding(self._bound[1], self._unsynchronized)
        return self._results

    def _capture(self) -> gpu.Captured:
        """Have ONNX Runtime capture its graph, which it does in the first runs; see `Peer`."""
        batch = gpu.zeros(self.input, self.device)
        for _ in range(3):
            self.run(batch)
        return gpu.Captured(batch, self._results, lambda: self.run(batch))

    def _binding(self, batch: Tensor) -> Any:
        binding = self._session.io_binding()
        names = [node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())]
        binders = [binding.bind_input, *[binding.bind_output] * len(self._results)]
        for bind, name, tensor in zip(binders, names, (batch, *self._results), strict=True):
            kind = np.dtype(str(tensor.dtype).removeprefix("torch.")).type
            bind(name, self.device.type, 0, kind, tuple(tensor.shape), tensor.data_ptr())
        return binding


class TensorRtPeer(Peer):
    """TensorRT, or TensorRT for RTX, which compiles at its first call, from ONNX with the types that are in it."""

    def __init__(self, model: ExportModel, device: str, *, name: str) -> None:
        super().__init__(model, device)
        self.name = name
        trt = importlib.import_module(module_of(name))
        logger, said = _tensorrt_logger(trt)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(to_onnx(model)):
            raise Unavailable(f"TensorRT cannot take the model: {parser.get_error(0).desc()}")
        config = builder.create_builder_config()
        if model.options.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
        else:
            config.set_flag(trt.BuilderFlag.TF32)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Unavailable(f"{name} {trt.__version__} could not build the model: {_first(said)}")
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise Unavailable(f"{name} {trt.__version__} does not run on this GPU: {_first(said)}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._input_name = inputs[0]
        self._results = [
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=device) for spec in self.outputs
        ]
        for name, result in zip([name for name in names if name not in inputs], self._results, strict=True):
            self._context.set_tensor_address(name, result.data_ptr())
        self.settings = {"version": trt.__version__, "types": "as in the ONNX model"}

    def run(self, batch: Tensor) -> list[Tensor]:
        """Run one batch; see `Peer`. The outputs are the same tensors each time."""
        self._context.set_tensor_address(self._input_name, batch.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT's execution failed; its message is in the log")
        return self._results


def _tensorrt_logger(trt: Any) -> tuple[Any, list[str]]:
    """Return a logger that prints errors, and the list where it keeps them."""
    said: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                said.append(message)
                print(message, file=sys.stderr, flush=True)

    return Logger(), said


def _first(said: list[str]) -> str:
    return first_line(Exception(said[0])) if said else "it does not say why"


def to_onnx(model: ExportModel) -> bytes:
    """Export a model to ONNX, end to end, and return the file's content."""
    names = [spec.name for spec in model.output_specs]
    with tempfile.TemporaryDirectory(prefix="yolo26-et-") as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model, (model.example_input,), str(path),
            input_names=["images"], output_names=names, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        return path.read_bytes()


def open_peer(subject: str, model: ExportModel, device: str, *, compile_mode: str, graph: bool) -> Peer:
    """Build a peer.

    Args:
        subject: one of `PEERS`.
        model: the checkpoint as the artifact was made from it, on the CPU; it is used up.
        device: "cuda" or "cpu".
        compile_mode: torch.compile's.
        graph: whether a CUDA graph will be replayed, which ONNX Runtime has to know beforehand.

    Raises:
        Unavailable: it cannot run here.
    """
    made: dict[str, Callable[[], Peer]] = {
        "eager": lambda: TorchPeer(model, device, compile_mode=None),
        "compile": lambda: TorchPeer(model, device, compile_mode=compile_mode),
        "onnxruntime": lambda: OnnxRuntimePeer(model, device, graph=graph),
        **{name: partial(TensorRtPeer, model, device, name=name) for name in TENSORRTS},
    }
    return made[subject]()
