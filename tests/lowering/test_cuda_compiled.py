"""What an export to CUDA compiles, looked at on machines without a GPU; `tests/gpu` runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from support import PATIENCE_S, ROOT, false_cuda, random_model
from yolo26_executorch.artifacts.manifest import Manifest
from yolo26_executorch.artifacts.native_code import read_native_code
from yolo26_executorch.artifacts.program_file import CudaPayload, read_cuda_payload, read_methods
from yolo26_executorch.artifacts.reading import verify
from yolo26_executorch.lowering.passes.fusion import fuse
from yolo26_executorch.lowering.passes.rewrites import for_cuda
from yolo26_executorch.system import probe

pytestmark = pytest.mark.slow

TORCH = ("2.11", "2.13")
SCRIPT = ROOT / "tests" / "support" / "without_gpu.py"
CAPTURABLE = {"aoti_torch_empty_strided", "aoti_torch_clone_preserve_strides"}
"""What a call may do beside launching kernels: take memory of sizes that are known, and copy an input whose address is
no multiple of 16. Nothing waits for the GPU, or asks it for a number."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where yolo26n in fp16 was exported for compute capability 8.6, 8.9 and 9.0; see the script."""
    for wanted, there in {
        "torch 2.11 or 2.13": torch.__version__[:4] in TORCH,
        "a CUDA toolkit with nvcc": probe.toolkit_folder() is not None and shutil.which("nvcc") is not None,
        "g++": shutil.which("g++") is not None,
    }.items():
        if not there:
            pytest.skip(f"needs {wanted}")
    folder = tmp_path_factory.mktemp("compiled")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, "yolo26n", "fp16", "8.6", "8.9", "9.0"],
        capture_output=True, text=True, timeout=PATIENCE_S,
        env={
            **os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
            "TRITON_CACHE_DIR": str(folder / "triton"), "XDG_CACHE_HOME": str(folder / "cache"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["outcome"] == "exported", record["message"]
    return folder


@pytest.fixture(scope="module")
def compiled(base: Path) -> Path:
    return base / "yolo26n"


@pytest.fixture(scope="module")
def manifest(compiled: Path) -> Manifest:
    return verify(compiled)


@pytest.fixture(scope="module")
def payload(compiled: Path) -> CudaPayload:
    return read_cuda_payload(compiled / "model.pte", compiled / "aoti_cuda_blob.ptd")


@pytest.fixture(scope="module")
def call(base: Path) -> Counter[str]:
    """What one run of the model calls on an H100, with how often: kernels as "kernel"."""
    text = (base / "wrapper.cpp").read_text()
    body = text[text.index("void AOTInductorModel::run_impl(") : text.index("} // AOTInductorModel::run_impl")]
    names = re.findall(r"\b(call_\w+|aoti_torch_\w+|cuda[A-Z]\w*|cu[A-Z]\w*)\(", body)
    return Counter("kernel" if name.startswith("call_") else name for name in names)


def test_all_but_the_copies_from_and_to_the_host_is_in_the_delegate(compiled: Path) -> None:
    [method] = read_methods(compiled / "model.pte")
    assert method.delegate_calls == {"CudaBackend": 1}
    assert method.outside == {"et_copy::_h2d_copy.out": 1, "et_copy::_d2h_copy.out": 1}


def test_there_are_few_launches(call: Counter[str]) -> None:
    assert 80 < call["kernel"] < 100


def test_a_call_can_be_captured_in_a_graph(call: Counter[str]) -> None:
    assert set(call) == {"kernel", *CAPTURABLE}


def test_own_kernels_are_launched_early_and_inductors_are_not(base: Path) -> None:
    text = (base / "wrapper.cpp").read_text()
    launches = Counter(re.findall(r"\b(launchEarly|launchKernel)\(kernels_\.(triton_)?", text))
    assert {pair for pair, _ in launches.items()} == {("launchEarly", ""), ("launchKernel", "triton_")}


def test_inductors_reductions_take_eight_rows_a_program(base: Path) -> None:
    text = (base / "wrapper.cpp").read_text()
    start = text.index("void call_triton_per_fused_amax")
    assert re.search(r"grid_0 = (.*);", text[start:])[1] == "((xnumel + (8 - 1)) / (8))"  # type: ignore[index]


def test_the_library_asks_for_nothing_that_the_official_runtime_lacks(payload: CudaPayload) -> None:
    native = read_native_code(payload.library)
    assert native.foreign() == []
    assert "aoti_torch_get_data_ptr" in native.undefined
    assert "libcuda.so.1" in native.libraries


def test_there_is_machine_code_for_every_gpu(payload: CudaPayload, manifest: Manifest) -> None:
    native = read_native_code(payload.library)
    assert set(native.binaries) == {"8.6", "9.0"}  # 8.9 runs 8.6's
    assert all(40 < count < 80 for count in native.binaries.values())
    assert native.ptx == {"8.6": native.binaries["8.6"]}  # sm_90a's is for no other GPU
    platform = manifest.platform
    assert platform.architectures == ("8.6", "8.9", "9.0")
    assert (platform.gpu_binaries, platform.gpu_ptx) == (("8.6", "9.0a"), ("8.6",))
    assert (platform.glibc, platform.glibcxx) == (native.newest("GLIBC_"), native.newest("GLIBCXX_"))
    assert platform.glibc is not None


def test_it_was_tested_as_far_as_it_goes_without_a_gpu(compiled: Path, manifest: Manifest) -> None:
    test = manifest.test
    assert test is not None
    assert (test["passed"], test["failures"], test["runner"]) == (True, [], "reference")
    assert test["not_run"] == ["8.6", "8.9", "9.0"]
    assert set(test["kernels"]) == {"8.6", "9.0"}
    assert 0 < test["largest"]["ratio"] < 1
    assert "**Not run** on GPUs of compute capability 8.6, 8.9, 9.0" in (compiled / "README.md").read_text()


def test_the_interface_passes_calls_on(payload: CudaPayload, tmp_path: Path) -> None:
    library = tmp_path / "model.so"
    library.write_bytes(payload.library)
    listed = subprocess.check_output(["nm", "--dynamic", "--defined-only", library], text=True)
    names = {line.split()[-1] for line in listed.splitlines()}
    assert {
        f"AOTInductorModelContainer{name}" for name in ("CreateWithDevice", "Delete", "Run", "GetNumInputs")
    } <= names
    assert all(name.startswith("AOTInductor") for name in names)


def test_each_gpu_opens_its_own_object(payload: CudaPayload, tmp_path: Path) -> None:
    library = tmp_path / "model.so"
    library.write_bytes(payload.library)
    cuda = false_cuda.build(tmp_path)
    for capability in (86, 89, 90, 120):  # the last by way of PTX
        done = false_cuda.opened(library, cuda, capability)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["1", "1", str(len(payload.weights)), payload.weights[0].name]
    done = false_cuda.opened(library, cuda, 75)
    assert done.returncode == 3
    assert "the GPU is of compute capability 7.5; this model was compiled for 8.6 9.0" in done.stderr


def test_weights_are_those_of_the_network_and_fit_their_blocks(compiled: Path, payload: CudaPayload) -> None:
    assert len(payload.weights) > 100
    assert all(weight.fits() for weight in payload.weights)
    model = for_cuda(random_model("yolo26n", backend="cuda", precision="fp16"))
    values = fuse(model, model.example_input, "tf32").state_dict()
    named = [weight for weight in payload.weights if weight.name in values]
    assert len(named) >= len(payload.weights) - 2  # the places of predictions are no weights
    for weight in named:
        # Made here once more, on another number of threads: rounded otherwise.
        assert torch.allclose(weight.tensor("cpu"), values[weight.name], rtol=1e-2, atol=1e-3), weight.name
    half = sum(len(weight.data) for weight in payload.weights if weight.dtype == torch.float16)
    size = sum((compiled / name).stat().st_size for name in ("model.pte", "aoti_cuda_blob.ptd"))
    # For one kind of GPU 6 MB of kernels and code; a second compile, which two of these three share, brings 4 more.
    assert size < 1.3 * half + 6e6 + 4e6
