"""What is wrong with the landmarks of an image, and which of it can be put right without a guess.

Put right are vertebrae that are only listed in a wrong order, where the same points from top to bottom are a sound
spine. No point is ever moved, and none is given to another vertebra by halves.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Final

import cv2
import numpy as np

from training.datasets.landmark_rows import Angles, Points
from training.datasets.vertebra_corners import (
    canonical_landmarks,
    centres_of,
    corners_of,
    has_same_place,
    is_convex,
    largest_tilt_between,
)

_TWICE: Final = 0.5
_OVERLAP: Final = 0.2
"""How much of the smaller of two neighbours lies in the other, from which on they are one vertebra drawn twice, or are
said to overlap. Neighbours of a sound spine touch at most."""

_LEAST_HEIGHT: Final = 0.2
"""Of a vertebra, in heights of its neighbours: below this it has no body."""

_LARGEST_DIFFERENCE: Final = 1.0  # degrees
_NEIGHBOURS: Final = 2  # vertebrae to either side
_MARGIN_PX: Final = 2.0
"""How far beyond the image a landmark may lie: rounding and a resized image account for that much."""


class LandmarkFault(StrEnum):
    """What can be wrong. The first two make the landmarks of every vertebra doubtful."""

    OUT_OF_ORDER = "vertebrae_out_of_order"
    DRAWN_TWICE = "vertebra_drawn_twice"
    OVERLAP = "vertebrae_overlap"
    FLAT = "vertebra_without_height"
    CROSSED = "crossed_corners"
    SAME_PLACE = "landmarks_in_the_same_place"
    OUTSIDE = "landmark_outside_the_image"
    ANGLES_DIFFER = "angles_differ"


UNUSABLE: Final = frozenset({LandmarkFault.OUT_OF_ORDER, LandmarkFault.DRAWN_TWICE})
"""Faults after which a landmark may be named after the wrong vertebra. Such images are not trained on."""


class LandmarkRepair(StrEnum):
    """What was put right."""

    VERTEBRAE_SORTED = "vertebrae_sorted"
    CORNERS_SORTED = "corners_sorted"


def repaired(points: Points) -> tuple[Points, tuple[LandmarkRepair, ...]]:
    """Put landmarks in the order of their schema.

    Args:
        points: ``(K, 2)`` pixels as the file has them; NaN where there is none.

    Returns:
        ``(K, 2)``, and what was put right. Where the vertebrae are in an order that nothing explains all stay in it.
    """
    repairs: list[LandmarkRepair] = []
    ordered = canonical_landmarks(points)
    if not _runs_downwards(corners_of(ordered)):
        by_height = _sorted_downwards(points)
        ordered = canonical_landmarks(by_height)
        if not _is_column(ordered):
            return points, ()
        points = by_height
        repairs.append(LandmarkRepair.VERTEBRAE_SORTED)
    if not np.array_equal(points, ordered, equal_nan=True):
        repairs.append(LandmarkRepair.CORNERS_SORTED)
    return ordered, tuple(repairs)


def find_faults(points: Points, size: tuple[int, int], angles: Angles | None = None) -> tuple[LandmarkFault, ...]:
    """Find what is wrong with landmarks.

    Args:
        points: ``(K, 2)`` pixels, as `repaired` gives them.
        size: rows and columns of the image.
        angles: that came with them.
    """
    corners = corners_of(points)
    overlap = _largest_overlap(corners)
    faults = {
        LandmarkFault.OUT_OF_ORDER: not _runs_downwards(corners),
        LandmarkFault.DRAWN_TWICE: overlap >= _TWICE,
        LandmarkFault.OVERLAP: _OVERLAP <= overlap < _TWICE,
        LandmarkFault.FLAT: _has_flat(corners),
        LandmarkFault.CROSSED: not all(is_convex(each) for each in _whole(corners)),
        LandmarkFault.SAME_PLACE: any(has_same_place(each) for each in _whole(corners)),
        LandmarkFault.OUTSIDE: _reaches_outside(points, size),
        LandmarkFault.ANGLES_DIFFER: angles is not None
        and abs(largest_tilt_between(points) - angles[0]) > _LARGEST_DIFFERENCE,
    }
    return tuple(fault for fault, there in faults.items() if there)


def _is_column(points: Points) -> bool:
    corners = corners_of(points)
    return _runs_downwards(corners) and _largest_overlap(corners) < _OVERLAP


def _sorted_downwards(points: Points) -> Points:
    """Sort the vertebrae by height; as they are where one lacks a corner, for S1 cannot change places."""
    corners = corners_of(points)
    if not np.isfinite(corners).all():
        return points
    return corners[np.argsort(centres_of(corners)[:, 1], kind="stable")].reshape(-1, 2)


def _whole(corners: Points) -> Points:
    """Give the vertebrae that have all their corners, ``(v, 4, 2)``."""
    return corners[np.isfinite(corners).all(axis=(1, 2))]


def _heights(corners: Points) -> Points:
    """Give the distance between the middles of both endplates, ``(V)``; NaN where one is not there."""
    between = corners[:, 2:].mean(axis=1) - corners[:, :2].mean(axis=1)
    heights: Points = np.hypot(between[:, 0], between[:, 1])
    return heights


def _runs_downwards(corners: Points) -> bool:
    centres = centres_of(corners)
    there = centres[np.isfinite(centres).all(axis=1)]
    return bool((np.diff(there[:, 1]) > 0).all())


def _largest_overlap(corners: Points) -> float:
    """Give the largest share of a vertebra, the smaller of two neighbours, that lies in the other one."""
    hulls = [cv2.convexHull(each.astype(np.float32)) for each in _whole(corners)]
    largest = 0.0
    for one, other in pairwise(hulls):
        shared, _ = cv2.intersectConvexConvex(one, other)
        smaller = min(cv2.contourArea(one), cv2.contourArea(other))
        if smaller > 0:
            largest = max(largest, shared / smaller)
    return largest


def _has_flat(corners: Points) -> bool:
    heights = _heights(_whole(corners))
    for place, height in enumerate(heights):
        around = heights[max(place - _NEIGHBOURS, 0) : place + _NEIGHBOURS + 1]
        if height < _LEAST_HEIGHT * float(np.median(around)):
            return True
    return False


def _reaches_outside(points: Points, size: tuple[int, int]) -> bool:
    there = points[np.isfinite(points).all(axis=1)]
    rows, columns = size
    beyond = (there < -_MARGIN_PX) | (there > np.array([columns, rows]) + _MARGIN_PX)
    return bool(beyond.any())
