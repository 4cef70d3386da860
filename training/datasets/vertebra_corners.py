"""The corners of vertebrae in their fixed order, whatever the order of the file was.

The order is top-left, top-right, bottom-left, bottom-right of the image, but for a tilted vertebra: "top" is where the
column comes from, "left" the side that is on the left when the vertebra is turned upright. A column that leans by 60
degrees has vertebrae whose top-right corner is lower than their bottom-left one, so x and y alone do not tell.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from models.spine.schemas import CORNERS
from training.datasets.landmark_rows import Points

_WINDOW: Final = 3
"""Vertebrae to either side that say where the column goes. Fewer would believe one misplaced neighbour."""

_SURE: Final = float(np.cos(np.radians(45)))
"""Cosine of the angle between a vertebra's axis and the column within which an order is right beyond doubt."""

_SAME_PLACE: Final = 0.05
"""Between two corners of a vertebra, in its longest distance between any two: below this one was set for the other."""

_STRAIGHT_DOWN: Final = np.array([0.0, 1.0])
_IN_ORDER: Final = (0, 1, 2, 3)


def canonical_corners(points: Points, down: Points = _STRAIGHT_DOWN) -> Points:
    """Put the four corners of a vertebra in order.

    Args:
        points: ``(4, 2)`` x, y in any order.
        down: ``(2)``, where the column goes at this vertebra. Right as long as it is less than 45 degrees off the
            vertebra's own axis; straight down therefore serves vertebrae that are tilted by less than that.

    Returns:
        ``(4, 2)``: top-left, top-right, bottom-left, bottom-right.
    """
    return points[list(_order(points, down))]


def canonical_landmarks(points: Points) -> Points:
    """Put the corners of every vertebra in order.

    Args:
        points: ``(K, 2)``; vertebrae from top to bottom, corners of a vertebra in any order, NaN where there is none.
            Of a vertebra that lacks some, or has two in the same place, the others are believed to be in the order of
            the complete ones.

    Returns:
        ``(K, 2)``.
    """
    corners = corners_of(points)
    directions = column_directions(centres_of(corners))
    complete = [bool(np.isfinite(each).all()) and not has_same_place(each) for each in corners]
    orders = [_order(corners[i], directions[i]) if complete[i] else _IN_ORDER for i in range(len(corners))]
    usual = Counter(order for order, whole in zip(orders, complete, strict=True) if whole).most_common(1)
    ordered = corners.copy()
    for i, order in enumerate(orders):
        if complete[i]:
            ordered[i] = corners[i, list(order)]
        elif np.isfinite(corners[i, :2]).all() and np.isnan(corners[i, 2:]).all():
            ordered[i, :2] = _left_first(corners[i, :2], directions[i])
        elif usual:
            ordered[i] = corners[i, list(usual[0][0])]
    return ordered.reshape(-1, 2)[: len(points)]


def corners_of(points: Points) -> Points:
    """Give landmarks vertebra by vertebra.

    Args:
        points: ``(K, 2)`` in the order of a schema.

    Returns:
        ``(V, 4, 2)``; NaN for the bottom corners of S1.
    """
    missing = -len(points) % len(CORNERS)  # S1, which alone has two corners, is the last
    corners = np.concatenate([points, np.full((missing, 2), np.nan)])
    return corners.reshape(-1, len(CORNERS), 2)


def centres_of(corners: Points) -> Points:
    """Average the corners that are there: ``(V, 4, 2)`` to ``(V, 2)``, NaN where none is."""
    there = np.isfinite(corners).all(axis=2, keepdims=True)
    count = there.sum(axis=1)
    total = np.where(there, corners, 0).sum(axis=1)
    centres: Points = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return centres


