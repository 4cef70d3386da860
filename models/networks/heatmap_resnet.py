"""ResNet-50 with transposed convolutions up to the input's size: the simple baseline (Xiao et al., ECCV 2018)."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.network import Backbone

_WIDTH: Final = 256
_DROPOUT: Final = (0.3, 0.2, 0.1, 0.0, 0.0)
"""After each of the five steps that double the size."""
_HEAD_DEVIATION: Final = 0.001


class HeatmapResNet(HeatmapNetwork):
    """A backbone whose map is a thirty-second of the input, five doublings, and heatmaps as large as the input.

    Args:
        backbone: of ResNet-50.
        landmarks: K, how many heatmaps.
    """

    stride = 1

    def __init__(self, backbone: Backbone, landmarks: int) -> None:
        super().__init__()
        self.backbone = backbone
        inputs = (backbone.channels, *(_WIDTH,) * (len(_DROPOUT) - 1))
        self.up = nn.Sequential(*(_doubling(width, dropout) for width, dropout in zip(inputs, _DROPOUT, strict=True)))
        self.last = nn.Conv2d(_WIDTH, landmarks, 1)
        for module in self.up.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=_HEAD_DEVIATION)  # as the paper begins
        nn.init.normal_(self.last.weight, std=_HEAD_DEVIATION)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # the layer has one

    def forward(self, x: Tensor) -> Heatmaps:
        """Give the heatmaps of ``(N, 3, H, W)``; sides are multiples of 32."""
        return Heatmaps(self.last(self.up(self.backbone(x))))


def _doubling(inputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, _WIDTH, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(_WIDTH),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
    )
