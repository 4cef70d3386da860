"""What every landmark network is: an image in, one heatmap per landmark out, and which of its weights are fitted.

A cell (i, j) of a heatmap with stride s has its centre at ((j + 0.5) s, (i + 0.5) s) input pixels, x and y counted from
the top-left corner of the top-left pixel. Where in a heatmap its landmark lies is the matter of `heatmap_decoding`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.errors import ConfigurationError

BACKBONE: Final = "backbone"
"""The attribute under which a network keeps what begins with published weights."""


class Heatmaps(NamedTuple):
    """What a landmark network gives.

    Attributes:
        heatmaps: ``(N, K, h, w)``, the heat as it was regressed: about 1 at the landmark, 0 far away, unbounded.
        sigma: ``(N, K, 2)``, the predicted standard deviation of x and y in input pixels; None where the network does
            not predict it.
    """

    heatmaps: Tensor
    sigma: Tensor | None = None


class HeatmapNetwork(nn.Module, ABC):
    """``(N, 3, H, W)`` float32, normalised, to `Heatmaps` of ``(N, K, H / stride, W / stride)``.

    Networks with published weights keep what has them as `backbone`, and its parts are frozen by the names that they
    have within it.

    Attributes:
        stride: input pixels per heatmap cell: 1, 2 or 4.
        frozen: what `freeze` was given.
    """

    stride: int
    frozen: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, x: Tensor) -> Heatmaps:
        """Give the heatmaps of ``(N, 3, H, W)``; sides are multiples of 32."""

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Give what began with published weights, if anything, and is not frozen."""
        return (parameter for name, parameter in self._fitted() if _is_within(name, BACKBONE))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Give everything else that is not frozen."""
        return (parameter for name, parameter in self._fitted() if not _is_within(name, BACKBONE))

    def freeze(self, prefixes: Sequence[str]) -> None:
        """Keep parts as they are: no gradients, and batch-norm with the statistics that it has, also while training.

        A prefix ends where a part of a name ends: ``layer1`` is neither ``layer10`` nor ``layer4.0.layer1``.

        Args:
            prefixes: of names of parameters, in the backbone or in the network: ``conv1``, ``head.0``.

        Raises:
            ConfigurationError: no parameter's name begins so.
        """
        for prefix in prefixes:
            parameters = [parameter for name, parameter in self.named_parameters() if _begins(name, prefix)]
            if not parameters:
                raise ConfigurationError(f"freeze {prefix}: no weight of {type(self).__name__} has such a name")
            for parameter in parameters:
                parameter.requires_grad_(False)
        self.frozen = (*self.frozen, *prefixes)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of training; frozen batch-norms stay in eval mode."""
        super().train(mode)
        for norm in self._frozen_norms():
            norm.eval()
        return self

    def _fitted(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    def _frozen_norms(self) -> Iterator[nn.Module]:
        for name, module in self.named_modules():
            if isinstance(module, _BatchNorm) and any(_begins(name, prefix) for prefix in self.frozen):
                yield module


def _begins(name: str, prefix: str) -> bool:
    return _is_within(name, prefix) or _is_within(name, f"{BACKBONE}.{prefix}")


def _is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
