"""What is computed in less than FP32, and that the rest of the graph is left as it was."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

sys.path.insert(0, str(Path(__file__).parent))

from engine_sets import brightness_graph

from training.engine_graph import convolutional_part, with_single_weights
from training.engine_precision import CastingError, cast_to_half
from training.engine_quantise import QuantisationError, Quantiser, quantised_nodes

IMAGES = np.random.default_rng(1).random((4, 1, 24, 24), dtype=np.float32)


def answers(proto: ModelProto) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(["probability", "cam"], {"image": IMAGES})
    return outputs


def test_single_weights_give_the_same_answers_without_casts() -> None:
    proto = brightness_graph()
    single = with_single_weights(proto)
    assert [node.op_type for node in proto.graph.node].count("Cast") == 1
    assert "Cast" not in [node.op_type for node in single.graph.node]
    assert {tensor.data_type for tensor in single.graph.initializer} == {TensorProto.FLOAT, TensorProto.INT64}
    for before, after in zip(answers(proto), answers(single), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_part_is_what_lies_between_convolutions() -> None:
    part = convolutional_part(with_single_weights(brightness_graph()))
    assert part.convolutions == tuple(f"conv{number}" for number in range(7))
    assert part.last == ("conv7",)
    assert set(part.between) == {*(f"clip{number}" for number in range(7)), "sum", "mean", "larger"}
    assert [part.depth[f"conv{number}"] for number in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_convolution_whose_input_is_computed_otherwise_is_not_fed_by_others() -> None:
    proto = with_single_weights(brightness_graph())
    next(node for node in proto.graph.node if node.name == "mean").op_type = "Div"
    part = convolutional_part(proto)
    assert "conv5" in part.last
    assert "sum" not in part.between


def test_what_counts_vertebrae_is_no_part() -> None:
    proto = with_single_weights(brightness_graph())
    node = next(node for node in proto.graph.node if node.name == "conv3")
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == node.input[1])
    weight.name = node.input[1] = "network.counter.look.0.0.weight"
    part = convolutional_part(proto)
    assert "conv3" not in {*part.convolutions, *part.last}
    assert "conv4" in part.convolutions


def test_quantised_are_later_convolutions_with_the_sums_and_limits_between_them() -> None:
    proto = with_single_weights(brightness_graph())
    later = ["conv3", "conv4", "conv5", "conv6", "clip3", "clip4", "clip5", "sum", "clip6"]
    assert quantised_nodes(proto, 3) == later
    assert quantised_nodes(proto, 6) == ["conv6", "clip6"]
    assert quantised_nodes(proto, 7) == []


def test_int8_is_near_and_symmetric_where_it_must_be() -> None:
    proto = with_single_weights(brightness_graph())
    quantiser = Quantiser(proto, IMAGES, symmetric=True)
    assert quantiser.choices == (3, 6)
    graph = quantiser.quantise(3)
    fewer = quantiser.quantise(6)
    quantiser.close()
    names = {name for node in graph.graph.node if node.op_type == "QuantizeLinear" for name in node.input[2:]}
    zeros = [onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if tensor.name in names]
    assert {(zero.dtype, int(zero.sum())) for zero in zeros} == {(np.dtype(np.int8), 0)}
    reference = answers(proto)
    differences = [np.abs(answers(each)[0] - reference[0]).max() for each in (graph, fewer)]
    assert 0 < differences[0] < 0.1
    assert 0 < differences[1] < 0.1
    count = [sum(node.op_type == "QuantizeLinear" for node in each.graph.node) for each in (graph, fewer)]
    assert count[0] > count[1]


def test_limits_go_away_on_cpus_and_stay_bare_behind_their_convolution_for_tensorrt() -> None:
    proto = with_single_weights(brightness_graph())
    for symmetric, kept in ((False, ["clip0", "clip1", "clip2", "clip7"]), (True, [f"clip{n}" for n in range(8)])):
        quantiser = Quantiser(proto, IMAGES, symmetric=symmetric)
        graph = quantiser.quantise(3).graph
        quantiser.close()
        limits = [node for node in graph.node if node.op_type == "Clip" and node.name != "cam"]
        assert [node.name for node in limits] == kept
        makers = {name: node.op_type for node in graph.node for name in node.output}
        assert {makers[node.input[0]] for node in limits} == {"Conv"}


def test_a_network_too_small_to_quantise_is_refused() -> None:
    proto = with_single_weights(brightness_graph())
    for node in proto.graph.node:
        if node.op_type == "Clip" and node.name != "cam":
            node.op_type = "Max"
            del node.input[2:]
    quantiser = Quantiser(proto, IMAGES, symmetric=False)
    with pytest.raises(QuantisationError, match="nothing to quantise"):
        _ = quantiser.choices
    quantiser.close()


def test_a_failure_of_the_tool_comes_under_our_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.quantization import shape_inference

    def fail(*_: object, **__: object) -> None:
        raise KeyError("something inside")

    monkeypatch.setattr(shape_inference, "quant_pre_process", fail)
    with pytest.raises(QuantisationError, match="quantiser failed: KeyError"):
        Quantiser(with_single_weights(brightness_graph()), IMAGES, symmetric=False)


def test_fp16_is_between_the_convolutions_alone() -> None:
    proto = with_single_weights(brightness_graph())
    halved = cast_to_half(proto)
    assert [value.type.tensor_type.elem_type for value in (*halved.graph.input, *halved.graph.output)] == [1, 1, 1]
    typed = onnx.shape_inference.infer_shapes(halved, strict_mode=True, data_prop=True)
    types = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in typed.graph.initializer}
    of_node = {node.name: {types.get(name) for name in node.output} for node in typed.graph.node}
    for name in ("conv0", "conv7", "clip3", "sum", "larger"):
        assert of_node[name] == {TensorProto.FLOAT16}
    for name in ("normalised", "clip7", "pooled", "logits"):
        assert of_node[name] == {TensorProto.FLOAT}
    assert sum(node.op_type == "Cast" for node in halved.graph.node) == 2  # in and out
    assert types["scales"] == TensorProto.FLOAT
    for before, after in zip(answers(proto), answers(halved), strict=True):
        np.testing.assert_allclose(after, before, atol=0.01)
        assert (after != before).any()


def test_a_weight_beyond_half_precision_is_refused() -> None:
    proto = with_single_weights(brightness_graph())
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "weight2")
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1e7)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, "weight2"))
    with pytest.raises(CastingError, match="weight2: beyond the range"):
        cast_to_half(proto)


def test_a_graph_without_convolutions_cannot_be_cast() -> None:
    proto = with_single_weights(brightness_graph())
    kept = [node for node in proto.graph.node if node.op_type != "Conv"]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    with pytest.raises(CastingError, match="nothing to cast"):
        cast_to_half(proto)
