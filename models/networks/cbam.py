"""CBAM, the convolutional block attention module: first which channels matter, then where (Woo et al., ECCV 2018)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

_REDUCTION: Final = 16
_KERNEL: Final = 7


class ChannelAttention(nn.Module):
    """One weight in (0, 1) per channel, from its mean and its maximum through one shared perceptron without biases."""

    def __init__(self, channels: int, reduction: int = _REDUCTION) -> None:
        super().__init__()
        hidden = channels // reduction
        self.perceptron = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the channels of ``(N, C, H, W)``."""
        mean, maximum = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))  # (N, C)
        weights = torch.sigmoid(self.perceptron(mean) + self.perceptron(maximum))
        return x * weights[:, :, None, None]


class SpatialAttention(nn.Module):
    """One weight in (0, 1) per place, from the mean and the maximum over channels through one convolution."""

    def __init__(self, kernel: int = _KERNEL) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the places of ``(N, C, H, W)``."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)  # (N, 2, H, W)
        return x * torch.sigmoid(self.conv(pooled))


class Cbam(nn.Sequential):
    """Channel attention, then spatial attention; the shape stays."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention()
