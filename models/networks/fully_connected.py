"""AlexNet (Krizhevsky 2014) and VGG16 (Simonyan and Zisserman 2015) of torchvision, the networks before pooling.

The map that is explained is the input of the last max-pooling: 13x13 and 14x14 for 224 pixels. With pretrained weights
the first two linear layers come along; only the last one is new.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from models.networks.network import Backbone, FullyConnectedNetwork, Step
from models.networks.published_weights import StateDict, load_all_but_last_layer
from models.networks.torchvision_shim import prepare_torchvision


class SequentialBackbone(Backbone):
    """Convolutions, ReLUs and max-poolings in a row; a step ends before each max-pooling."""

    def __init__(self, layers: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.layers = layers
        self.channels = channels

    def steps(self) -> Sequence[Step]:
        """Give the layers, cut before the max-poolings."""
        pools = [index for index, layer in enumerate(self.layers) if isinstance(layer, nn.MaxPool2d)]
        ends = [*pools, len(self.layers)]
        return [self.layers[start:end] for start, end in zip([0, *pools], ends, strict=True)]


def alexnet(classes: int, weights: StateDict | None) -> FullyConnectedNetwork:
    """Build AlexNet; its map has 256 channels.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """
    prepare_torchvision()
    from torchvision import models

    return _taken_apart(models.alexnet(weights=None, num_classes=classes), weights)


def vgg16(classes: int, weights: StateDict | None) -> FullyConnectedNetwork:
    """Build VGG16 without batch-norm; its map has 512 channels.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """
    prepare_torchvision()
    from torchvision import models

    return _taken_apart(models.vgg16(weights=None, num_classes=classes), weights)


def _taken_apart(whole: nn.Module, weights: StateDict | None) -> FullyConnectedNetwork:
    layers, classifier = whole.get_submodule("features"), whole.get_submodule("classifier")
    if not isinstance(layers, nn.Sequential) or not isinstance(classifier, nn.Sequential):
        raise TypeError(f"{type(whole).__name__} of this torchvision is built otherwise")
    if weights is not None:
        load_all_but_last_layer(whole, weights, f"classifier.{len(classifier) - 1}")
    linear = next(layer for layer in classifier if isinstance(layer, nn.Linear))
    convolution = [layer for layer in layers if isinstance(layer, nn.Conv2d)][-1]
    grid = round((linear.in_features / convolution.out_channels) ** 0.5)
    backbone = SequentialBackbone(nn.Sequential(*list(layers)[:-1]), convolution.out_channels)
    return FullyConnectedNetwork(backbone, layers[-1], grid, classifier)
