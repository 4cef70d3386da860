"""A fitted network in memory: what was fitted, how it is asked, and what its answers mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.networks.table import ClassificationNetwork, NetworkEntry, Normalise
from models.pixels.spec import InputSpec
from training.evaluation import Floats, Labels

Weights = dict[str, Tensor]
"""A state dict of a network, on the CPU."""


class Normalised(nn.Module):
    """Normalisation, then a network: what is fitted. Takes ``(N, 1, H, W) float32 in [0, 1]``, gives logits.

    Args:
        mean, std: of the three channels that the network wants.
        network: takes ``(N, 3, H, W)``.
    """

    network: nn.Module

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], network: nn.Module) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.network = network
        # On a CPU channels-last more than halves the time of networks of small convolutions.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub has no such overload

    def forward(self, image: Tensor) -> Tensor:
        """Give the network's logits."""
        logits: Tensor = self.network(self.normalised(image))
        return logits

    def normalised(self, image: Tensor) -> Tensor:
        """Give ``(N, 3, H, W)``, channels last in memory: what the network itself takes."""
        normalised: Tensor = self.normalise(image.contiguous(memory_format=torch.channels_last))
        return normalised


class Model(Normalised):
    """A network of two classes behind its normalisation; logits are ``(N, classes)``."""

    network: ClassificationNetwork

    def __init__(self, entry: NetworkEntry, network: ClassificationNetwork) -> None:
        super().__init__(entry.mean, entry.std, network)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A network of a run, in eval mode, with what its answers mean.

    Attributes:
        network: takes ``(N, 3, H, W)`` normalised images; `model` takes plain ones.
        temperature: logits are divided by it before the softmax; 1 where the run was not calibrated.
        threshold: positive is ``probability >= threshold``; 0.5 where the run was not calibrated.
        labels: class names in the order of the logits; the second is the positive class.
    """

    network: ClassificationNetwork
    entry: NetworkEntry
    temperature: float
    threshold: float
    labels: tuple[str, ...]
    input_spec: InputSpec

    @property
    def model(self) -> Model:
        """The network behind its normalisation."""
        return Model(self.entry, self.network).eval()


def predict(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Labels, Floats]:
    """Give labels ``(N)`` and logits ``(N, classes)`` of every batch of images and labels."""
    model.eval()
    labels, logits = [], []
    with torch.inference_mode():
        for image, label in batches:
            logits.append(model(image).double().numpy())
            labels.append(label.numpy())
    return np.concatenate(labels), np.concatenate(logits)
