"""ResNets (He et al., CVPR 2016): torchvision's ResNet-18 and ResNet-50, our own ResNet-18, each with or without CBAM.

Ours is built and initialised here from nothing, as the control of the ablation: same layers and parameter names as
torchvision's, Kaiming fan-out convolutions, last layer N(0, 0.01). With CBAM one module stands after each of the four
stages, so that the map which Grad-CAM explains is the attended one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from models.networks.cbam import Cbam
from models.networks.network import Backbone, PooledNetwork, Step
from models.networks.published_weights import StateDict, load_all_but_last_layer
from models.networks.torchvision_shim import prepare_torchvision

_STAGES: Final = 4
_RESNET18_CHANNELS: Final = (64, 128, 256, 512)
_BLOCKS_PER_STAGE: Final = 2
_HEAD_DEVIATION: Final = 0.01


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch-norm, added to the input or to its 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, inputs, H, W)`` to ``(N, outputs, H/stride, W/stride)``."""
        hidden = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.downsample(x))


class ResNetBackbone(Backbone):
    """Stem, four stages ``layer1`` to ``layer4``, and after each a CBAM where `attention` is set.

    Args:
        conv1, bn1: of the stem, which a ReLU and a 3x3 max-pooling with stride 2 end.
        stages: four; stage k gives ``channels[k]`` channels.
    """

    def __init__(
        self, conv1: nn.Conv2d, bn1: nn.Module, stages: Sequence[nn.Module], channels: Sequence[int], attention: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv1
        self.bn1 = bn1
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.attends = attention
        if attention:
            self.cbam1, self.cbam2, self.cbam3, self.cbam4 = (Cbam(width) for width in channels)
        self.channels = channels[-1]

    def steps(self) -> Sequence[Step]:
        """Give stem, stages and attention in turn."""
        steps: list[Step] = [self._stem]
        for number in range(1, _STAGES + 1):
            steps.append(self.get_submodule(f"layer{number}"))
            if self.attends:
                steps.append(self.get_submodule(f"cbam{number}"))
        return steps

    def _stem(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        return pooled  # (N, 64, H/4, W/4)


def torchvision_resnet_backbone(depth: int, weights: StateDict | None, *, attention: bool = False) -> ResNetBackbone:
    """Take the backbone of torchvision's ResNet-18 or ResNet-50; its map has 512 or 2048 channels.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """
    prepare_torchvision()
    from torchvision import models

    whole = {18: models.resnet18, 50: models.resnet50}[depth](weights=None)
    if weights is not None:
        load_all_but_last_layer(whole, weights, "fc")
    expansion = whole.fc.in_features // _RESNET18_CHANNELS[-1]
    channels = [width * expansion for width in _RESNET18_CHANNELS]
    stages = (whole.layer1, whole.layer2, whole.layer3, whole.layer4)
    return ResNetBackbone(whole.conv1, whole.bn1, stages, channels, attention)


def torchvision_resnet(
    classes: int, weights: StateDict | None, *, depth: int, attention: bool = False
) -> PooledNetwork:
    """Put a new linear layer on torchvision's ResNet.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """
    return PooledNetwork(torchvision_resnet_backbone(depth, weights, attention=attention), classes)


def custom_resnet18_backbone(*, attention: bool = False) -> ResNetBackbone:
    """Build our own ResNet-18 from nothing; its map has 512 channels."""
    stem = nn.Conv2d(3, _RESNET18_CHANNELS[0], 7, stride=2, padding=3, bias=False)
    stages = []
    inputs = _RESNET18_CHANNELS[0]
    for outputs in _RESNET18_CHANNELS:
        stride = 1 if outputs == inputs else 2
        stages.append(_stage(inputs, outputs, stride))
        inputs = outputs
    backbone = ResNetBackbone(stem, nn.BatchNorm2d(_RESNET18_CHANNELS[0]), stages, _RESNET18_CHANNELS, attention)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(1, _BLOCKS_PER_STAGE)))


def custom_resnet18(classes: int, *, attention: bool = False) -> PooledNetwork:
    """Build our own ResNet-18 with its last layer."""
    network = PooledNetwork(custom_resnet18_backbone(attention=attention), classes)
    nn.init.normal_(network.head.weight, std=_HEAD_DEVIATION)
    nn.init.zeros_(network.head.bias)
    return network
