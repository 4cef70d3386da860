"""Making an FP16 graph of ``network.onnx``: convolutions and what stands between them in half precision.

Input, normalisation of the image, heads, softmax, Grad-CAM, the decoding of landmarks and outputs stay FP32: values are
cast where they enter the convolutional part and where they leave it, and nowhere else. The converters that one finds
in packages cast inputs and outputs to half precision and back, which moves a landmark by a quarter of a pixel.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from models.errors import RadstreamError
from training.engine_graph import convolutional_part

_SUFFIX: Final = ".half"
_FLOAT_INPUTS: Final = {"Resize": 1}
"""Of these operators only so many inputs, from the first, take the precision of the values."""


class CastingError(RadstreamError):
    """The graph cannot be cast; nothing is written."""


def cast_to_half(proto: ModelProto) -> ModelProto:
    """Give a copy whose convolutional part is FP16.

    Args:
        proto: with float32 weights and names of nodes, see `training.engine_graph.with_single_weights`.

    Raises:
        CastingError: there is nothing to cast, or a weight is beyond the range of float16.
    """
    part = convolutional_part(proto)
    chosen = {*part.convolutions, *part.last, *part.between}
    if not chosen:
        raise CastingError("the graph has no convolution with fixed weights: there is nothing to cast")
    halved = ModelProto()
    halved.CopyFrom(proto)
    nodes = _cast_nodes(halved, chosen)
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    _drop_unused(halved)
    onnx.checker.check_model(halved, full_check=True)
    return halved


def _cast_nodes(proto: ModelProto, chosen: set[str]) -> list[NodeProto]:
    """Give the nodes of a graph with casts between them; halved weights are added to the graph."""
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes: list[NodeProto] = []
    here: set[str] = set()  # what exists in half precision so far, by its name in single precision
    for node in proto.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        if node.name not in chosen:
            continue
        for place, name in enumerate(node.input[: _FLOAT_INPUTS.get(node.op_type)]):
            if not name:
                continue
            copy.input[place] = name + _SUFFIX
            if name not in here:
                here.add(name)
                if name in weights:
                    proto.graph.initializer.append(_halved(weights[name]))
                else:
                    nodes.insert(len(nodes) - 1, _cast(name, name + _SUFFIX, TensorProto.FLOAT16))
        for place, name in enumerate(node.output):
            copy.output[place] = name + _SUFFIX
            here.add(name)
            # In single precision too, for who reads it outside; unused casts are dropped in the end.
            nodes.append(_cast(name + _SUFFIX, name, TensorProto.FLOAT))
    return nodes


def _halved(tensor: TensorProto) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise CastingError(f"{tensor.name}: beyond the range of float16")
    return numpy_helper.from_array(half, tensor.name + _SUFFIX)


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], f"cast.{target}", to=to)


def _drop_unused(proto: ModelProto) -> None:
    graph = proto.graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    nodes = [node for node in graph.node if used.intersection(node.output)]
    read = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    kept = ModelProto()
    kept.CopyFrom(proto)
    del kept.graph.node[:], kept.graph.initializer[:]
    kept.graph.node.extend(nodes)
    kept.graph.initializer.extend(weights)
    proto.CopyFrom(kept)
