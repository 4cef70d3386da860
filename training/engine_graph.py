"""The parts of ``network.onnx`` that are computed in less than FP32, and the graph made ready for that.

Less than FP32 are the convolutions with fixed weights and what stands between them. FP32 stay: the normalisation of the
image, what counts vertebrae, and everything behind the last convolution of the backbone or the decoder (heads, softmax,
Grad-CAM, the decoding of landmarks), where small errors matter most and time is spent least.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

PASSES_THROUGH: Final = frozenset({"Add", "Clip", "Concat", "Mul", "MaxPool", "Pad", "Relu", "Resize", "Sigmoid"})
"""Operators that may stand between two convolutions of the part."""
COUNTING: Final = "network.counter."
"""How names of the weights begin that count vertebrae, see `models.networks.vertebra_counting`: what is a small error
elsewhere makes another body the first one there."""


def with_single_weights(proto: ModelProto) -> ModelProto:
    """Give a copy whose half-precision weights are stored as float32, without the ``Cast`` in front of their use.

    Every node has a name in it, by which the tools are told what to leave alone.
    """
    single = ModelProto()
    single.CopyFrom(proto)
    graph = single.graph
    halved = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    nodes, widened = [], []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in halved and _is_to_float(node):
            values = numpy_helper.to_array(halved[node.input[0]]).astype(np.float32)
            widened.append(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in halved or tensor.name in used]
    _replace(graph.node, nodes)
    _replace(graph.initializer, [*kept, *widened])
    name_nodes(single)
    return single


def name_nodes(proto: ModelProto) -> None:
    """Name the nodes that have none."""
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


@dataclass(frozen=True, slots=True)
class ConvolutionalPart:
    """Names of nodes, in the order of the graph.

    Attributes:
        convolutions: with fixed weights, that feed other such convolutions.
        last: with fixed weights, that feed none.
        between: what passes values from one of `convolutions` to another.
        depth: of each of these, how many convolutions lie on the longest way from the image to it, itself included.
    """

    convolutions: tuple[str, ...]
    last: tuple[str, ...]
    between: tuple[str, ...]
    depth: dict[str, int]


def convolutional_part(proto: ModelProto) -> ConvolutionalPart:
    """Find the part of a graph whose nodes have names."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    fixed = [
        node
        for node in proto.graph.node
        if node.op_type == "Conv" and node.input[1] in weights and not node.input[1].startswith(COUNTING)
    ]
    feeding: set[str] = set()
    for node in fixed:
        feeding |= _feeding(node, makers, weights)
    depth = _depths(proto.graph.node)
    members = {node.name for node in proto.graph.node if node.name in feeding} | {node.name for node in fixed}
    return ConvolutionalPart(
        convolutions=tuple(node.name for node in fixed if node.name in feeding),
        last=tuple(node.name for node in fixed if node.name not in feeding),
        between=tuple(node.name for node in proto.graph.node if node.name in feeding and node.op_type != "Conv"),
        depth={name: depth[name] for name in members},
    )


def _feeding(node: NodeProto, makers: dict[str, NodeProto], weights: set[str]) -> set[str]:
    """Name the nodes through which a convolution gets its input, back to the nearest convolutions, these included.

    Nothing where a way back ends elsewhere than at convolutions: that is normalisation of the image, or a head.
    """
    found: set[str] = set()
    waiting = [node.input[0]]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is None:
            return set()
        if maker.name in found:
            continue
        found.add(maker.name)
        if maker.op_type == "Conv" and maker.input[1] in weights:
            continue
        if maker.op_type not in PASSES_THROUGH:
            return set()
        waiting += [name for name in maker.input if name and name not in weights]
    return found


def _depths(nodes: Iterable[NodeProto]) -> dict[str, int]:
    """Count convolutions from the image to each node; nodes stand behind those that they need."""
    at: dict[str, int] = {}
    depth: dict[str, int] = {}
    for node in nodes:
        own = max((at.get(name, 0) for name in node.input), default=0) + (node.op_type == "Conv")
        depth[node.name] = own
        at.update(dict.fromkeys(node.output, own))
    return depth


def _is_to_float(node: NodeProto) -> bool:
    return any(attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT for attribute in node.attribute)


def _replace(field: Any, items: list[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
