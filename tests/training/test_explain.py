"""Offline explanations: each method finds what a network looks at, layers are named, mistakes are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from models.errors import ConfigurationError
from models.networks.network import Backbone, ClassificationNetwork, PooledNetwork
from models.networks.table import network_entry
from training.explain import Map, Method, correlation, explain
from training.served import ServedNetwork


class Bright(Backbone):
    """Channel 0 is bright places, channel 1 dark ones, at a quarter of the size."""

    channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.look.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1) / 3)
            self.look.bias.copy_(torch.tensor([-0.6, 0.3]))
        self.shrink = nn.Sequential(nn.ReLU(inplace=True), nn.AvgPool2d(4))

    def steps(self) -> Sequence[Callable[[torch.Tensor], torch.Tensor]]:
        return [self.look, self.shrink]


class Plain:
    """What `explain` asks for, with an image that is only replicated."""

    def __init__(self, network: ClassificationNetwork) -> None:
        self.normalise = Replicated()
        self.network = network


class Replicated(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.expand(-1, 3, -1, -1)


@pytest.fixture
def looks_at_brightness() -> Plain:
    network = PooledNetwork(Bright(), 2)
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        network.head.bias.zero_()
    return Plain(network)


@pytest.fixture
def image() -> Map:
    """Grey with a bright square in the upper left quarter and a dark one in the lower right."""
    image = np.full((48, 64), 0.35, np.float32)
    image[8:20, 8:24] = 0.9
    image[30:42, 40:56] = 0.1
    return image


def resnet(name: str) -> ServedNetwork:
    torch.manual_seed(0)
    entry = network_entry(name)
    return ServedNetwork(entry, entry.build(2, False), 1.0, 1)


@pytest.mark.parametrize("method", Method)
def test_each_method_finds_what_speaks_for_the_class(method: Method, looks_at_brightness: Plain, image: Map) -> None:
    heat = explain(looks_at_brightness, image, method)
    assert heat.shape == image.shape
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert heat.max() == pytest.approx(1, abs=1e-3)
    assert heat[8:20, 8:24].mean() > 0.5
    elsewhere = np.ones(image.shape, bool)
    elsewhere[4:24, 4:28] = False
    assert heat[elsewhere].mean() < 0.1


def test_the_other_class_is_explained_elsewhere(looks_at_brightness: Plain, image: Map) -> None:
    heat = explain(looks_at_brightness, image, Method.GRAD_CAM, positive=0)
    assert heat[30:42, 40:56].mean() > 0.5 > heat[:24].mean()


def test_without_evidence_the_map_is_zero(looks_at_brightness: Plain) -> None:
    grey = np.full((32, 32), 0.35, np.float32)
    for method in (Method.GRAD_CAM, Method.INTEGRATED_GRADIENTS, Method.OCCLUSION):
        assert not explain(looks_at_brightness, grey, method).any()


def test_the_default_is_grad_cam_at_the_map_that_is_served(looks_at_brightness: Plain, image: Map) -> None:
    network = looks_at_brightness.network
    with torch.inference_mode():
        feature_map = network.features(torch.from_numpy(image)[None, None].expand(-1, 3, -1, -1))
        served = network.grad_cam(feature_map, 1)[0].numpy()
    assert served.shape == (12, 16)
    assert correlation(served, explain(looks_at_brightness, image)) > 0.999


def test_a_layer_is_named_within_the_backbone_or_the_network(image: Map) -> None:
    served = resnet("custom_resnet18")
    last = explain(served, image, layer="layer4")
    assert np.array_equal(last, explain(served, image, layer="backbone.layer4"))
    assert np.array_equal(last, explain(served, image))
    assert correlation(last, explain(served, image, layer="layer2.0.conv1")) < 0.9


def test_layers_that_are_overwritten_in_place_are_explained_as_they_were(image: Map) -> None:
    # torchvision adds to bn2's output in place and applies ReLU in place; ours does neither.
    theirs, ours = resnet("plain_resnet18"), resnet("custom_resnet18")
    ours.network.load_state_dict(theirs.network.state_dict())
    for layer in ("layer3.1.bn2", "layer4.0.bn1"):
        heat = explain(theirs, image, Method.GRAD_CAM_PLUS_PLUS, layer)
        np.testing.assert_allclose(heat, explain(ours, image, Method.GRAD_CAM_PLUS_PLUS, layer), atol=1e-3)


def test_the_network_is_left_without_gradients_and_as_trainable_as_before(image: Map) -> None:
    served = resnet("custom_resnet18")
    served.network.backbone.get_submodule("layer1").requires_grad_(False)
    before = [parameter.requires_grad for parameter in served.parameters()]
    for method in (Method.GRAD_CAM, Method.SALIENCY):
        explain(served, image, method)
    assert [parameter.requires_grad for parameter in served.parameters()] == before
    assert all(parameter.grad is None for parameter in served.parameters())
    assert not any(module._forward_hooks for module in served.modules())


def test_explaining_repeats_itself_and_draws_nothing_from_the_generator(looks_at_brightness: Plain, image: Map) -> None:
    torch.manual_seed(5)
    first = explain(looks_at_brightness, image, Method.SMOOTH_GRAD)
    drawn = torch.rand(1)
    assert np.array_equal(first, explain(looks_at_brightness, image, Method.SMOOTH_GRAD))
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("method", "layer", "message"),
    [
        ("cam", None, r"method cam: unknown; known are gradcam, gradcam\+\+, "),
        ("gradcam", "layer9", "layer layer9: unknown; the backbone has conv1, bn1, maxpool, layer1"),
        ("gradcam", "head", r"layer head: gives no map"),
        ("gradcam", "layer4.1.downsample", None),
        ("saliency", "layer4", "method saliency: explains pixels and takes no layer"),
    ],
)
def test_what_cannot_be_explained_is_told(image: Map, method: str, layer: str | None, message: str | None) -> None:
    served = resnet("custom_resnet18")
    if message is None:
        assert explain(served, image, method, layer).shape == image.shape
        return
    with pytest.raises(ConfigurationError, match=message):
        explain(served, image, method, layer)


def test_maps_of_different_size_are_compared_at_the_larger() -> None:
    small = np.array([[0, 1], [0, 0]], np.float32)
    large = np.zeros((8, 8), np.float32)
    large[:4, 4:] = 1
    assert correlation(small, large) > 0.8
    assert correlation(large, small) == correlation(small, large)
    assert correlation(small, 3 * small + 1) == pytest.approx(1)
    assert correlation(np.zeros((2, 2), np.float32), np.zeros((8, 8), np.float32)) == 1
    assert correlation(np.zeros((2, 2), np.float32), large) == 0
