"""What every network is made of: a backbone that gives a map, and a head that answers from it and explains itself.

The backbone is the seam between tasks: classification puts one head on its map, other tasks put others. Grad-CAM
(Selvaraju et al. 2017) weighs the map's channels by the spatial mean of the gradient of a logit by the map. Both kinds
of head write that gradient out in closed form, without autograd, so that it can be part of an exported graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Step = Callable[[Tensor], Tensor]


class Backbone(nn.Module, ABC):
    """The convolutional part: ``(N, 3, H, W)`` float32, normalised, to a map ``(N, channels, h, w)``.

    Attributes:
        channels: of the map.
        checkpointing: while training, keep only what lies between the steps and compute the rest once more in the
            backward pass: less memory, about a third more time, the same gradients and the same running statistics.
    """

    channels: int
    checkpointing: bool = False

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """Give the parts that are run one after the other."""

    def features(self, x: Tensor) -> Tensor:
        """Give the last convolutional map."""
        saves_memory = self.checkpointing and self.training and torch.is_grad_enabled()
        for step in self.steps():
            x = checkpoint(step, x, use_reentrant=False, context_fn=self._contexts) if saves_memory else step(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Give the last convolutional map."""
        return self.features(x)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._statistics_kept()

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        # The second forward of a checkpointed step would move batch-norm's running statistics a second time.
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        tracked = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        counts = [count.clone() for count in tracked]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for count, kept in zip(tracked, counts, strict=True):
                count.copy_(kept)


class ClassificationNetwork(nn.Module, ABC):
    """A backbone and a head: ``(N, 3, H, W)`` float32, normalised, to logits ``(N, classes)``.

    Attributes:
        backbone: gives the map that is explained.
        head: everything with parameters behind the map.
    """

    backbone: Backbone
    head: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Give the last convolutional map, ``(N, K, h, w)``, which `grad_cam` explains."""
        return self.backbone.features(x)

    @abstractmethod
    def classify(self, feature_map: Tensor) -> Tensor:
        """Give logits ``(N, classes)`` of a map ``(N, K, h, w)``."""

    @abstractmethod
    def grad_cam(self, feature_map: Tensor, positive: int) -> Tensor:
        """Give Grad-CAM of the logit of one class, ``(N, h, w)``, at least 0, not normalised, in eval mode.

        Args:
            feature_map: ``(N, K, h, w)`` of `features`.
            positive: index of the class.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``(N, classes)``."""
        return self.classify(self.features(x))


class PooledNetwork(ClassificationNetwork):
    """Global average pooling, dropout and one linear layer on a backbone.

    The gradient of a logit by the map is then that layer's weight over h·w everywhere, so that Grad-CAM is
    ReLU(Σ_k w_k A_k) / (h·w).

    Args:
        dropout: probability, of the pooled features.
    """

    head: nn.Linear

    def __init__(self, backbone: Backbone, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.channels, classes)

    def pool(self, feature_map: Tensor) -> Tensor:
        """Average ``(N, K, h, w)`` over space to ``(N, K)``."""
        return feature_map.mean(dim=(2, 3))

    def classify(self, feature_map: Tensor) -> Tensor:
        """Give logits ``(N, classes)`` of a map ``(N, K, h, w)``."""
        logits: Tensor = self.head(self.dropout(self.pool(feature_map)))
        return logits

    def grad_cam(self, feature_map: Tensor, positive: int) -> Tensor:
        """Give Grad-CAM of the logit of one class, ``(N, h, w)``, at least 0, not normalised."""
        cells = feature_map.shape[2] * feature_map.shape[3]
        weights = (self.head.weight[positive] / cells).view(1, -1, 1, 1)
        return torch.relu(functional.conv2d(feature_map, weights)).squeeze(1)


class FullyConnectedNetwork(ClassificationNetwork):
    """A last max-pooling, a fixed grid, then linear layers with ReLU between them (AlexNet, VGG).

    Grad-CAM needs only the sum over space of the gradient by the map, channel by channel. Max-pooling passes each
    gradient on to one place and averaging over windows spreads it, so neither changes that sum: it is the gradient
    through the linear layers alone, with the masks of their ReLUs, summed over the grid.

    Args:
        last_pool: between map and grid; must not mix channels.
        grid: side of the grid that the head flattens.
        head: linear layers, ReLUs and dropout, beginning with K·grid² features.
    """

    head: nn.Sequential

    def __init__(self, backbone: Backbone, last_pool: nn.Module, grid: int, head: nn.Sequential) -> None:
        super().__init__()
        self.backbone = backbone
        self.last_pool = last_pool
        self.grid = nn.AdaptiveAvgPool2d(grid)
        self.head = head

    def classify(self, feature_map: Tensor) -> Tensor:
        """Give logits ``(N, classes)`` of a map ``(N, K, h, w)``."""
        logits: Tensor = self.head(self._flattened(feature_map))
        return logits

    def grad_cam(self, feature_map: Tensor, positive: int) -> Tensor:
        """Give Grad-CAM of the logit of one class, ``(N, h, w)``, at least 0, not normalised, in eval mode."""
        value = self._flattened(feature_map)
        masks = []
        for layer in self.head:
            value = layer(value)
            if isinstance(layer, nn.ReLU):
                masks.append(value > 0)
        first, *later = (layer.weight for layer in self.head if isinstance(layer, nn.Linear))
        # From the back: the row of the class, then each linear layer behind the mask of its ReLU.
        gradient = later.pop()[positive]  # (4096), of every image alike
        for weight in reversed(later):
            gradient = torch.where(masks.pop(), gradient, 0.0) @ weight
        by_channel = first.view(first.shape[0], self.backbone.channels, -1).sum(dim=2)  # (4096, K)
        gradient = torch.where(masks.pop(), gradient, 0.0) @ by_channel  # (N, K)
        cells = feature_map.shape[2] * feature_map.shape[3]
        return torch.relu((feature_map * (gradient / cells)[:, :, None, None]).sum(dim=1))

    def _flattened(self, feature_map: Tensor) -> Tensor:
        gridded: Tensor = self.grid(self.last_pool(feature_map))
        return gridded.flatten(1)  # (N, K * grid * grid)


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
