"""Vertebrae turned square to the line that their own middles run along.

The four corners of a vertebra are found one by one, and a corner that is a little off turns the whole vertebra: its
end plates are short, and a Cobb angle is made of the two worst of 17. The middle of a vertebra, the mean of corners, is
known far better, and on a frontal view the column runs square to its end plates. So each vertebra is turned about
its middle towards that direction. Places hardly change; angles do. At the ends of the column the direction is that to
the one neighbour, which makes a curve that reaches there a little smaller.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from models.spine.schemas import CORNERS, LandmarkSchema, SpineView

_NEIGHBOUR: Final = 0.107
"""Weight of each neighbour in the middle of a vertebra: a Gaussian of half a vertebra."""
_FEWEST: Final = 5
_LEAST_LENGTH: Final = 1e-6


def can_align(schema: LandmarkSchema) -> bool:
    """Say whether the vertebrae of a schema can be turned so: a long column of whole vertebrae, seen from the front."""
    return schema.view is SpineView.FRONTAL and not schema.has_sacrum and len(schema.vertebrae) >= _FEWEST


def align_vertebrae(points: Tensor, share: float) -> Tensor:
    """Turn each vertebra about its middle.

    Args:
        points: ``(N, 4 V, 2)``, corners in the order of a schema, vertebrae from top to bottom.
        share: how far, from 0, not at all, to 1, square to the column.

    Returns:
        ``(N, 4 V, 2)``; the middles stay where they are.
    """
    corners = torch.unflatten(points, 1, (-1, len(CORNERS)))  # (N, V, 4, 2)
    middles = corners.mean(dim=2, keepdim=True)
    own = _unit(across(corners))
    down = _unit(_along(middles[:, :, 0]))
    square = torch.stack((down[..., 1], -down[..., 0]), dim=2)  # from left to right where the column runs downwards
    wanted = _unit((1 - share) * own + share * square)
    cosine = (own * wanted).sum(dim=2)[..., None]
    sine = (own[..., 0] * wanted[..., 1] - own[..., 1] * wanted[..., 0])[..., None]
    offset = corners - middles
    x, y = offset[..., 0], offset[..., 1]
    turned = torch.stack((cosine * x - sine * y, sine * x + cosine * y), dim=3)
    return (middles + turned).flatten(1, 2)


def across(corners: Tensor) -> Tensor:
    """Give the vector from the middle of the left side of each vertebra to that of the right one, ``(N, V, 2)``.

    Args:
        corners: ``(N, V, 4, 2)``, in the order of a schema.
    """
    return (corners[:, :, 1] - corners[:, :, 0] + corners[:, :, 3] - corners[:, :, 2]) / 2


def _along(middles: Tensor) -> Tensor:
    """Give where the column goes at each vertebra, ``(N, V, 2)``: central differences of slightly smoothed middles."""
    inner = (1 - 2 * _NEIGHBOUR) * middles[:, 1:-1] + _NEIGHBOUR * (middles[:, :-2] + middles[:, 2:])
    line = torch.cat((middles[:, :1], inner, middles[:, -1:]), dim=1)
    return torch.cat((line[:, 1:2] - line[:, :1], line[:, 2:] - line[:, :-2], line[:, -1:] - line[:, -2:-1]), dim=1)


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=2, keepdim=True).clamp_min(_LEAST_LENGTH)
    return unit
