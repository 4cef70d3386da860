"""Whether landmarks can be those of a spine at all: what no patient has, however ill, but a network may answer.

Scoliosis, slips and compressed vertebrae are no reason to doubt. Vertebrae that are not there are not asked.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.spine.corners import Points, corners_of
from models.spine.schemas import LandmarkSchema

_LARGEST_OVERLAP: Final = 0.2
"""Share of the smaller of two neighbours that may lie in the other."""
_LEAST_HEIGHT: Final = 0.25
_LARGEST_HEIGHT: Final = 3.0
"""Of a vertebra, in heights of the vertebrae around it. One that is compressed to a quarter is rare."""
_LARGEST_STEP: Final = 2.0
"""From one vertebra to the next, in steps around it: from here on a level was left out."""
_AROUND: Final = 2
"""Vertebrae to either side that say what is usual; heights double from T1 to L5."""
_NO_LENGTH: Final = 1e-6
"""Pixels up to which a length is none."""
_RING: Final = [0, 1, 3, 2]
"""Places of the corners around a vertebra, clockwise as one sees it."""


class Implausible(StrEnum):
    """Why landmarks are not believed."""

    OUT_OF_ORDER = "vertebrae_out_of_order"
    """One lies higher than the one before it."""
    OVERLAP = "vertebrae_overlap"
    CROSSED = "crossed_corners"
    """The outline of one crosses itself, is bent inwards, or runs the wrong way round."""
    UNEVEN_HEIGHTS = "uneven_heights"
    """One is far lower or higher than those around it."""
    LEVEL_LEFT_OUT = "level_left_out"
    """There is room for another one between two."""


def implausible(schema: LandmarkSchema, landmarks: Points) -> tuple[Implausible, ...]:
    """Give every reason not to believe landmarks; none when they can be a spine's.

    Args:
        schema: of the landmarks.
        landmarks: ``(K, 2)``, x and y in pixels; NaN where there is none.
    """
    corners = corners_of(schema, landmarks)
    bodies = corners[np.asarray(np.isfinite(corners).all(axis=(1, 2)))]
    convex = np.array([_is_convex(each) for each in bodies], np.bool_)
    found = {
        Implausible.OUT_OF_ORDER: not _runs_downwards(corners),
        Implausible.OVERLAP: any(
            _overlap(one, other) > _LARGEST_OVERLAP for one, other in pairwise(bodies[convex][:, _RING])
        ),
        Implausible.CROSSED: bool((~convex).any()),
        Implausible.UNEVEN_HEIGHTS: _has_uneven(corners),
        Implausible.LEVEL_LEFT_OUT: _has_gap(corners),
    }
    return tuple(reason for reason, there in found.items() if there)


def _centres(corners: Points) -> Points:
    """Give the centres of the vertebrae ``(V, 2)``: of S1 that of its end plate, NaN where nothing is there."""
    centres = corners.mean(axis=1)
    return np.asarray(np.where(np.isfinite(centres), centres, corners[:, :2].mean(axis=1)), np.float64)


def _runs_downwards(corners: Points) -> bool:
    heights = _centres(corners)[:, 1]
    return bool((np.diff(heights[np.isfinite(heights)]) > 0).all())


def _is_convex(corners: Points) -> bool:
    """Say whether an outline ``(4, 2)`` turns clockwise at each corner."""
    sides = np.diff(corners[[*_RING, _RING[0]]], axis=0)
    after = np.roll(sides, -1, axis=0)
    return bool((sides[:, 0] * after[:, 1] >= sides[:, 1] * after[:, 0]).all()) and _area(corners[_RING]) > 0


def _area(ring: Points) -> float:
    """Give the area within a ring ``(n, 2)``, positive when it runs clockwise as one sees it."""
    if len(ring) < 3:
        return 0.0
    x, y = (ring - ring[0]).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _overlap(one: Points, other: Points) -> float:
    """Give the share of the smaller of two convex clockwise rings that lies in the other one."""
    shared = one
    for start, end in pairwise([*other, other[0]]):
        shared = _clipped(shared, start, end)
    return _area(shared) / min(_area(one), _area(other))


def _clipped(ring: Points, start: Points, end: Points) -> Points:
    """Cut off what lies on the left of the line from start to end (Sutherland and Hodgman 1974)."""
    if not len(ring):
        return ring
    side = end - start
    depths = side[0] * (ring[:, 1] - start[1]) - side[1] * (ring[:, 0] - start[0])
    kept: list[Points] = []
    for place, depth in enumerate(depths):
        before = depths[place - 1]
        if (depth >= 0) != (before >= 0):
            share = before / (before - depth)
            kept.append(ring[place - 1] + share * (ring[place] - ring[place - 1]))
        if depth >= 0:
            kept.append(ring[place])
    return np.array(kept).reshape(-1, 2)


def _has_uneven(corners: Points) -> bool:
    between = corners[:, 2:].mean(axis=1) - corners[:, :2].mean(axis=1)
    ratios = _to_those_around(np.hypot(between[:, 0], between[:, 1]))
    return bool(((ratios < _LEAST_HEIGHT) | (ratios > _LARGEST_HEIGHT)).any())


def _has_gap(corners: Points) -> bool:
    # Square to the upper end plates: along them a vertebra may have slipped however far.
    steps = np.diff(_centres(corners), axis=0)
    along = corners[:-1, 1] - corners[:-1, 0] + corners[1:, 1] - corners[1:, 0]
    down = steps[:, 1] * along[:, 0] - steps[:, 0] * along[:, 1]
    lengths = np.abs(down) / np.maximum(np.hypot(along[:, 0], along[:, 1]), _NO_LENGTH)
    return bool((_to_those_around(lengths) > _LARGEST_STEP).any())


def _to_those_around(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give each length in medians of those around it; only of those that are there and have two others around."""
    ratios = []
    for place in np.flatnonzero(np.isfinite(lengths)):
        around = np.delete(lengths, place)[max(place - _AROUND, 0) : place + _AROUND]
        around = around[np.isfinite(around)]
        if len(around) >= 2:
            ratios.append(lengths[place] / max(float(np.median(around)), _NO_LENGTH))
    return np.array(ratios, np.float64)
