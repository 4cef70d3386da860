"""Making ``network.onnx``: from a torch module to a small self-contained file that ONNX Runtime 1.20 and later run.

torch's exporter folds batch-norm and padding into the convolutions. What it adds for its own purposes (stack traces
with paths of the building machine, names of classes) is taken out again, and the large weights are stored in half
precision with a ``Cast`` in front of their use: half the size, computed in single precision all the same.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from models.engines.onnx_runtime import INPUT_NAME
from models.errors import RadstreamError
from models.identity import VERSION
from models.pixels.spec import InputSpec

OPSET: Final = 18
IR_VERSION: Final = 10
"""The newest that ONNX Runtime 1.20 reads."""

_SMALLEST_HALVED: Final = 30_000
"""Elements. Smaller tensors weigh little and matter most: rounding the depthwise and the early convolutions moved
probabilities ten times as far as rounding all others, which hold nine tenths of the weights."""


class ExportError(RadstreamError):
    """The exported graph is not what was fitted; nothing is written."""


def export_onnx(
    module: nn.Module, spec: InputSpec, output_names: tuple[str, ...], *, foldable: bool = True
) -> ModelProto:
    """Export a module in eval mode with ``image (N, 1, H, W)`` as its one input, N free.

    Args:
        module: what is exported.
        spec: of the input.
        output_names: of what it gives, in order.
        foldable: every batch-norm follows a convolution, and must be gone from the graph; not so in DenseNets.

    Raises:
        ExportError: batch-norm was left in the graph, or the graph takes batches of one size only.
    """
    example = torch.zeros(2, 1, spec.height, spec.width)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[INPUT_NAME],
            output_names=list(output_names),
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch exported nothing")
    proto: ModelProto = program.model_proto
    _strip(proto)
    if foldable and any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        raise ExportError("batch-norm was not folded into the convolutions; is onnxscript 0.5 or newer installed?")
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ExportError("the network computes with the number of images, which fixed the batch size in the graph")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def store_in_half_precision(proto: ModelProto) -> ModelProto:
    """Give a copy whose large float32 tensors are stored as float16, each cast back to float32 before its use.

    Raises:
        ExportError: a weight is beyond the range of float16.
    """
    halved = ModelProto()
    halved.CopyFrom(proto)
    graph = halved.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALLEST_HALVED:
            continue
        name = tensor.name
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(values).all():
            raise ExportError(f"{name}: beyond the range of float16")
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.single", to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(halved, full_check=True)
    return halved


def _strip(proto: ModelProto) -> None:
    graph = proto.graph
    described: list[Any] = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph]
    for part in described:
        part.doc_string = ""
        del part.metadata_props[:]
    del proto.metadata_props[:]
    # Intermediate shapes name torch's symbols; ONNX Runtime infers its own.
    del graph.value_info[:]
    graph.name = "radstream"
    proto.doc_string = ""
    proto.producer_name = "radstream"
    proto.producer_version = VERSION
    proto.ir_version = IR_VERSION


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter speaks of operators of packages that are not installed, and warns about its own internals.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
