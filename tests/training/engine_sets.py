"""A version of task `pneumonia` that answers by brightness: a chain of blurring convolutions, small and exact."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_version import publish_version

from models.pixels.spec import InputSpec
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task

CHANNELS, CONVOLUTIONS, SIDE = 8, 8, 24
HALF = 0.22
"""Brightness between the noise and the discs of `conftest.write_class_folders`: the probability is a half."""


def brightness_graph() -> ModelProto:
    """Convolution 0 to 7 keep the mean brightness; a residual sum and a resize stand among them, as in real networks.

    The weights of convolution 5 are stored in half precision with a Cast before their use, as exported networks have.
    """
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []

    def constant(name: str, values: object, dtype: type = np.float32) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    value = add("Sub", ["image", constant("offset", 0.0)], "normalised")
    for number in range(CONVOLUTIONS):
        kernel = random.uniform(0.5, 1.5, (CHANNELS, 1 if number == 0 else CHANNELS, 3, 3))
        kernel /= kernel.sum(axis=(1, 2, 3), keepdims=True)
        weight = f"weight{number}"
        if number == 5:
            add("Cast", [constant(f"{weight}.half", kernel, np.float16)], weight, to=TensorProto.FLOAT)
        else:
            constant(weight, kernel)
        convolved = add("Conv", [value, weight], f"conv{number}", pads=[1, 1, 1, 1])
        value = add("Clip", [convolved, constant(f"low{number}", 0.0), constant(f"high{number}", 6.0)], f"clip{number}")
        if number == 5:
            value = add("Add", [value, "clip4"], "sum")
            value = add("Mul", [value, constant("half", 0.5)], "mean")
        if number == 6:
            value = add("Resize", [value, "", constant("scales", [1, 1, 2, 2])], "larger", mode="nearest")
    pooled = add("GlobalAveragePool", [value], "pooled")
    flat = add("Flatten", [pooled], "flat")
    head = np.stack([np.full(CHANNELS, -30.0 / CHANNELS), np.full(CHANNELS, 30.0 / CHANNELS)], axis=1)
    logits = add("Gemm", [flat, constant("head", head), constant("bias", [30 * HALF, -30 * HALF])], "logits")
    add("Softmax", [logits], "probability", axis=1)
    cam = add("ReduceMean", [value, constant("channel", [1], np.int64)], "mean_map", keepdims=0)
    add("Clip", [cam, "low0", constant("one", 1.0)], "cam")
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["N", 2 * SIDE, 2 * SIDE]),
        ],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def write_brightness_version(root: Path, staging: Path) -> ModelVersion:
    """Publish and activate pneumonia 1.0.0 in a store."""
    content = brightness_graph().SerializeToString()
    spec = InputSpec(height=SIDE, width=SIDE)
    store = ModelStore(root)
    changes = {"network": "brightness", "thresholds": {"PNEUMONIA": 0.5}, "input_spec": spec}
    version = publish_version(store, staging, content, **changes)
    store.activate(Task.PNEUMONIA, "1.0.0")
    return version
