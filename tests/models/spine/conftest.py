"""Spines made of rectangles whose tilts and places are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.spine.schemas import SCHEMAS, LandmarkSchema

MakeSpine = Callable[..., NDArray[np.float64]]
"""Schema and tilts to landmarks, see `_make_spine`."""


def _make_spine(
    schema: LandmarkSchema,
    tilts: Sequence[float] | float = 0.0,
    *,
    size: tuple[float, float] = (60.0, 30.0),
    gap: float = 10.0,
    start: tuple[float, float] = (300.0, 50.0),
) -> NDArray[np.float64]:
    """Stack rectangles.

    Args:
        schema: of the landmarks.
        tilts: of the vertebrae in degrees, positive where the right side is the lower one; the column bends with them.
        size: width and height of each.
        gap: between neighbours.
        start: centre of the first.
    """
    angles = np.radians(np.broadcast_to(np.asarray(tilts, np.float64), len(schema.vertebrae)))
    centre = np.array(start)
    landmarks = np.full((len(schema), 2), np.nan)
    for place, vertebra in enumerate(schema.vertebrae):
        across = np.array([np.cos(angles[place]), np.sin(angles[place])])
        down = np.array([-across[1], across[0]])
        if place:
            before = angles[place - 1]
            centre = centre + (size[1] + gap) / 2 * (down + np.array([-np.sin(before), np.cos(before)]))
        offsets = [(-1, -1), (1, -1), (-1, 1), (1, 1)]
        corners = np.array([centre + x * size[0] / 2 * across + y * size[1] / 2 * down for x, y in offsets])
        places = list(schema.landmarks_of(vertebra))
        landmarks[places] = corners[: len(places)]
    return landmarks


@pytest.fixture(scope="session")
def make_spine() -> MakeSpine:
    return _make_spine


@pytest.fixture(scope="session")
def aasce() -> LandmarkSchema:
    return SCHEMAS["aasce68"]


@pytest.fixture(scope="session")
def lateral() -> LandmarkSchema:
    return SCHEMAS["buu_la22"]


@pytest.fixture(scope="session")
def frontal() -> LandmarkSchema:
    return SCHEMAS["buu_ap20"]
