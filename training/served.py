"""What is exported: the fitted network with everything before and after it that training and serving must share."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.networks.network import ClassificationNetwork, Normalise
from models.networks.table import NetworkEntry

OUTPUT_NAMES: Final = ("probability", "cam")

SMALLEST_MAXIMUM: Final = 1e-8


class ServedNetwork(nn.Module):
    """``image (N, 1, H, W) float32 in [0, 1]`` to ``probability (N, C)`` and ``cam (N, h, w)``, both in [0, 1].

    ``cam`` is Grad-CAM (Selvaraju et al. 2017) of the positive class at the last convolutional map, divided by its own
    maximum. Networks give it in closed form, so no backward pass is needed. Where nothing speaks for the class the map
    is zero.

    Args:
        temperature: the logits are divided by it before the softmax.
        positive: index of the class that ``cam`` explains.
    """

    def __init__(self, entry: NetworkEntry, network: ClassificationNetwork, temperature: float, positive: int) -> None:
        super().__init__()
        self.normalise = Normalise(entry.mean, entry.std)
        self.network = network
        self.temperature = temperature
        self.positive = positive

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``probability`` and ``cam``."""
        feature_map = self.network.features(self.normalise(image))  # (N, K, h, w)
        logits = self.network.classify(feature_map)  # (N, C)
        cam = self.network.grad_cam(feature_map, self.positive)  # (N, h, w)
        maximum = cam.amax(dim=(1, 2), keepdim=True)
        return torch.softmax(logits / self.temperature, dim=1), cam / maximum.clamp(min=SMALLEST_MAXIMUM)
