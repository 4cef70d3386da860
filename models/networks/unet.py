"""The U-Net (Ronneberger et al., MICCAI 2015) with batch-norm and bilinear upsampling, always fitted from nothing."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.heatmap_network import HeatmapNetwork, Heatmaps

_WIDTHS: Final = (64, 128, 256, 512, 512)
"""Of the levels from the top down. The lowest has half of what a doubling would give: upsampling halves no channels."""
_DOWN_DROPOUT: Final = (0.2, 0.2, 0.3, 0.4)
_UP_DROPOUT: Final = (0.3, 0.2, 0.1, 0.0)


class DoubleConvolution(nn.Sequential):
    """Twice a 3x3 convolution, batch-norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, hidden: int | None = None) -> None:
        hidden = outputs if hidden is None else hidden
        super().__init__(
            nn.Conv2d(inputs, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UNet(HeatmapNetwork):
    """Four levels down, four up with the map of the same level beside; heatmaps as large as the input.

    Args:
        landmarks: K, how many heatmaps.
    """

    stride = 1

    def __init__(self, landmarks: int) -> None:
        super().__init__()
        self.first = DoubleConvolution(3, _WIDTHS[0])
        steps_down = zip(_WIDTHS[:-1], _WIDTHS[1:], _DOWN_DROPOUT, strict=True)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), DoubleConvolution(inputs, outputs), nn.Dropout2d(dropout))
            for inputs, outputs, dropout in steps_down
        )
        skipped = _WIDTHS[-2::-1]  # 512, 256, 128, 64
        steps_up = zip(skipped, (*skipped[1:], skipped[-1]), _UP_DROPOUT, strict=True)
        self.up = nn.ModuleList(
            nn.Sequential(DoubleConvolution(2 * skip, outputs, hidden=skip), nn.Dropout2d(dropout))
            for skip, outputs, dropout in steps_up
        )
        self.last = nn.Conv2d(skipped[-1], landmarks, 1)

    def forward(self, x: Tensor) -> Heatmaps:
        """Give the heatmaps of ``(N, 3, H, W)``; sides are multiples of 16."""
        levels: list[Tensor] = [self.first(x)]
        for step in self.down:
            levels.append(step(levels[-1]))
        value = levels.pop()
        for step in self.up:
            larger = functional.interpolate(value, scale_factor=2.0, mode="bilinear", align_corners=False)
            value = step(torch.cat((levels.pop(), larger), dim=1))
        return Heatmaps(self.last(value))
