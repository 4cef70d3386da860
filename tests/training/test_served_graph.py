"""The exported graph: Grad-CAM without a backward pass, parity with torch, weights in half precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto

from models.networks.efficientnet_lite import EfficientNetLite0
from models.networks.table import network_entry
from models.pixels.spec import InputSpec
from training.export import HALF_PRECISION_WEIGHTS, SINGLE_PRECISION
from training.onnx_file import IR_VERSION, OPSET, ExportError, export_onnx, store_in_half_precision
from training.served import OUTPUT_NAMES, ServedNetwork

SPEC = InputSpec(height=96, width=128)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    network = network_entry("efficientnet_lite0").build(2, True)
    torch.nn.init.normal_(network.head.weight, mean=0.02, std=0.05)  # so that most maps are not zero
    return network.eval()


@pytest.fixture(scope="module")
def served(network: EfficientNetLite0) -> ServedNetwork:
    return ServedNetwork(network_entry("efficientnet_lite0"), network, temperature=1.5, positive=1).eval()


@pytest.fixture(scope="module")
def graph(served: ServedNetwork) -> ModelProto:
    return export_onnx(served, SPEC, OUTPUT_NAMES)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    torch.manual_seed(2)
    coarse = torch.rand(6, 1, 6, 8)
    return torch.nn.functional.interpolate(coarse, size=(96, 128), mode="bilinear")


def run(graph: ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUT_NAMES, session.run(list(OUTPUT_NAMES), {"image": image}), strict=True))


def grad_cam(served: ServedNetwork, image: torch.Tensor) -> np.ndarray:
    """Grad-CAM of the positive logit as Selvaraju et al. define it, by autograd: ``(h, w)``, not normalised."""
    feature_map = served.network.features(served.normalise(image[None]))
    logits = served.network.head(served.network.pool(feature_map))
    (gradient,) = torch.autograd.grad(logits[0, 1], feature_map)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return torch.relu((weights * feature_map).sum(1))[0].detach().numpy()


def test_the_map_in_the_graph_is_grad_cam(served: ServedNetwork, graph: ModelProto, images: torch.Tensor) -> None:
    maps = run(graph, images.numpy())["cam"]
    assert maps.shape == (6, 3, 4)
    for image, cam in zip(images, maps, strict=True):
        expected = grad_cam(served, image)
        assert expected.max() > 0
        assert np.corrcoef(cam.ravel(), expected.ravel())[0, 1] >= 0.99
        np.testing.assert_allclose(cam, expected / expected.max(), atol=1e-3)


def test_a_map_without_evidence_is_zero_and_not_nan(network: EfficientNetLite0, images: torch.Tensor) -> None:
    served = ServedNetwork(network_entry("efficientnet_lite0"), network, temperature=1.0, positive=1)
    kept = network.head.weight.detach().clone()
    with torch.no_grad():
        network.head.weight[1] = -1.0  # features are at least 0, so nothing can speak for the class
        cam = served.eval()(images)[1]
        network.head.weight.copy_(kept)
    assert torch.equal(cam, torch.zeros_like(cam))


def test_probability_is_the_softmax_at_the_temperature(served: ServedNetwork, images: torch.Tensor) -> None:
    with torch.inference_mode():
        probability, _ = served(images)
        logits = served.network(served.normalise(images)).numpy()
    expected = 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / 1.5))
    np.testing.assert_allclose(probability[:, 1].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("halved", [False, True], ids=["single", "half"])
def test_the_graph_answers_as_torch_within_tolerance(
    served: ServedNetwork, graph: ModelProto, images: torch.Tensor, halved: bool
) -> None:
    tolerance = HALF_PRECISION_WEIGHTS if halved else SINGLE_PRECISION
    answers = run(store_in_half_precision(graph) if halved else graph, images.numpy())
    with torch.inference_mode():
        probability, cam = served(images)
    np.testing.assert_allclose(answers["probability"], probability.numpy(), atol=tolerance.probability)
    np.testing.assert_allclose(answers["cam"], cam.numpy(), atol=tolerance.cam)


def test_an_image_is_answered_alike_alone_and_in_a_batch(graph: ModelProto, images: torch.Tensor) -> None:
    alone = run(graph, images[3:4].numpy())
    together = run(graph, images.numpy())
    for name in OUTPUT_NAMES:
        np.testing.assert_allclose(alone[name][0], together[name][3], atol=1e-5)


def test_half_precision_halves_the_file_and_computes_in_single(graph: ModelProto) -> None:
    halved = store_in_half_precision(graph)
    assert halved.ByteSize() < 0.55 * graph.ByteSize()
    types = {tensor.name: tensor.data_type for tensor in halved.graph.initializer}
    casts = [node for node in halved.graph.node if node.op_type == "Cast"]
    assert {node.input[0] for node in casts} == {n for n, kind in types.items() if kind == TensorProto.FLOAT16}
    assert all(node.attribute[0].i == TensorProto.FLOAT for node in casts)


def test_a_weight_beyond_half_precision_is_refused(graph: ModelProto) -> None:
    broken = ModelProto()
    broken.CopyFrom(graph)
    tensor = next(t for t in broken.graph.initializer if np.prod(t.dims) >= 100_000)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ExportError, match="float16"):
        store_in_half_precision(broken)


class CountsImages(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).sum(dim=1) + len(image)


def test_a_network_that_fixes_the_batch_size_is_refused() -> None:
    with pytest.raises(ExportError, match="number of images"):
        export_onnx(CountsImages(), SPEC, ("sum",))


def test_the_graph_is_lean_and_tells_nothing_of_its_builder(graph: ModelProto) -> None:
    kinds = {node.op_type for node in graph.graph.node}
    assert not kinds & {"BatchNormalization", "Pad", "Dropout", "Identity"}
    assert (graph.ir_version, graph.opset_import[0].version) == (IR_VERSION, OPSET)
    content = graph.SerializeToString()
    assert b"stack_trace" not in content
    assert b".py" not in content
    assert __file__.rsplit("/", 3)[0].encode() not in content
