"""Cobb angles of a whole frontal spine, as the AASCE challenge (MICCAI 2019) defines them, with their end vertebrae.

A vertebra's tilt is that of the line through the middles of its left and right sides. The main angle is the largest
between any two vertebrae. The two others depend on the form of the column: where it lies on one side of the chord from
T1 to L5 (a C), they are those between T1 and the upper end vertebra, and between the lower one and L5. Where it crosses
the chord (an S), they are the largest from the ends of the main curve outwards; but of a main curve in the lower half
of the image, both lie above it, the one upon the other.

The definition is that of the landmarks' publishers (Wu et al., Automatic landmark estimation for adolescent idiopathic
scoliosis assessment using BoostNet, MICCAI 2017), who computed with it the angles that others are compared with. Which
half a main curve lies in is asked of the lower end plates of its end vertebrae, as they did: known translations to
Python ask the upper ones, by an index that no longer counts from 1, and miss eleven of the 481 published rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.spine.corners import Points, corners_of
from models.spine.schemas import LandmarkSchema, SpineView

_WHOLE_SPINE: Final = ("T1", "L5")
_FULL_TURN: Final = 360.0
_ON_CHORD: Final = 1e-9
"""Share of the chord's length that a point may lie beside it and still be on it: rounding."""


class Curve(StrEnum):
    """One of the three curves."""

    MAIN = "main"
    UPPER = "upper"
    """The higher one of the two others."""
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class CobbAngle:
    """The angle of one curve.

    Attributes:
        curve: that it belongs to.
        degrees: in [0, 180].
        upper_vertebra, lower_vertebra: that end the curve; the same one where the curve has no length.
    """

    curve: Curve
    degrees: float
    upper_vertebra: str
    lower_vertebra: str


class Curves(NamedTuple):
    """The curves of N columns, C on each: the main one, then the two others in the order of the challenge's tables.

    Attributes:
        degrees: ``(N, C)`` in [0, 180].
        upper, lower: ``(N, C)``, places of the vertebrae that end a curve; twice the same one where it has no length.
        lower_first: ``(N,)``, whether the lower one of the two others stands before the upper one.
    """

    degrees: NDArray[np.float64]
    upper: NDArray[np.intp]
    lower: NDArray[np.intp]
    lower_first: NDArray[np.bool_]


def cobb_angles(schema: LandmarkSchema, landmarks: Points, image_height: float) -> tuple[CobbAngle, ...]:
    """Measure the angles.

    Args:
        schema: of the landmarks.
        landmarks: ``(K, 2)``, x and y in pixels that are square; NaN where there is none.
        image_height: of the image, in the pixels of y.

    Returns:
        The main angle, then the two others in the order of the challenge's tables: the upper one first, except of an S
        whose main curve lies in the lower half of the image. The main angle alone where the schema has only a part of
        the spine. None of a lateral view, and none where a vertebra is missing or has no width: a curve might end with
        that one.
    """
    corners = measurable_corners(schema, landmarks)
    if corners is None:
        return ()
    return named_curves(schema, curves_of(corners[np.newaxis], image_height, is_whole=is_whole_spine(schema)), 0)


def measurable_corners(schema: LandmarkSchema, landmarks: Points) -> Points | None:
    """Give ``(V, 4, 2)`` of landmarks ``(K, 2)`` that angles can be measured on, see `cobb_angles`; else None."""
    if schema.view is not SpineView.FRONTAL or not schema.has_levels:
        return None
    corners = corners_of(schema, landmarks)
    across = _across(corners)
    return corners if np.isfinite(across).all() and across.any(axis=1).all() else None


def is_whole_spine(schema: LandmarkSchema) -> bool:
    """Say whether a schema has the vertebrae that all three curves are measured on."""
    return (schema.vertebrae[0], schema.vertebrae[-1]) == _WHOLE_SPINE


def named_curves(schema: LandmarkSchema, curves: Curves, row: int) -> tuple[CobbAngle, ...]:
    """Give the curves of one column, with the names of what ends them."""
    others = (Curve.LOWER, Curve.UPPER) if curves.lower_first[row] else (Curve.UPPER, Curve.LOWER)
    return tuple(
        CobbAngle(curve, float(degrees), schema.vertebrae[upper], schema.vertebrae[lower])
        for curve, degrees, upper, lower in zip(
            (Curve.MAIN, *others), curves.degrees[row], curves.upper[row], curves.lower[row], strict=False
        )
    )


