"""Making an INT8 graph of ``network.onnx`` with ONNX Runtime's quantiser: Q/DQ pairs about convolutions.

Weights are quantised by channel, activations by the range that they take on calibration images. The first convolutions
stay FP32, see `FIRST_KEPT`.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from models.engines.onnx_runtime import INPUT_NAME
from models.errors import RadstreamError
from training.engine_graph import convolutional_part, name_nodes

CALIBRATION_BATCH: Final = 4
"""Images at a time: calibration keeps every activation of a batch in memory."""

FIRST_KEPT: Final = (3, 6, 9, 15)
"""How many convolutions from the image on stay FP32: the least of these with which the engine can be proven. Early ones
see the few grey levels that tell images apart and hold few weights: in EfficientNet Lite0 the first block made half of
the error of all."""

_ACTIVATIONS: Final = ("Clip", "Relu")


class QuantisationError(RadstreamError):
    """The graph cannot be quantised; nothing is written."""


class Quantiser:
    """Quantises one graph, with more or fewer of its first convolutions left alone; calibrates once. Close it.

    Args:
        proto: with float32 weights and names of nodes, see `training.engine_graph.with_single_weights`.
        images: ``(N, 1, H, W) float32 in [0, 1]`` to calibrate on.
        symmetric: activations as int8 about zero, as TensorRT demands; else as uint8, which CPUs multiply fastest.
        seven_bits: of the weights, for CPUs whose sums of eight-bit products overflow.

    Raises:
        QuantisationError: the quantiser cannot read the graph.
    """

    def __init__(
        self, proto: ModelProto, images: NDArray[np.float32], *, symmetric: bool, seven_bits: bool = False
    ) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self._images = images
        self._symmetric = symmetric
        self._seven_bits = seven_bits
        self._folder = tempfile.TemporaryDirectory()
        given, self._prepared = self._path("given.onnx"), self._path("prepared.onnx")
        with _removed_on_failure(self._folder), _guarded():
            onnx.save(proto, str(given))  # given the graph itself, the tool stores its weights apart and loses them
            quant_pre_process(str(given), str(self._prepared), skip_symbolic_shape=True)
            self._graph = onnx.load(str(self._prepared))
            name_nodes(self._graph)  # the tool's optimisation makes nodes of its own
            onnx.save(self._graph, str(self._prepared))

    @property
    def choices(self) -> tuple[int, ...]:
        """Those of `FIRST_KEPT` that leave something to quantise; at least one."""
        choices = tuple(kept for kept in FIRST_KEPT if quantised_nodes(self._graph, kept))
        if not choices:
            raise QuantisationError(
                f"no convolution behind the first {FIRST_KEPT[0]} feeds another: there is nothing to quantise"
            )
        return choices

    def quantise(self, first_kept: int) -> ModelProto:
        """Quantise all but so many of the first convolutions; never fewer than in a call before.

        Raises:
            QuantisationError: the quantiser failed.
        """
        from onnxruntime import quantization

        names = quantised_nodes(self._graph, first_kept)
        quantization.CalibrationDataReader.register(_Images)
        made, activation = self._path("quantised.onnx"), quantization.QuantType.QUInt8
        if self._symmetric:
            activation = quantization.QuantType.QInt8
        with _guarded():
            quantization.quantize_static(
                str(self._prepared),
                str(made),
                _Images(self._images),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Add", *_ACTIVATIONS],
                nodes_to_quantize=names,
                per_channel=True,
                reduce_range=self._seven_bits,
                activation_type=activation,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                calibration_cache_path=str(self._path("ranges.json")),
                extra_options={
                    "ActivationSymmetric": self._symmetric,
                    "WeightSymmetric": True,
                    "QuantizeBias": not self._symmetric,  # TensorRT refuses biases that are quantised beforehand
                },
            )
            graph = onnx.load(str(made))
            return without_pairs_before_activations(graph) if self._symmetric else graph

    def close(self) -> None:
        """Remove the files in between."""
        self._folder.cleanup()

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / name


def quantised_nodes(proto: ModelProto, first_kept: int) -> list[str]:
    """Name what is computed in INT8: convolutions behind the first ones that feed others, and sums and limits between.

    A limit (Clip, Relu) whose convolution is quantised without a sign goes away: the range of the bytes is the limit.
    """
    part = convolutional_part(proto)
    operators = {node.name: node.op_type for node in proto.graph.node}
    convolutions = [name for name in part.convolutions if part.depth[name] > first_kept]
    between = [name for name in part.between if part.depth[name] > first_kept]
    return [*convolutions, *(name for name in between if operators[name] in ("Add", *_ACTIVATIONS))] * bool(
        convolutions
    )


def without_pairs_before_activations(proto: ModelProto) -> ModelProto:
    """Take out Q/DQ pairs between a convolution and its limit, which TensorRT fuses only where nothing is between."""
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    gone: set[str] = set()
    for node in graph.node:
        dequantise = makers.get(node.input[0]) if node.op_type in _ACTIVATIONS else None
        quantise = makers.get(dequantise.input[0]) if dequantise is not None else None
        if dequantise is None or quantise is None or dequantise.op_type != "DequantizeLinear":
            continue
        if readers[dequantise.output[0]] == 1 and readers[quantise.output[0]] == 1:
            gone |= {dequantise.name, quantise.name}
            node.input[0] = quantise.input[0]
    kept = [node for node in graph.node if node.name not in gone]
    bare = ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.node[:]
    bare.graph.node.extend(kept)
    return bare


class _Images:
    """What ONNX Runtime calls a CalibrationDataReader, told by name there; that package has no types."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._batches = (
            images[start : start + CALIBRATION_BATCH] for start in range(0, len(images), CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Give the next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}

    def __iter__(self) -> Any:
        return iter(self.get_next, None)


@contextmanager
def _removed_on_failure(folder: tempfile.TemporaryDirectory[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        folder.cleanup()
        raise


@contextmanager
def _guarded() -> Iterator[None]:
    """Keep the tool quiet, and give its failures our name."""
    # It advises to pre-process what it has just pre-processed, and warns about its own internals.
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # it raises whatever it meets
        raise QuantisationError(f"ONNX Runtime's quantiser failed: {type(error).__name__}: {error}") from error
    finally:
        logging.root.setLevel(level)
