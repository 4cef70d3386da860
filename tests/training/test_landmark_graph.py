"""Landmark networks and decoders through exported graphs: any number of images, and the same answers as torch gives."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models.networks.heatmap_decoding import DECODERS, Decoding, heat_spread, peak_heat, spatial_softmax, window_mass
from models.networks.heatmap_hrnet import HeatmapHrNet
from models.networks.heatmap_network import HeatmapNetwork
from models.networks.heatmap_resnet import HeatmapResNet
from models.networks.heatmap_table import HEATMAP_NETWORKS, heatmap_entry
from models.networks.maht_net import MahtNet
from models.networks.resnet import ResNetBackbone
from models.pixels.spec import InputSpec
from models.spine.schemas import LandmarkSchema, SpineView
from training.onnx_file import export_onnx

TWO = LandmarkSchema("two", SpineView.FRONTAL, ("L1", "L2"), has_levels=True)
SPEC = InputSpec(height=96, width=64)
STRIDE = 4


def shorten_resnet(network: HeatmapNetwork) -> None:
    assert isinstance(network, HeatmapResNet)
    assert isinstance(network.backbone, ResNetBackbone)
    for number in range(1, 5):
        stage = network.backbone.get_submodule(f"layer{number}")
        network.backbone.set_submodule(f"layer{number}", nn.Sequential(next(stage.children())))


def shorten_hrnet(network: HeatmapNetwork) -> None:
    assert isinstance(network, HeatmapHrNet)
    net = network.backbone
    net.stage3, net.stage4 = net.stage3[-1:], net.stage4[-1:]
    for stage in (net.stage2, net.stage3, net.stage4):
        for module in stage:
            module.branches = nn.ModuleList(branch[:1] for branch in module.branches)


def shorten_maht_net(network: HeatmapNetwork) -> None:
    assert isinstance(network, MahtNet)
    stages = (next(stage.children()) if number else stage for number, stage in enumerate(network.backbone.features))
    network.backbone.features = nn.Sequential(*stages)
    network.encoder, network.decoder = network.encoder[:1], network.decoder[:1]


SHORTEN: dict[str, Callable[[HeatmapNetwork], None]] = {
    "resnet50_heatmap": shorten_resnet,
    "hrnet_w32": shorten_hrnet,
    "maht_net": shorten_maht_net,
}
"""The exporter takes most of a minute for hundreds of blocks of the same kind: of each row of them one is left."""


class Shown(nn.Module):
    """A network that is shown one channel thrice."""

    def __init__(self, network: HeatmapNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        output = self.network(image.expand(-1, 3, -1, -1))
        return (output.heatmaps,) if output.sigma is None else (output.heatmaps, output.sigma)


class EveryReading(nn.Module):
    """All that is read from heat, and from the distribution that logits are made to: one map per image."""

    def forward(self, heat: Tensor) -> tuple[Tensor, ...]:
        mass = spatial_softmax(heat)
        both = torch.cat((heat, mass), dim=1)
        readings = (heat_spread(both, STRIDE), peak_heat(heat), window_mass(mass, STRIDE))
        return (*(decode(both, STRIDE) for decode in DECODERS.values()), *readings)


def exported(module: nn.Module, spec: InputSpec, outputs: int) -> bytes:
    content: bytes = export_onnx(module, spec, tuple(f"output_{n}" for n in range(outputs))).SerializeToString()
    return content


def run(graph: bytes, images: Tensor) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(part) for part in session.run(None, {"image": images.numpy()})]


@pytest.mark.parametrize("name", HEATMAP_NETWORKS)
def test_the_graph_of_a_network_gives_its_heat_for_any_number_of_images(name: str) -> None:
    torch.manual_seed(0)
    network = heatmap_entry(name).build(TWO, pretrained=False)
    SHORTEN.get(name, lambda _: None)(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # one pass gives the statistics
    images = torch.rand(3, 1, 96, 64)
    served = Shown(network)
    with torch.no_grad():
        served.train()(images)
        expected = served.eval()(images)
    outputs = run(exported(served, SPEC, len(expected)), images)
    assert outputs[0].shape == (3, 8, 96 // network.stride, 64 // network.stride)
    for given, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(given, wanted, atol=1e-3 * float(wanted.abs().max()), rtol=1e-3)


READINGS = len(Decoding) + 3


@pytest.fixture(scope="module")
def graph_of_decoders() -> bytes:
    return exported(EveryReading(), InputSpec(height=24, width=16), READINGS)


def test_the_graph_of_the_decoders_reads_what_torch_reads(graph_of_decoders: bytes) -> None:
    columns, rows = torch.arange(16.0), torch.arange(24.0)[:, None]
    places = torch.tensor([[9.3, 14.2], [0.0, 23.0], [15.0, 4.6], [7.5, 0.4]])
    heat = torch.stack([torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 6) for x, y in places])[:, None]
    flat, logits = torch.zeros(1, 1, 24, 16), 20 * heat
    images = torch.cat((heat, logits, flat))
    expected = EveryReading()(images)
    assert len(expected) == READINGS
    for given, wanted in zip(run(graph_of_decoders, images), expected, strict=True):
        assert given.shape[0] == 9
        torch.testing.assert_close(given, wanted, atol=1e-3, rtol=1e-4)


def test_the_decoders_become_a_plan(graph_of_decoders: bytes) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: pip install 'radstream[tensorrt-rtx]'")
    from training.tensorrt_plan import RTX, build_plan

    image, *outputs = build_plan(graph_of_decoders, module_name=RTX).tensors
    assert image.shape == (-1, 1, 24, 16)
    assert [output.shape for output in outputs] == [(-1, 2, 2)] * len(Decoding) + [(-1, 2), (-1, 1), (-1, 1)]
