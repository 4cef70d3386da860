"""SpineLite: heatmaps of vertebral landmarks that a CPU worker can afford.

EfficientNet-Lite0 without its last convolution, and a feature pyramid (Lin et al., CVPR 2017) down to a quarter of the
input's size, of depthwise-separable convolutions. What tells one vertebra from the next is where it stands in the
whole column, so the coarsest map is looked at in a wide neighbourhood first.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from models.networks.efficientnet_lite import EfficientNetLite0, efficientnet_lite0
from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.published_weights import StateDict

WIDTH: Final = 128
BLOCKS: Final = 16
"""Of EfficientNet-Lite0."""

_TAPS: Final = {2: 24, 4: 40, 10: 112, 15: 320}
"""Channels after the last block of each size, by the block's number; the sizes are a 4th to a 32nd of the input's."""
_CONTEXT_KERNEL: Final = 7
_CONTEXT_BLOCKS: Final = 2
_LAST_KERNEL: Final = 5
_DROPOUT: Final = 0.1


class EfficientNetLitePyramid(nn.Module):
    """Stem and blocks of EfficientNet-Lite0, under their public names: maps of up to four levels.

    Args:
        weights: ImageNet's; None is random.
        blocks: how many of the 16 blocks to have; with fewer of them there are fewer levels.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """

    def __init__(self, weights: StateDict | None, blocks: int = BLOCKS) -> None:
        super().__init__()
        whole: EfficientNetLite0 = efficientnet_lite0(1, weights)
        self._conv_stem = whole.backbone.get_submodule("_conv_stem")
        self._bn0 = whole.backbone.get_submodule("_bn0")
        every = whole.backbone.get_submodule("_blocks")
        self._blocks = nn.ModuleList(list(every.children())[:blocks])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the maps of ``(N, 3, H, W)``, the finest first."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in _TAPS:
                maps.append(x)
        return maps


class Separable(nn.Sequential):
    """Depthwise and pointwise convolution, each with batch-norm; ReLU6 behind both."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU6(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class SpineLite(HeatmapNetwork):
    """Heatmaps at a quarter of the input, with no standard deviation of their own.

    Dropout takes channels of the coarsest map alone: it makes the network unsure which vertebra it sees, and leaves
    what tells where exactly a corner is.

    Args:
        landmarks: K, how many heatmaps.
        weights: for the backbone; None is random.
        width: channels of the decoder.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """

    stride = 4

    def __init__(self, landmarks: int, weights: StateDict | None = None, width: int = WIDTH) -> None:
        super().__init__()
        self.backbone = EfficientNetLitePyramid(weights)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
            for channels in _TAPS.values()
        )
        self.context = nn.ModuleList(Separable(width, width, _CONTEXT_KERNEL) for _ in range(_CONTEXT_BLOCKS))
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.smooth = nn.ModuleList(Separable(width, width) for _ in range(len(_TAPS) - 1))
        self.last = Separable(width, width, _LAST_KERNEL)
        self.head = nn.Conv2d(width, landmarks, 1)

    def forward(self, x: Tensor) -> Heatmaps:
        """Give the heatmaps of ``(N, 3, H, W)``; sides are multiples of 32."""
        levels = [lateral(tap) for lateral, tap in zip(self.lateral, self.backbone(x), strict=True)]
        value: Tensor = levels.pop()
        for block in self.context:
            value = value + block(value)
        value = self.dropout(value)
        for smooth, level in zip(self.smooth, reversed(levels), strict=True):
            larger = functional.interpolate(value, scale_factor=2.0, mode="bilinear", align_corners=False)
            value = smooth(larger + level)
        return Heatmaps(self.head(self.last(value)))
