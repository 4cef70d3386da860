"""What is exported of a landmark network: everything before and after it that training and serving must share."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.networks.heatmap_decoding import DECODERS, heat_spread, peak_heat, spatial_softmax, window_mass
from models.networks.heatmap_network import HeatmapNetwork
from models.networks.heatmap_table import HeatmapEntry
from models.networks.network import Normalise
from models.networks.refined_network import RefinedNetwork
from models.networks.vertebra_alignment import align_vertebrae, can_align
from models.networks.vertebra_chain import heat_of_column
from models.spine.schemas import CORNERS, LandmarkSchema

LANDMARK_OUTPUTS: Final = ("landmarks", "confidence", "spread")


class ServedLandmarks(nn.Module):
    """``image (N, 1, H, W) float32 in [0, 1]`` to ``landmarks``, ``confidence`` and ``spread``.

    ``landmarks (N, K, 2)`` are x and y in pixels of the input. ``confidence (N, K)`` in [0, 1] is the share of the
    network's belief that lies about the landmark where heatmaps are distributions, else the heat there; of a refined
    network it is how sure the counter is of the vertebra, see `models.networks.vertebra_counting.sureness`.
    ``spread (N, K)`` is the standard deviation of a landmark's place in pixels of the input: the one that the network
    predicts, else that of the heat about it.

    Args:
        entry: of the network.
        schema: of the landmarks.
        network: fitted; one that is refined looks again along the column, see `models.networks.refined_network`.
        is_logits: heatmaps are logits of a distribution over the cells.
        alignment: how far each vertebra is turned square to the column, see `models.networks.vertebra_alignment`.
        chained: read all vertebrae of a long frontal column together, see `models.networks.vertebra_chain`; only of
            heatmaps that are distributions.
        mirrored: ask about the mirror image too, and take the mean of both heatmaps, sides put back. Of frontal views
            alone. The input's width is a multiple of the stride, so that cells fall on cells.
    """

    def __init__(
        self,
        entry: HeatmapEntry,
        schema: LandmarkSchema,
        network: HeatmapNetwork,
        *,
        is_logits: bool,
        mirrored: bool,
        alignment: float = 0.0,
        chained: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(entry.mean, entry.std)
        self.network = network
        self.is_logits = is_logits
        self.mirrored = mirrored
        self.mirrored_order = list(schema.mirrored_order)
        self.decode = DECODERS[entry.decoding]
        self.alignment = alignment if can_align(schema) else 0.0
        self.chained = chained and is_logits and can_align(schema)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give ``landmarks``, ``confidence`` and ``spread``."""
        points, confidence, spread = self.found(image)
        if isinstance(self.network, RefinedNetwork):
            points, of_vertebrae = self.network.again(image, points, self.mirrored)
            confidence = of_vertebrae.repeat_interleave(len(CORNERS), dim=1)
        return points, confidence, spread

    def found(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give what `forward` does, as it is before anything looks again."""
        seen = torch.cat([image, image.flip(3)]) if self.mirrored else image
        heat, sigma = self.network(self.normalise(seen))
        if self.is_logits:
            heat = spatial_softmax(heat)
        heat = self._mean_of_views(heat, flips=True)
        stride = self.network.stride
        fitting = heat_of_column(heat) if self.chained else heat
        confidence = window_mass(heat, stride, fitting) if self.is_logits else peak_heat(heat)
        spread = heat_spread(fitting, stride)
        if sigma is not None:
            spread = self._mean_of_views(sigma.square().mean(dim=2)).sqrt()
        points = self.decode(fitting, stride)
        if self.alignment:
            points = align_vertebrae(points, self.alignment)
        return points, confidence.clamp(0.0, 1.0), spread

    def _mean_of_views(self, values: Tensor, *, flips: bool = False) -> Tensor:
        """Join film and mirror image, ``(2N, K, ...)``, where there are both; maps are flipped back."""
        if not self.mirrored:
            return values
        plain, mirrored = torch.unflatten(values, 0, (2, -1))
        back = mirrored[:, self.mirrored_order]
        joined: Tensor = (plain + (back.flip(3) if flips else back)) / 2
        return joined