def curves_of(corners: Points, image_height: float, *, is_whole: bool) -> Curves:
    """Measure columns.

    Args:
        corners: ``(N, V, 4, 2)``, as `measurable_corners` gives them.
        image_height: of the image, in the pixels of y.
        is_whole: they are whole spines; of others there is the main curve alone.
    """
    angles = _angles_between(corners)
    # Row by row, the first largest angle is that of the higher vertebra with the lower one.
    upper, lower = np.divmod(angles.reshape(len(angles), -1).argmax(axis=1), angles.shape[1])
    ends = [(upper, lower)]
    lower_first = np.zeros(len(angles), np.bool_)
    if is_whole:
        others, lower_first = _other_curves(corners, angles, upper, lower, image_height)
        ends += others
    row = np.arange(len(angles))
    return Curves(
        np.stack([angles[row, first, last] for first, last in ends], axis=1),
        np.stack([first for first, _ in ends], axis=1),
        np.stack([last for _, last in ends], axis=1),
        lower_first,
    )


def _across(corners: Points) -> Points:
    """Give the vectors from the middles of left sides to those of right ones, ``(..., 2)``."""
    across: Points = corners[..., [1, 3], :].mean(axis=-2) - corners[..., [0, 2], :].mean(axis=-2)
    return across


def _angles_between(corners: Points) -> NDArray[np.float64]:
    """Give the angles between any two vertebrae of ``(N, V, 4, 2)``, ``(N, V, V)`` in degrees."""
    x, y = np.moveaxis(_across(corners), -1, 0)
    tilt = np.degrees(np.arctan2(y, x))  # (N, V)
    apart = np.abs(tilt[:, :, np.newaxis] - tilt[:, np.newaxis])
    return np.asarray(np.minimum(apart, _FULL_TURN - apart), np.float64)


_Ends = tuple[NDArray[np.intp], NDArray[np.intp]]


def _other_curves(
    corners: Points,
    angles: NDArray[np.float64],
    upper: NDArray[np.intp],
    lower: NDArray[np.intp],
    image_height: float,
) -> tuple[list[_Ends], NDArray[np.bool_]]:
    """Give the two curves beside the main one by the places of their end vertebrae, and which column has them how."""
    row, vertebra, last = np.arange(len(angles)), np.arange(angles.shape[1]), angles.shape[1] - 1

    def farthest(end: NDArray[np.intp], where: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Give the vertebra there that is most tilted against one that ends a curve."""
        return np.asarray(np.where(where, angles[row, end], -1).argmax(axis=1))

    above = farthest(upper, vertebra <= upper[:, np.newaxis])
    below = farthest(lower, vertebra >= lower[:, np.newaxis])
    above_that = farthest(above, vertebra <= above[:, np.newaxis])
    middles = corners.reshape(len(corners), -1, 2, 2).mean(axis=2)  # of the end plates, first to last, (N, 2V, 2)
    is_s = _is_s(middles)
    is_low = middles[row, 2 * upper + 1, 1] + middles[row, 2 * lower + 1, 1] >= image_height
    second = (np.where(is_s, above, 0), upper)
    third = (
        np.where(is_s & is_low, above_that, lower),
        np.where(is_s, np.where(is_low, above, below), last),
    )
    return [second, third], is_s & is_low


def _is_s(middles: Points) -> NDArray[np.bool_]:
    """Say of which columns ``(N, 2V, 2)`` points lie on both sides of the chord; the last vertebra is not asked."""
    chord = middles[:, -1] - middles[:, 0]
    offsets = middles[:, :-2] - middles[:, :1]
    beside = offsets[..., 0] * chord[:, 1:] - offsets[..., 1] * chord[:, :1]
    least = _ON_CHORD * (chord**2).sum(axis=1, keepdims=True)
    return np.asarray((beside > least).any(axis=1) & (beside < -least).any(axis=1))
