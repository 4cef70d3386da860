"""MAHT-Net: a convolutional pyramid, a transformer on its coarsest map, and one query per landmark.

The coarsest map sees the whole spine through self-attention; a decoder brings it back to a quarter of the input with
the pyramid's maps of the same level beside it. Each landmark is a query that knows which vertebra and which corner it
is; it looks at the coarse map, and its heatmap is the product of what it has become with every cell of the decoded map.
Each query predicts its own uncertainty.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.published_weights import StateDict, load_all_but_last_layer
from models.networks.torchvision_shim import prepare_torchvision
from models.networks.transformer import DecoderBlock, EncoderBlock
from models.networks.unet import DoubleConvolution
from models.spine.schemas import CORNERS, LandmarkSchema

SIGMA_RANGE: Final = (0.5, 50.0)
"""Input pixels."""

_WIDTH: Final = 256
_HEADS: Final = 8
_HIDDEN: Final = 1024
_ENCODER_BLOCKS: Final = 4
_DECODER_BLOCKS: Final = 3
_DROPOUT: Final = 0.1
_LEVELS: Final = ((2, 48), (3, 64), (5, 160), (6, 256))
"""Stages of EfficientNetV2-S that end a level, and their channels: a 4th, 8th, 16th and 32nd of the input."""
_DECODER_WIDTHS: Final = (640, 384, _WIDTH)
"""Of the levels of a 16th, an 8th and a quarter."""
_DECODER_DROPOUT: Final = (0.2, 0.1, 0.0)
_POSITIONS: Final = 16
"""Side of the learned grid of positions: the coarsest map of an input of 512 pixels."""
_EMBEDDING_DEVIATION: Final = 0.02


class EfficientNetPyramid(nn.Module):
    """EfficientNetV2-S (Tan and Le, ICML 2021) of torchvision without its last convolution: maps of four levels.

    Args:
        weights: ImageNet's; None is random.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """

    def __init__(self, weights: StateDict | None) -> None:
        super().__init__()
        prepare_torchvision()
        from torchvision import models

        whole = models.efficientnet_v2_s(weights=None)
        if weights is not None:
            load_all_but_last_layer(whole, weights, "classifier")
        self.features: nn.Sequential = whole.features[: _LEVELS[-1][0] + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the maps of ``(N, 3, H, W)``, the finest first."""
        ends = {stage for stage, _ in _LEVELS}
        maps = []
        for number, stage in enumerate(self.features):
            x = stage(x)
            if number in ends:
                maps.append(x)
        return maps


class LandmarkEmbedding(nn.Module):
    """Which landmark each query is: a vector of its own, and one made of its vertebra's and its corner's."""

    def __init__(self, schema: LandmarkSchema, width: int) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(len(schema), width) * _EMBEDDING_DEVIATION)
        self.vertebra = nn.Parameter(torch.randn(len(schema.vertebrae), width))
        self.corner = nn.Parameter(torch.randn(len(CORNERS), width))
        self.anatomy = nn.Linear(width, width)
        self.vertebrae = [schema.vertebrae.index(vertebra) for vertebra, _ in schema.points]
        self.corners = [CORNERS.index(corner) for _, corner in schema.points]

    def forward(self) -> Tensor:
        """Give ``(K, width)``."""
        anatomical: Tensor = self.anatomy(self.vertebra[self.vertebrae] + self.corner[self.corners])
        return self.own + anatomical


class MahtNet(HeatmapNetwork):
    """Heatmaps at a quarter of the input, and the standard deviation of x and y of each landmark.

    Args:
        schema: whose vertebrae and corners the queries stand for.
        weights: for the pyramid; None is random.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """

    stride = 4

    def __init__(self, schema: LandmarkSchema, weights: StateDict | None = None) -> None:
        super().__init__()
        self.backbone = EfficientNetPyramid(weights)
        self.coarsest = nn.Conv2d(_LEVELS[-1][1], _WIDTH, 1)
        self.position = nn.Parameter(torch.randn(1, _WIDTH, _POSITIONS, _POSITIONS) * _EMBEDDING_DEVIATION)
        self.encoder = nn.ModuleList(EncoderBlock(_WIDTH, _HEADS, _HIDDEN, _DROPOUT) for _ in range(_ENCODER_BLOCKS))
        self.encoded_norm = nn.LayerNorm(_WIDTH)
        self.identity = LandmarkEmbedding(schema, _WIDTH)
        self.decoder = nn.ModuleList(DecoderBlock(_WIDTH, _HEADS, _HIDDEN, _DROPOUT) for _ in range(_DECODER_BLOCKS))
        self.query_norm = nn.LayerNorm(_WIDTH)
        self.up = nn.ModuleList(_up_steps())
        self.pixel = nn.Conv2d(_DECODER_WIDTHS[-1], _WIDTH, 1)
        self.filter = _perceptron(_WIDTH + 1)
        self.sigma = _perceptron(2)

    def forward(self, x: Tensor) -> Heatmaps:
        """Give heatmaps and sigma of ``(N, 3, H, W)``; sides are multiples of 32."""
        maps = self.backbone(x)
        coarse = self.coarsest(maps.pop())
        position = self._position_for(coarse)
        tokens = (coarse + position).flatten(2).transpose(1, 2)  # (N, T, width)
        for block in self.encoder:
            tokens = block(tokens)
        tokens = self.encoded_norm(tokens)
        pixels = self._decode_map(torch.unflatten(tokens.transpose(1, 2), 2, coarse.shape[2:]), maps)
        queries = self._ask(tokens, position.flatten(2).transpose(1, 2)[0])
        return Heatmaps(self._heat(queries, pixels), _within_range(self.sigma(queries)))

    def _position_for(self, coarse: Tensor) -> Tensor:
        if coarse.shape[2:] == self.position.shape[2:]:
            return self.position
        return functional.interpolate(self.position, size=coarse.shape[2:], mode="bilinear", align_corners=False)

    def _ask(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Give what each query has become, ``(N, K, width)``."""
        identity = self.identity()
        queries = identity.expand(tokens.shape[0], -1, -1)
        for block in self.decoder:
            queries = block(queries, identity, tokens, position)
        answers: Tensor = self.query_norm(queries)
        return answers

    def _decode_map(self, value: Tensor, skips: list[Tensor]) -> Tensor:
        """Give ``(N, width, H / 4, W / 4)``."""
        for step, skip in zip(self.up, reversed(skips), strict=True):
            larger = functional.interpolate(value, scale_factor=2.0, mode="bilinear", align_corners=False)
            value = step(torch.cat((skip, larger), dim=1))
        pixels: Tensor = self.pixel(value)
        return pixels

    def _heat(self, queries: Tensor, pixels: Tensor) -> Tensor:
        filters = self.filter(queries)  # (N, K, width + 1), the last being the bias
        products = (filters[..., :-1] / math.sqrt(_WIDTH)) @ pixels.flatten(2)  # (N, K, h * w)
        return torch.unflatten(products + filters[..., -1:], 2, pixels.shape[2:])


def _up_steps() -> list[nn.Sequential]:
    steps = []
    inputs = _WIDTH
    skipped = [channels for _, channels in reversed(_LEVELS[:-1])]
    for skip, outputs, dropout in zip(skipped, _DECODER_WIDTHS, _DECODER_DROPOUT, strict=True):
        steps.append(nn.Sequential(DoubleConvolution(inputs + skip, outputs), nn.Dropout2d(dropout)))
        inputs = outputs
    return steps


def _perceptron(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, outputs)
    )


def _within_range(raw: Tensor) -> Tensor:
    """Give sigma in `SIGMA_RANGE`, 5 pixels for 0. Cutting off would leave a query beyond an end without gradient."""
    lowest, highest = SIGMA_RANGE
    return lowest * torch.exp(torch.sigmoid(raw) * math.log(highest / lowest))
