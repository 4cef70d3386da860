"""Monte-Carlo dropout (Gal and Ghahramani, ICML 2016): how far a network's answers scatter when channels drop out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

PASSES: Final = 10


class Scatter(NamedTuple):
    """What several passes gave, in input pixels.

    Attributes:
        mean: ``(N, K, 2)``.
        deviation: ``(N, K, 2)``, the sample standard deviation of x and y.
    """

    mean: Tensor
    deviation: Tensor


def monte_carlo(network: nn.Module, images: Tensor, passes: int = PASSES) -> Scatter:
    """Look at images several times with dropout on and all else, batch-norm above all, as in eval mode.

    The network's mode is as before afterwards. Draws from torch's generator.

    Args:
        network: gives landmarks ``(N, K, 2)`` first, as `training.landmark_served.ServedLandmarks` does; without
            dropout there is no deviation.
        images: what it takes.
        passes: at least 2.
    """
    with torch.inference_mode(), _dropout_alone(network):
        points = torch.stack([network(images)[0] for _ in range(passes)])  # (passes, N, K, 2)
    return Scatter(points.mean(dim=0), points.std(dim=0))


@contextmanager
def _dropout_alone(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    for module in modes:
        if isinstance(module, _DropoutNd):
            module.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
