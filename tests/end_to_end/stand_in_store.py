"""A model store with a network that is no network: its probability is the mean grey value of the image.

For tests of the feed, where the answer must be known beforehand and the shipped network may change.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from models.pixels.spec import InputSpec
from models.store.manifest import Manifest
from models.store.store import ModelStore
from models.tasks import Task


def make_store(root: Path, version: str = "stand-in-1", side: int = 64) -> ModelStore:
    """Make a store whose one version is active."""
    store = ModelStore(root / "store")
    add_version(store, root / "staging", version, _graph(side).SerializeToString(), side)
    store.activate(Task.PNEUMONIA, version)
    return store


def add_stand_in(store: ModelStore, staging: Path, version: str, side: int) -> None:
    """Publish one more version that answers the mean grey value, of images of another size."""
    add_version(store, staging, version, _graph(side).SerializeToString(), side)


def add_version(store: ModelStore, staging: Path, version: str, network: bytes, side: int) -> None:
    """Publish a version with whatever bytes as its network; whether they can be loaded is not asked."""
    staging.mkdir(parents=True)
    (staging / "network.onnx").write_bytes(network)
    manifest = Manifest(
        task=Task.PNEUMONIA,
        network="mean_grey",
        version=version,
        labels=("NORMAL", "PNEUMONIA"),
        positive_label="PNEUMONIA",
        thresholds={"PNEUMONIA": 0.5},
        input_spec=InputSpec(height=side, width=side),
        output_names=("probability", "cam"),
        files={"network.onnx": hashlib.sha256(network).hexdigest()},
        licence="made by a test",
        created=datetime.now(UTC),
        radstream_version="0.1.0",
    )
    (staging / "manifest.json").write_text(manifest.model_dump_json(indent=2))
    store.publish(Task.PNEUMONIA, staging)


def _graph(side: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["image", "spatial"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["one", "mean"], ["rest"]),
        helper.make_node("Concat", ["rest", "mean"], ["probability"], axis=1),
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Squeeze", ["pooled", "channel"], ["cam"]),
    ]
    constants = [
        helper.make_tensor("spatial", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean_grey",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, side, side])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["N", side // 8, side // 8]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
