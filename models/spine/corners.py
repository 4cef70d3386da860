"""Landmarks vertebra by vertebra, and the sides of an image they lie on.

Nothing here asks what a vertebra looks like: a corner that is not there is NaN, and so is what is computed of it.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from models.spine.schemas import CORNERS, LandmarkSchema

Points = NDArray[np.float64]


class ImageSide(StrEnum):
    """A side of the image, not of the patient."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def opposite(self) -> ImageSide:
        """The other one."""
        return ImageSide.RIGHT if self is ImageSide.LEFT else ImageSide.LEFT


def corners_of(schema: LandmarkSchema, landmarks: Points) -> Points:
    """Give landmarks vertebra by vertebra.

    Args:
        schema: of the landmarks.
        landmarks: ``(K, 2)``.

    Returns:
        ``(V, 4, 2)`` in the order of the corners; NaN for the bottom corners of S1, and for all corners of a vertebra
        that lacks one.
    """
    corners = np.full((len(schema.vertebrae), len(CORNERS), 2), np.nan)
    for place, vertebra in enumerate(schema.vertebrae):
        found = landmarks[list(schema.landmarks_of(vertebra))]
        if np.isfinite(found).all():
            corners[place, : len(found)] = found
    return corners
