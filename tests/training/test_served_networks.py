"""Every network of the table through the exported graph: ONNX Runtime's Grad-CAM against the grad-cam package's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from models.networks.network import ClassificationNetwork, FullyConnectedNetwork
from models.networks.resnet import ResNetBackbone
from models.networks.table import NETWORKS, network_entry
from models.pixels.image_files import read_image_file
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec
from training.explain import Method, correlation, explain
from training.onnx_file import export_onnx
from training.served import OUTPUT_NAMES, ServedNetwork

HIDDEN = 64
"""Features between the linear layers, instead of 4,096: VGG16 would hold half a gigabyte of weights."""

SPEC = InputSpec(height=224, width=224)
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "chest_xray_224" / "train"
IMAGES = 3

Images = NDArray[np.float32]


def radiographs() -> list[Radiograph]:
    if REAL.is_dir():
        folders = (REAL / "NORMAL", REAL / "PNEUMONIA")
        return [read_image_file(path) for folder in folders for path in sorted(folder.iterdir())[100:1100:500]]
    path = get_testdata_file("RG1_J2KR.dcm", download=False)
    assert isinstance(path, str), "comes with pydicom-data"
    return [Radiograph.read(Path(path))]


@pytest.fixture(scope="module")
def images() -> Images:
    """Real chests ``(3, 1, 224, 224)``; of a single one two mirrored versions are added."""
    inputs = [radiograph.to_input(SPEC) for radiograph in radiographs()]
    inputs += [inputs[0][:, ::-1], inputs[0][::-1]]
    return np.ascontiguousarray(np.stack(inputs[:IMAGES])[:, None])


def lighten(network: ClassificationNetwork) -> None:
    """Take out what is only more of the same: width of linear layers, and of ResNet-50's blocks all but each first."""
    if isinstance(network, FullyConnectedNetwork):
        linear = [number for number, layer in enumerate(network.head) if isinstance(layer, torch.nn.Linear)]
        for number in linear:
            layer = network.head[number]
            given = layer.in_features if number == linear[0] else HIDDEN
            network.head[number] = torch.nn.Linear(given, layer.out_features if number == linear[-1] else HIDDEN)
    elif isinstance(network.backbone, ResNetBackbone) and len(network.backbone.layer1) > 2:
        for name in ("layer1", "layer2", "layer3", "layer4"):
            stage = network.backbone.get_submodule(name)
            network.backbone.set_submodule(name, torch.nn.Sequential(next(stage.children())))


@pytest.fixture(scope="module", params=NETWORKS)
def served(request: pytest.FixtureRequest, images: Images) -> ServedNetwork:
    """A network with running statistics of these images and a last layer that speaks for the class in most maps."""
    torch.manual_seed(0)
    entry = network_entry(request.param)
    network = entry.build(2, request.param == "efficientnet_lite0")
    lighten(network)
    served = ServedNetwork(entry, network, 1.5, positive=1)
    for module in served.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # cumulative: one pass gives the statistics
    last = [module for module in served.network.head.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.nn.init.normal_(last.weight, mean=0.02, std=0.05)
    with torch.no_grad():
        served.train()(torch.from_numpy(images))
    return served.eval()


@pytest.fixture(scope="module")
def answers(served: ServedNetwork, images: Images) -> dict[str, Images]:
    graph = export_onnx(served, SPEC, OUTPUT_NAMES).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUT_NAMES, session.run(list(OUTPUT_NAMES), {"image": images}), strict=True))


def test_the_graph_explains_as_the_grad_cam_package(
    served: ServedNetwork, answers: dict[str, Images], images: Images
) -> None:
    explained = 0
    for image, cam in zip(images[:, 0], answers["cam"], strict=True):
        expected = explain(served, image, Method.GRAD_CAM, None, positive=1)
        assert cam.any() == expected.any()
        assert correlation(cam, expected) >= 0.99
        explained += bool(cam.any())
    assert explained >= 2


def test_the_graph_answers_as_torch_for_any_number_of_images(
    served: ServedNetwork, answers: dict[str, Images], images: Images
) -> None:
    with torch.inference_mode():
        probability, cam = served(torch.from_numpy(images))
    assert answers["probability"].shape == (IMAGES, 2)
    np.testing.assert_allclose(answers["probability"], probability.numpy(), atol=1e-4)
    np.testing.assert_allclose(answers["cam"], cam.numpy(), atol=1e-3)
