"""DenseNet-121 (Huang et al., CVPR 2017), the network of CheXNet (Rajpurkar et al., 2017): torchvision's layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from models.networks.network import Backbone, Step
from models.networks.published_weights import StateDict, load_all_but_last_layer
from models.networks.torchvision_shim import prepare_torchvision

_OLD_NAME: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""The published weights are older than a rule for names: ``norm.1.weight`` is ``norm1.weight`` now."""


class DenseNetBackbone(Backbone):
    """The dense blocks, the last batch-norm and its ReLU.

    Args:
        features: torchvision's ``features``, which end with that batch-norm.
        channels: of the map.
    """

    def __init__(self, features: nn.Sequential, channels: int) -> None:
        super().__init__()
        self.stages = features
        self.channels = channels

    def steps(self) -> Sequence[Step]:
        """Give every stage in turn; the map is a thirty-second of the input's size."""
        return [*self.stages, _relu]


def _relu(x: Tensor) -> Tensor:
    return functional.relu(x)


def densenet121_backbone(weights: StateDict | None) -> DenseNetBackbone:
    """Take the backbone of torchvision's DenseNet-121; its map has 1024 channels.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """
    prepare_torchvision()
    from torchvision import models

    whole = models.densenet121(weights=None)
    if weights is not None:
        renamed = {_OLD_NAME.sub(r"\1\2", name): tensor for name, tensor in weights.tensors.items()}
        load_all_but_last_layer(whole, StateDict(weights.source, renamed), "classifier")
    return DenseNetBackbone(whole.features, whole.classifier.in_features)
