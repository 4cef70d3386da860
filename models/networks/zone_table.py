"""The table of CSI's backbones: what ``--backbone`` may name, and how each is built and fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError
from models.networks import rad_dino
from models.networks.densenet import densenet121_backbone
from models.networks.network import Backbone
from models.networks.plain_cnn import PlainCnnBackbone
from models.networks.published_weights import read_weights_file, torchvision_weights
from models.networks.rad_dino import rad_dino_backbone
from models.networks.table import IMAGENET_MEAN, IMAGENET_STD, network_entry

Means = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ZoneBackbone:
    """One backbone of the table.

    Attributes:
        name: as on the command line.
        build: of ``pretrained`` and a local file or directory with the weights; raises `ConfigurationError` where they
            cannot be had.
        pretrained: whether it begins with published weights unless told otherwise.
        mean, std: of the three channels that it wants, for images in [0, 1].
        image_size: side of the input that it was designed for, pixels; it takes others.
        has_shape: whether it can be built without its weights, to load others.
        foldable: whether each batch-norm follows a convolution, into which an exported graph takes it.
    """

    name: str
    build: Callable[[bool, Path | None], Backbone]
    pretrained: bool = True
    mean: Means = IMAGENET_MEAN
    std: Means = IMAGENET_STD
    image_size: int = 224
    has_shape: bool = True
    foldable: bool = True


_DENSENET_WEIGHTS: Final = torchvision_weights("DenseNet121_Weights", "IMAGENET1K_V1")


def _chexnet(pretrained: bool, weights: Path | None) -> Backbone:
    if not pretrained:
        return densenet121_backbone(None)
    return densenet121_backbone(_DENSENET_WEIGHTS.read() if weights is None else read_weights_file(weights))


def _custom_cnn(pretrained: bool, weights: Path | None) -> Backbone:
    if pretrained or weights is not None:
        raise ConfigurationError("backbone custom_cnn: there are no pretrained weights; use --no-pretrained")
    return PlainCnnBackbone()


def _rad_dino(pretrained: bool, weights: Path | None) -> Backbone:
    if not pretrained:
        raise ConfigurationError(f"backbone rad_dino: is used with its weights alone; {rad_dino.HOW_TO_GET}")
    return rad_dino_backbone(weights)


_ENTRIES: Final = (
    ZoneBackbone("resnet50", network_entry("resnet50").build_backbone),
    ZoneBackbone("chexnet", _chexnet, foldable=False),
    ZoneBackbone("custom_cnn", _custom_cnn, pretrained=False),
    ZoneBackbone(
        "rad_dino", _rad_dino, mean=rad_dino.MEAN, std=rad_dino.STD, image_size=rad_dino.IMAGE_SIZE, has_shape=False
    ),
    ZoneBackbone("efficientnet_lite0", network_entry("efficientnet_lite0").build_backbone),
)

ZONE_BACKBONES: Final[dict[str, ZoneBackbone]] = {entry.name: entry for entry in _ENTRIES}
"""Every backbone by name."""


def zone_backbone(name: str) -> ZoneBackbone:
    """Look a backbone up.

    Raises:
        ConfigurationError: no backbone has this name.
    """
    try:
        return ZONE_BACKBONES[name]
    except KeyError:
        raise ConfigurationError(f"backbone {name}: unknown; known are {', '.join(sorted(ZONE_BACKBONES))}") from None
