"""Real plans, built by tensorrt_rtx without a GPU: what shipped versions and small graphs become, and what is refused.

What runs them is tested in tests/models/test_engines_tensorrt.py; every network is built by tests.benchmarks.plans.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models.engines.tensorrt_cuda import CudaBinding
from models.errors import ConfigurationError
from models.networks.cbam import Cbam
from models.pixels.spec import InputSpec
from models.settings import Settings, load
from models.store.store import ModelStore
from models.tasks import Task
from training.onnx_file import export_onnx
from training.tensorrt_plan import RTX, RTX_CAPABILITIES, BuiltPlan, PlanError, _timing_cache, build_plan

pytest.importorskip(RTX, reason="tensorrt_rtx is not installed: pip install 'radstream[tensorrt-rtx]'")


def plan_of(graph: onnx.ModelProto | bytes, **how: Any) -> BuiltPlan:
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    return build_plan(content, module_name=RTX, **how)


def convolution(kind: str = "fp32", *, batch: int | str = "N", relu: str = "Relu") -> onnx.ModelProto:
    """Build ``image`` (N, 1, 8, 8) through one convolution of 16 channels, computed in the given precision."""
    weight = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)
    scale, zero = numpy_helper.from_array(np.float32(0.05), "scale"), numpy_helper.from_array(np.int8(0), "zero")
    constants = [numpy_helper.from_array(np.array([1, 16, 1, 1]), "sixteen"), scale, zero]
    nodes = [helper.make_node("Expand", ["image", "sixteen"], ["wide"], "widen")]
    if kind == "int8":
        nodes += [
            helper.make_node("QuantizeLinear", ["wide", "scale", "zero"], ["q"], "quantise"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], "dequantise"),
            helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["w"], "weight"),
        ]
        constants.append(numpy_helper.from_array(np.clip(np.rint(weight / 0.05), -127, 127).astype(np.int8), "w8"))
    else:
        dtype = np.float16 if kind == "fp16" else np.float32
        to = TensorProto.FLOAT16 if kind == "fp16" else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", ["wide"], ["x"], "narrow", to=to))
        constants.append(numpy_helper.from_array(weight.astype(dtype), "w"))
    nodes += [
        helper.make_node("Conv", ["x", "w"], ["convolved"], "the_convolution", pads=[1, 1, 1, 1]),
        helper.make_node(relu, ["convolved"], ["active"], "the_activation"),
        helper.make_node("Cast", ["active"], ["answer"], "widen_again", to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 8, 8])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, [batch, 16, 8, 8])
    graph = helper.make_graph(nodes, "small", [image], [answer], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


# Networks


@pytest.mark.parametrize("task", [Task.PNEUMONIA, Task.CSI, Task.LANDMARKS])
def test_the_shipped_version_becomes_a_plan(task: Task, capfd: pytest.CaptureFixture[str]) -> None:
    version = ModelStore(load(Settings).model_store).open(task)
    plan = plan_of(version.network_path.read_bytes())
    manifest, labels = version.manifest, len(version.manifest.labels)
    image, *outputs = plan.tensors
    assert (image.name, image.is_input, image.dtype) == ("image", True, "FLOAT")
    assert image.shape == (-1, 1, manifest.input_spec.height, manifest.input_spec.width)
    assert tuple(output.name for output in outputs) == manifest.output_names
    assert {output.dtype for output in outputs} == {"FLOAT"}
    expected = {Task.PNEUMONIA: (-1, labels), Task.CSI: (-1, 6, labels), Task.LANDMARKS: (-1, labels, 2)}
    assert outputs[0].shape == expected[task]
    assert all(min(output.shape[1:]) > 0 for output in outputs), "only the batch is free"
    graph = onnx.load(version.network_path).graph
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    assert Counter(layer.kind for layer in plan.layers)["CONVOLUTION"] == convolutions
    assert "Half" not in {dtype for layer in plan.fused for dtype in layer.dtypes}, "weights are stored so, not used so"
    assert capfd.readouterr() == ("", "")


def test_attention_becomes_a_plan() -> None:
    """No shipped version has any; the decoders of landmarks are built in test_landmark_graph."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 32, 3, stride=4, padding=1), Cbam(32))
    plan = plan_of(export_onnx(network, InputSpec(height=48, width=32), ("map",)))
    assert [tensor.shape for tensor in plan.tensors] == [(-1, 1, 48, 32), (-1, 32, 12, 8)]


