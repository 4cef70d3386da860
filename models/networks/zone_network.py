"""Six lung zones from one backbone: a head of five classes per zone, and a map per zone that explains it.

A zone is where the grid of three rows and two columns over the map (or over lung fields that were found) puts it. The
variants differ in how a zone's features are made:

- *global*: every head sees the average over the whole map; which part of the film it is about, it must learn;
- *spatial*: each head sees the average over its own zone of the map;
- *masked*: the image is shown six times, each time with the other zones attenuated, and head z answers for pass z.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.network import Backbone
from models.zones import GRADED, ZONE_COLUMNS, ZONE_ROWS, ZONES, Congestion

CLASSES: Final = len(Congestion)
WHOLLY: Final = 1.0
PARTLY: Final = 0.7
"""How far the masked variant takes away what lies outside a zone: wholly (zero), or to three tenths."""

_LEAST_AREA: Final = 1e-6
_MEDIAN: Final = 0.5


class ZoneFeatures(StrEnum):
    """How the features of a zone are made."""

    GLOBAL = "global"
    SPATIAL = "spatial"
    MASKED = "masked"


class ZoneNetwork(nn.Module):
    """A backbone, dropout and six linear heads: ``(N, 3, H, W)`` float32, normalised, to logits ``(N, 6, 5)``.

    Args:
        backbone: gives the map.
        features: how a zone's features are made.
        dropout: probability, of the features.
        attenuation: of the masked variant, in (0, 1]: 1 zeroes what lies outside the zone.
    """

    def __init__(
        self,
        backbone: Backbone,
        features: ZoneFeatures = ZoneFeatures.SPATIAL,
        dropout: float = 0.1,
        attenuation: float = WHOLLY,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = features
        self.attenuation = attenuation
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(backbone.channels, CLASSES) for _ in ZONES)

    def forward(self, x: Tensor, fields: Tensor | None = None) -> Tensor:
        """Give logits ``(N, 6, 5)``.

        Args:
            x: ``(N, 3, H, W)``.
            fields: ``(N, 6, H, W)`` in [0, 1], where each zone lies in each image; None is the grid.
        """
        return self.classify(self.maps(x, fields), fields)

    def maps(self, x: Tensor, fields: Tensor | None = None) -> Tensor:
        """Give the maps that the heads see: ``(N, 6, K, h, w)``, the same one six times unless masked."""
        if self.features is not ZoneFeatures.MASKED:
            feature_map: Tensor = self.backbone(x)
            return feature_map[:, None].expand(-1, len(ZONES), -1, -1, -1)
        places = _grid_like(x) if fields is None else fields
        kept = 1 - self.attenuation * (1 - places)  # (N or 1, 6, H, W)
        passes = (x[:, None] * kept[:, :, None]).flatten(0, 1)  # (N * 6, 3, H, W)
        feature_map = self.backbone(passes)
        return torch.unflatten(feature_map, 0, (-1, len(ZONES)))  # of any N, in an exported graph too

    def classify(self, maps: Tensor, fields: Tensor | None = None) -> Tensor:
        """Give logits ``(N, 6, 5)`` of `maps` ``(N, 6, K, h, w)``."""
        weights = self._pooling(maps, fields)
        pooled = self.dropout((maps * weights[:, :, None]).sum(dim=(3, 4)))  # (N, 6, K)
        return torch.stack([head(pooled[:, zone]) for zone, head in enumerate(self.heads)], dim=1)

    def explain(self, maps: Tensor, scores: Tensor, fields: Tensor | None = None) -> Tensor:
        """Give Grad-CAM of the logit of one score per zone, ``(N, 6, h, w)``, not normalised.

        The heads are linear in the average of the map, so that the map's channels are weighed by the weights of the
        head's row, as in `PooledNetwork`; what lies outside the zone is left out.

        Args:
            maps: ``(N, 6, K, h, w)``.
            scores: ``(N, 6)`` int64, of `median_score`, say.
            fields: as of `forward`.
        """
        rows = torch.stack([head.weight for head in self.linear_heads])  # (6, 5, K)
        chosen = rows[torch.arange(len(ZONES), device=rows.device), scores]  # (N, 6, K)
        heat = torch.relu((maps * chosen[..., None, None]).sum(dim=2))
        return heat * self._pooling_of_zones(maps, fields)

    @property
    def linear_heads(self) -> list[nn.Linear]:
        """The heads, zones in their fixed order."""
        return [head for head in self.heads if isinstance(head, nn.Linear)]

    def _pooling(self, maps: Tensor, fields: Tensor | None) -> Tensor:
        """Give what each place of the map counts for each zone, ``(N or 1, 6, h, w)``; sums to 1 over the places."""
        if self.features is ZoneFeatures.GLOBAL:
            height, width = maps.shape[3:]
            return maps.new_full((1, len(ZONES), height, width), 1 / (height * width))
        return self._pooling_of_zones(maps, fields)

    def _pooling_of_zones(self, maps: Tensor, fields: Tensor | None) -> Tensor:
        if fields is None:
            places = _grid_like(maps)
        else:
            places = functional.interpolate(fields, size=maps.shape[3:], mode="area")
        return places / places.sum(dim=(2, 3), keepdim=True).clamp_min(_LEAST_AREA)


def median_score(probability: Tensor) -> Tensor:
    """Give the score of each zone, ``(N, 6)`` int64: the median of its graded classes, see `models.zones.grade_zones`.

    Args:
        probability: ``(N, 6, 5)``.
    """
    graded = probability[:, :, : len(GRADED)]
    return (graded.cumsum(dim=2)[:, :, :-1] < _MEDIAN * graded.sum(dim=2, keepdim=True)).sum(dim=2)


def zone_grid(height: int, width: int) -> Tensor:
    """Give which part of each place belongs to each zone of the grid, ``(6, height, width)`` float32 in [0, 1].

    Where the sides do not divide by 3 and 2 the places on a border are shared by the area that lies on either side.
    """
    rows, columns = _shares(height, ZONE_ROWS), _shares(width, ZONE_COLUMNS)
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)


def _shares(places: int, zones: int) -> Tensor:
    """Give which part of each of `places` equal intervals lies in each of `zones` equal ones, ``(zones, places)``."""
    place = torch.arange(places, dtype=torch.float64)
    zone = torch.arange(zones, dtype=torch.float64)[:, None] * places / zones
    overlap = torch.minimum(place + 1, zone + places / zones) - torch.maximum(place, zone)
    return overlap.clamp(0, 1).float()


def _grid_like(values: Tensor) -> Tensor:
    """Give the grid over the last two axes, ``(1, 6, h, w)``."""
    return zone_grid(values.shape[-2], values.shape[-1]).to(values)[None]
