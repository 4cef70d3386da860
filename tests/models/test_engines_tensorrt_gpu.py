"""Plans that run: built, loaded and compared with ONNX Runtime. Needs an NVIDIA GPU, and skips where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from models.engines.built import EngineKey, network_sha256
from models.engines.onnx_runtime import OnnxRuntimeEngine
from models.engines.tensorrt import TensorRTEngine
from models.engines.tensorrt_binding import is_for
from models.engines.tensorrt_cuda import CudaBinding, use_gpu
from models.errors import ConfigurationError
from models.settings import Settings, load
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task
from training.tensorrt_plan import build_plan

TOLERANCE = 2e-3
"""Of probabilities and maps: both compute in FP32, in another order."""


@pytest.fixture(scope="module")
def capability() -> str:
    try:
        return use_gpu()
    except ConfigurationError:
        pytest.skip("there is no NVIDIA GPU that cuda-python can use")


@pytest.fixture(scope="module", params=[Task.PNEUMONIA, Task.CSI])
def version(request: pytest.FixtureRequest) -> ModelVersion:
    return ModelStore(load(Settings).model_store).open(request.param)


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def engine(request: pytest.FixtureRequest, version: ModelVersion, capability: str) -> Iterator[TensorRTEngine]:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    plan = build_plan(version.network_path.read_bytes(), module_name=request.param, profile_batches=(1, 4, 8))
    if not is_for(plan.device, capability):
        pytest.skip(f"{request.param} builds for {plan.device}, and here is {capability}")
    key = EngineKey(network_sha256(version), plan.provider, plan.provider_version, "fp32", plan.device)
    loaded = TensorRTEngine(version, key, plan.content, CudaBinding(request.param))
    yield loaded
    loaded.close()


@pytest.mark.parametrize("provider", ["tensorrt", "tensorrt_rtx"])
def test_a_recorded_graph_copies_whatever_bytes_lie_there_when_it_is_launched(provider: str, capability: str) -> None:
    pytest.importorskip(provider, reason=f"{provider} is not installed")
    binding = CudaBinding(provider)
    size = 1 << 20
    device, sent, received = binding.malloc_device(size), binding.malloc_pinned(size), binding.malloc_pinned(size)
    received.array[:] = 0
    binding.begin_capture()
    binding.copy_in(device, sent, size)
    binding.copy_out(received, device, size)
    graph = binding.end_capture()
    binding.synchronize()
    assert not received.array.any()  # recorded, not run
    sent.array[:] = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    binding.launch(graph)
    binding.synchronize()
    np.testing.assert_array_equal(received.array, sent.array)
    binding.free_graph(graph)
    binding.free_device(device)
    binding.free_pinned(sent)
    binding.free_pinned(received)
    binding.close()


@pytest.mark.parametrize("count", [1, 3, 8, 19])
def test_a_plan_answers_as_onnx_runtime_does(engine: TensorRTEngine, version: ModelVersion, count: int) -> None:
    spec = version.manifest.input_spec
    image = np.random.default_rng(count).random((count, 1, spec.height, spec.width), dtype=np.float32)
    expected = OnnxRuntimeEngine(version).run(image)
    outputs = engine.run(image)
    assert outputs.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(outputs[name], expected[name], atol=TOLERANCE, err_msg=name)


def test_every_bucket_runs_as_a_cuda_graph(engine: TensorRTEngine) -> None:
    assert engine.recorded == (1, 2, 4, 8)


def test_a_closed_engine_leaves_the_gpu_to_the_next(engine: TensorRTEngine, version: ModelVersion) -> None:
    spec = version.manifest.input_spec
    image = np.zeros((2, 1, spec.height, spec.width), np.float32)
    before = engine.run(image)
    CudaBinding(engine.info.provider).close()
    np.testing.assert_array_equal(engine.run(image)["probability"], before["probability"])