# Precision and profile


@pytest.mark.parametrize(("kind", "type_"), [("fp32", "Float"), ("fp16", "Half"), ("int8", "Int8")])
def test_precision_is_what_the_file_says(kind: str, type_: str) -> None:
    plan = plan_of(convolution(kind))
    (layer,) = (layer for layer in plan.fused if "the_convolution" in layer.name)
    assert type_ in layer.dtypes
    assert "Half" not in layer.dtypes or kind == "fp16"


def test_a_plan_says_for_what_it_was_built() -> None:
    plan = plan_of(convolution(), profile_batches=(1, 2, 4))
    assert (plan.provider, plan.device) == (RTX, "sm_80+sm_86+sm_89+sm_120+sm_121")
    assert plan.provider_version.count(".") >= 2
    assert plan.batches == (1, 2, 4)
    assert plan.seconds > 0


def test_a_plan_for_one_gpu_is_another_plan() -> None:
    plan = plan_of(convolution(), capabilities=("sm_86",))
    assert plan.device == "sm_86"
    assert plan.content != plan_of(convolution()).content


# What is refused


def test_an_operator_that_is_not_known_is_named_with_its_node() -> None:
    with pytest.raises(PlanError, match=r"node the_activation \(Bernoullis\): ") as caught:
        plan_of(convolution(relu="Bernoullis"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no graph"], ids=["empty", "garbage"])
def test_bytes_that_are_no_graph_are_refused(content: bytes) -> None:
    with pytest.raises(PlanError, match=r"tensorrt_rtx [0-9.]+: cannot read the network"):
        plan_of(content)


def test_a_network_for_one_batch_size_is_refused() -> None:
    with pytest.raises(PlanError, match="N free"):
        plan_of(convolution(batch=2))


@pytest.mark.parametrize("batches", [(4, 2, 8), (1, 8, 4)])
def test_batches_that_do_not_ascend_are_refused(batches: tuple[int, int, int]) -> None:
    with pytest.raises(PlanError, match="are no profile"):
        plan_of(convolution(), profile_batches=batches)


@pytest.mark.parametrize("capability", ["sm_90", "sm_1", "ampere"])
def test_a_gpu_that_is_not_built_for_is_refused(capability: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{capability}: not a GPU"):
        plan_of(convolution(), capabilities=(*RTX_CAPABILITIES, capability))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_a_module_that_is_not_installed_is_said_with_its_extra() -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'radstream\[tensorrt\]'"):
        build_plan(b"", module_name="tensorrt")


def test_without_a_gpu_no_engine_is_run() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigurationError, match=r"GPU 0: cannot be used here \(cudaSetDevice: cudaError"):
        CudaBinding(RTX)


# The timing cache of tensorrt, which needs a GPU: a stand-in of its configuration, for control flow only.


class StandInConfig:
    def __init__(self, accepted: bytes) -> None:
        self.accepted = accepted
        self.used: bytes | None = None

    def create_timing_cache(self, stored: bytes) -> bytes:
        return stored

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache not in (b"", self.accepted):
            return False
        self.used = cache
        return True


@pytest.mark.parametrize(("stored", "used"), [(None, b""), (b"ours", b"ours"), (b"of another GPU", b"")])
def test_a_timing_cache_of_another_gpu_is_set_aside(tmp_path: Path, stored: bytes | None, used: bytes) -> None:
    path = tmp_path / "timing"
    if stored is not None:
        path.write_bytes(stored)
    config = StandInConfig(accepted=b"ours")
    assert _timing_cache(config, path) == used
    assert config.used == used