def column_directions(centres: Points) -> Points:
    """Say where the column goes at each vertebra: centres ``(V, 2)`` to unit vectors ``(V, 2)``.

    Straight down where there is but one vertebra.
    """
    directions = np.tile(_STRAIGHT_DOWN, (len(centres), 1))
    places = np.flatnonzero(np.isfinite(centres).all(axis=1))
    for rank, place in enumerate(places):
        last = places[min(rank + _WINDOW, len(places) - 1)]
        way = centres[last] - centres[places[max(rank - _WINDOW, 0)]]
        length = float(np.hypot(*way))
        if length > 0:
            directions[place] = way / length
    return directions


def largest_tilt_between(points: Points) -> float:
    """Give the largest angle between any two vertebrae, in degrees; 0 where there are not two.

    A vertebra's line is the mean of its endplates. On a whole frontal spine the angle is the main Cobb angle of AASCE.

    Args:
        points: ``(K, 2)`` in the order of a schema.
    """
    corners = corners_of(points)
    corners = corners[np.isfinite(corners).all(axis=(1, 2))]
    across = corners[:, 1] - corners[:, 0] + corners[:, 3] - corners[:, 2]
    tilts = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    return float(np.ptp(tilts)) if len(tilts) else 0.0


def is_convex(corners: Points) -> bool:
    """Say whether the outline of four corners ``(4, 2)``, in the fixed order, turns one way as that of a body does."""
    ring = corners[[0, 1, 3, 2]]
    sides = np.roll(ring, -1, axis=0) - ring
    after = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0]
    return bool((turns >= 0).all())  # clockwise, as one sees it


def has_same_place(corners: Points) -> bool:
    """Say whether two of four corners ``(4, 2)`` lie in the same place, so that the vertebra has but three."""
    between = np.hypot(*np.moveaxis(corners[:, None] - corners[None], -1, 0))
    return bool(between[np.triu_indices(len(corners), 1)].min() < _SAME_PLACE * between.max())


def _order(points: Points, down: Points) -> tuple[int, ...]:
    """Give the places of top-left, top-right, bottom-left and bottom-right among four corners."""
    if is_convex(points) and float(_axis(points[[0, 1, 3, 2]]) @ down) > _SURE:
        return _IN_ORDER  # of a sheared outline two orders may do, and then the file knows better
    offsets = points - points.mean(axis=0)
    # With y downwards, rising angles run clockwise as one sees it: top-left, top-right, bottom-right, bottom-left.
    ring = np.argsort(np.arctan2(offsets[:, 1], offsets[:, 0]), kind="stable")
    turned = [np.roll(ring, -first) for first in range(len(CORNERS))]
    best = max(turned, key=lambda ring: _likeness(points[ring], down))
    top_left, top_right, bottom_right, bottom_left = best.tolist()
    return top_left, top_right, bottom_left, bottom_right


def _likeness(ring: Points, down: Points) -> float:
    """Say how well corners ``(4, 2)``, round from the top-left one, fit a vertebra of a column that goes `down`.

    Its axis runs along the column, and its endplates are longer than its sides. Where the column bends within few
    vertebrae, the last of them may stand more than 45 degrees across the way that is measured: then only the second
    tells a vertebra from one that is turned by 90 degrees.
    """
    lengths = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T)  # top, right, bottom, left
    whole = float(lengths.sum())
    return float(_axis(ring) @ down) * float(lengths[[0, 2]].sum()) / whole if whole > 0 else 0.0


def _axis(ring: Points) -> Points:
    """Give the way from top to bottom, of length 1, of a vertebra whose corners ``(4, 2)`` run round from its top-left.

    It is square to the endplates, which are mostly longer than the sides and so better known.
    """
    across = ring[1] - ring[0] + ring[2] - ring[3]
    length = np.hypot(*across)
    axis: Points = np.array([-across[1], across[0]]) / length if length > 0 else np.zeros(2)
    return axis


def _left_first(endplate: Points, down: Points) -> Points:
    right = np.array([down[1], -down[0]])
    return endplate[np.argsort(endplate @ right, kind="stable")]
