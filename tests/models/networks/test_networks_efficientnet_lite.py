"""EfficientNet-Lite0: shapes, size, pretrained weights, gradients, and TensorFlow's padding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from models.networks.efficientnet_lite import EfficientNetLite0, SameConv2d, published_imagenet_weights
from models.networks.table import Normalise, network_entry


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    return EfficientNetLite0(classes=2)


def test_parameter_counts_are_those_of_the_architecture() -> None:
    # 4,652,008 is the published size with 1000 classes; a head of 1280 x 1000 + 1000 is replaced by 1280 x 2 + 2.
    counts = [sum(p.numel() for p in EfficientNetLite0(classes).parameters()) for classes in (1000, 2)]
    assert counts == [4_652_008, 4_652_008 - 1_281_000 + 2_562]


@pytest.mark.parametrize(("side", "map_side"), [(224, 7), (64, 2), (97, 4)])
def test_shapes_follow_the_input(network: EfficientNetLite0, side: int, map_side: int) -> None:
    network.eval()
    with torch.inference_mode():
        feature_map = network.features(torch.rand(2, 3, side, side))
        logits = network(torch.rand(2, 3, side, side))
    assert feature_map.shape == (2, 1280, map_side, map_side)
    assert network.pool(feature_map).shape == (2, 1280)
    assert logits.shape == (2, 2)


def test_every_parameter_gets_a_gradient(network: EfficientNetLite0) -> None:
    network.train()
    network.zero_grad()
    torch.manual_seed(1)
    # Stochastic depth leaves a block of the batch without gradient only if it drops every sample.
    loss = torch.nn.functional.cross_entropy(network(torch.rand(8, 3, 64, 64)), torch.arange(8) % 2)
    loss.backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_stochastic_depth_is_off_in_evaluation(network: EfficientNetLite0) -> None:
    network.eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(x), network(x))


def test_saved_names_are_those_of_the_public_weights() -> None:
    public = published_imagenet_weights().tensors
    assert set(EfficientNetLite0(classes=1000).state_dict()) == set(public)


def test_a_saved_network_is_loaded_again_alone_copied_and_within_another_module() -> None:
    saved = EfficientNetLite0(classes=2).state_dict()
    others = [EfficientNetLite0(classes=2), copy.deepcopy(EfficientNetLite0(classes=2))]
    for other in others:
        other.load_state_dict(saved)
        assert all(torch.equal(tensor, saved[name]) for name, tensor in other.state_dict().items())
    outer, again = (torch.nn.Sequential(EfficientNetLite0(classes=2), torch.nn.Linear(2, 2)) for _ in range(2))
    assert {"0._fc.weight", "0._blocks.0._bn1.weight", "1.bias"} < set(outer.state_dict())
    again.load_state_dict(outer.state_dict())
    assert torch.equal(again[0].head.weight, outer[0].head.weight)


def test_imagenet_weights_load_whole_and_know_the_classes_they_were_trained_on() -> None:
    network = EfficientNetLite0(classes=1000)
    network.load_state_dict(published_imagenet_weights().tensors)
    # The head's rows of ImageNet's 281 (tabby) and 282 (tiger cat) are nearer to each other than to 817 (sports car).
    rows = torch.nn.functional.normalize(network.head.weight.detach(), dim=1)
    assert rows[281] @ rows[282] > rows[281] @ rows[817] + 0.2


def test_a_pretrained_network_has_the_public_backbone_and_a_new_head() -> None:
    network = network_entry("efficientnet_lite0").build(2, True)
    public = published_imagenet_weights().tensors
    state = network.state_dict()
    assert torch.equal(state["_conv_stem.weight"], public["_conv_stem.weight"])
    assert state["_fc.weight"].shape == (2, 1280)


def test_stride_two_pads_below_and_right_as_tensorflow_does() -> None:
    convolution = SameConv2d(1, 1, 3, stride=2)
    torch.nn.init.ones_(convolution.weight)
    with torch.inference_mode():
        output = convolution(torch.ones(1, 1, 4, 4))[0, 0]
    # Windows start at 0 and 2; those at 2 reach one row or column of zeros: 9, 6 and 4 ones.
    assert output.tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_normalise_gives_three_channels_with_imagenet_statistics() -> None:
    entry = network_entry("efficientnet_lite0")
    output = Normalise(entry.mean, entry.std)(torch.full((1, 1, 1, 1), 0.5)).flatten().numpy()
    np.testing.assert_allclose(output, [0.015 / 0.229, 0.044 / 0.224, 0.094 / 0.225], rtol=1e-5)
