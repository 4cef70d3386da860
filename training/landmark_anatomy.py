"""What every spine obeys: vertebrae follow each other downwards, with end plates nearly parallel, and none is a needle.

The limits are wide enough for real spines: of the 8,177 vertebrae that AASCE's training set annotates about one in a
hundred is beyond either of them, mostly where the annotation itself is at fault.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from models.spine.schemas import CORNERS, LandmarkSchema

PARALLEL_DEGREES: Final = 15.0
"""Angle between the end plates of one vertebra up to which nothing is wrong."""
ASPECT_RANGE: Final = (0.7, 4.0)
"""Width over height of a vertebra within which nothing is wrong."""

_LEAST_SQUARE: Final = 1e-6
"""Square pixels; a vector of nearly no length has no direction, and the gradient of one no bound."""
_LEAST_LENGTH_SQUARE: Final = 1.0


class AnatomicalLoss(nn.Module):
    """The sum of three penalties, each 0 for a plausible spine; none has a unit.

    - *order*: how far the centre of a vertebra lies above that of the one before it, in parts of the height that each
      vertebra has if they share the image equally;
    - *parallelism*: what the angle between the end plates of a vertebra exceeds `PARALLEL_DEGREES` by, in radians;
    - *aspect*: the logarithm of what width over height is beyond `ASPECT_RANGE` by.

    Args:
        schema: of the landmarks.
    """

    def __init__(self, schema: LandmarkSchema) -> None:
        super().__init__()
        places = [schema.landmarks_of(vertebra) for vertebra in schema.vertebrae]
        self.whole = [four for four in places if len(four) == len(CORNERS)]

    def forward(self, points: Tensor, there: Tensor, height: int) -> Tensor:
        """Give the loss, a scalar, averaged over the vertebrae (pairs of neighbours) of which all corners are there.

        Args:
            points: ``(N, K, 2)`` input pixels, finite.
            there: ``(N, K)`` bool.
            height: of the input, pixels.
        """
        corners = points[:, self.whole]  # (N, V, 4, 2)
        seen = there[:, self.whole].all(dim=2)  # (N, V)
        both = seen[:, 1:] & seen[:, :-1]
        order = _mean(disorder(corners) * len(self.whole) / height, both)
        return order + _mean(plates_apart(corners), seen) + _mean(disproportion(corners), seen)


def disorder(corners: Tensor) -> Tensor:
    """Give how far each vertebra lies above the one before it, ``(N, V - 1)``, pixels, at least 0."""
    centres = corners[..., 1].mean(dim=2)
    return (centres[:, :-1] - centres[:, 1:]).clamp_min(0.0)


def plates_apart(corners: Tensor) -> Tensor:
    """Give what the angle between end plates exceeds the limit by, ``(N, V)``, radians, at least 0."""
    top, bottom = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 3] - corners[:, :, 2]
    cross = top[..., 0] * bottom[..., 1] - top[..., 1] * bottom[..., 0]
    dot = (top * bottom).sum(dim=2)
    directed = (cross.square() + dot.square()) > _LEAST_SQUARE
    angle = torch.atan2(torch.where(directed, cross, 0.0).abs(), torch.where(directed, dot, 1.0))
    return (angle - math.radians(PARALLEL_DEGREES)).clamp_min(0.0)


def disproportion(corners: Tensor) -> Tensor:
    """Give the logarithm of what width over height is beyond its range by, ``(N, V)``, at least 0."""
    top_left, top_right, bottom_left, bottom_right = corners.unbind(dim=2)
    width = _squared_length(top_right - top_left) + _squared_length(bottom_right - bottom_left)
    tall = _squared_length(bottom_left - top_left) + _squared_length(bottom_right - top_right)
    aspect = (width.log() - tall.log()) / 2
    narrowest, widest = ASPECT_RANGE
    return (math.log(narrowest) - aspect).clamp_min(0.0) + (aspect - math.log(widest)).clamp_min(0.0)


def _squared_length(vector: Tensor) -> Tensor:
    return vector.square().sum(dim=2) + _LEAST_LENGTH_SQUARE


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp_min(1)
