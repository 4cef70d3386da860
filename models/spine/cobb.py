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
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.spine.corners import Points, corners_of
from models.spine.schemas import LandmarkSchema, SpineView

_WHOLE_SPINE: Final = ("T1", "L5")
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
    if schema.view is not SpineView.FRONTAL or not schema.has_levels:
        return ()
    corners = corners_of(schema, landmarks)
    angles = _angles_between(corners)
    if not np.isfinite(angles).all():
        return ()
    # Row by row, the first largest angle is that of the higher vertebra with the lower one.
    upper, lower = (int(place) for place in np.unravel_index(int(angles.argmax()), angles.shape))
    curves = [(Curve.MAIN, upper, lower)]
    if (schema.vertebrae[0], schema.vertebrae[-1]) == _WHOLE_SPINE:
        curves += _other_curves(corners, angles, (upper, lower), image_height)
    return tuple(
        CobbAngle(curve, float(angles[first, last]), schema.vertebrae[first], schema.vertebrae[last])
        for curve, first, last in curves
    )


def _angles_between(corners: Points) -> NDArray[np.float64]:
    """Give the angles between any two vertebrae, ``(V, V)`` in degrees; NaN of one that is missing or has no width."""
    across = corners[:, [1, 3]].mean(axis=1) - corners[:, [0, 2]].mean(axis=1)
    across[(across == 0).all(axis=1)] = np.nan
    x, y = across.T
    crossed, along = np.outer(x, y) - np.outer(y, x), np.outer(x, x) + np.outer(y, y)
    return np.asarray(np.degrees(np.arctan2(np.abs(crossed), along)), np.float64)


def _other_curves(
    corners: Points, angles: NDArray[np.float64], main: tuple[int, int], image_height: float
) -> list[tuple[Curve, int, int]]:
    """Give the curves beside the main one, with the places of their end vertebrae."""
    upper, lower = main
    last = len(angles) - 1
    middles = corners.reshape(-1, 2, 2).mean(axis=1)  # of the end plates, from the first to the last, (2V, 2)
    if not _is_s(middles):
        return [(Curve.UPPER, 0, upper), (Curve.LOWER, lower, last)]
    above = int(angles[upper, : upper + 1].argmax())
    if middles[2 * upper + 1, 1] + middles[2 * lower + 1, 1] < image_height:
        below = lower + int(angles[lower, lower:].argmax())
        return [(Curve.UPPER, above, upper), (Curve.LOWER, lower, below)]
    return [(Curve.LOWER, above, upper), (Curve.UPPER, int(angles[above, : above + 1].argmax()), above)]


def _is_s(middles: Points) -> bool:
    """Say whether points lie on both sides of the chord from the first to the last; those of L5 are not asked."""
    chord = middles[-1] - middles[0]
    offsets = middles[:-2] - middles[0]
    beside = offsets[:, 0] * chord[1] - offsets[:, 1] * chord[0]
    least = _ON_CHORD * float(chord @ chord)
    return bool((beside > least).any() and (beside < -least).any())
