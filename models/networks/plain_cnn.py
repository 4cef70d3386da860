"""A plain convolutional network of five layers, fitted from nothing: the control among the backbones of CSI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import nn

from models.networks.network import Backbone, Step

_WIDTHS: Final = (64, 128, 256, 512, 1024)
_KERNELS: Final = (7, 5, 3, 3, 3)
_POOLED: Final = (True, True, False, False, False)


class PlainCnnBackbone(Backbone):
    """Convolutions with stride 2, batch-norm and ReLU; a 3x3 max-pooling with stride 2 after each of the first two.

    The map has 1024 channels and a side of a 128th of the input's, rounded up.
    """

    channels = _WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *_WIDTHS[:-1])
        shapes = zip(inputs, _WIDTHS, _KERNELS, _POOLED, strict=True)
        self.stages = nn.ModuleList(_stage(*shape) for shape in shapes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def steps(self) -> Sequence[Step]:
        """Give the five stages in turn."""
        return list(self.stages)


def _stage(inputs: int, outputs: int, kernel: int, pooled: bool) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    if pooled:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)
