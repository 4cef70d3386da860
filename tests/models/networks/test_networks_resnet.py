"""Our own ResNet-18 against torchvision's, and CBAM worked out by hand."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable

import pytest
import torch

from models.networks.cbam import Cbam, ChannelAttention, SpatialAttention
from models.networks.resnet import custom_resnet18, torchvision_resnet


def test_our_resnet18_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    reference = torchvision_resnet(2, None, depth=18)
    reference.train()(torch.rand(4, 3, 64, 64))  # so that batch-norm has statistics
    ours = custom_resnet18(2)
    ours.load_state_dict(reference.state_dict())
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(image), reference.eval()(image))


def test_our_resnet18_begins_as_he_and_others_say() -> None:
    torch.manual_seed(0)
    network = custom_resnet18(2)
    convolution = network.backbone.get_submodule("layer4.1.conv2")
    assert float(convolution.weight.detach().std()) == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    assert float(network.head.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not network.head.bias.any()


def test_cbam_stands_behind_each_stage_and_adds_its_parameters() -> None:
    network = custom_resnet18(2, attention=True)
    sizes = [sum(p.numel() for p in m.parameters()) for m in network.modules() if isinstance(m, Cbam)]
    # Two matrices of C x C/16, and a 7 x 7 kernel over two channels.
    assert sizes == [2 * c * c // 16 + 2 * 49 for c in (64, 128, 256, 512)]
    assert sum(sizes) == 43_912


def test_channel_attention_adds_the_perceptrons_of_mean_and_maximum() -> None:
    attention = ChannelAttention(2, reduction=2)
    with torch.no_grad():
        attention.perceptron[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        attention.perceptron[2].weight.copy_(torch.tensor([[1.0], [2.0]]))
    x = torch.tensor([[[[1.0, 5.0]], [[1.0, 1.0]]]])  # means 3 and 1, maxima 5 and 1
    # Hidden: relu(3 - 1) = 2 and relu(5 - 1) = 4; their sum 6 goes to the channels as 6 and 12.
    weights = 1 / (1 + torch.exp(torch.tensor([-6.0, -12.0])))
    torch.testing.assert_close(attention(x), x * weights.view(1, 2, 1, 1))


def test_spatial_attention_looks_at_mean_and_maximum_over_channels() -> None:
    attention = SpatialAttention()
    with torch.no_grad():
        attention.conv.weight.zero_()
        attention.conv.weight[0, :, 3, 3] = torch.tensor([1.0, -2.0])
    x = torch.tensor([[[[1.0, 4.0]], [[3.0, 0.0]]]])  # means 2 and 2, maxima 3 and 4
    weights = 1 / (1 + torch.exp(-torch.tensor([2.0 - 6.0, 2.0 - 8.0])))
    torch.testing.assert_close(attention(x), x * weights)


def test_torchvision_is_loaded_only_when_needed_and_beside_any_torch(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = """
import sys
from models.networks.table import network_entry
from models.networks.torchvision_shim import prepare_torchvision
assert "torchvision" not in sys.modules
prepare_torchvision()
prepare_torchvision()
import torchvision
print(network_entry("plain_resnet18").build_backbone(False).channels)
"""
    done = run_python("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "512\n"
