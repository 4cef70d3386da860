"""Slips of one lumbar vertebra on the next: how far, which way, which grade, and the angle between their end plates.

On a lateral view, the posterior corner of the upper vertebra's lower end plate is projected on the upper end plate of
the vertebra below; its distance from that one's posterior corner, in lengths of the end plate, is the slip (Meyerding).
On a frontal view it is the distance between the middles of the two end plates: vertebrae widen downwards, so corners
would tell of a slip where there is none. There is no grade of that.

Nothing is measured where the levels have no names, nor on a lateral view whose front is not known: front and back would
change places, and with them antero- and retrolisthesis.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Final

import numpy as np

from models.spine.corners import ImageSide, Points, corners_of
from models.spine.schemas import LandmarkSchema, SpineView
from models.spine.spacing import Spacing

LEAST_SLIP: Final = 5.0
"""Percent of the end plate below which a slip is none: about 2 mm, as far as two readers lie apart."""

_LARGEST_OF_GRADE: Final = (25.0, 50.0, 75.0, 100.0)
_ROUNDING: Final = 1e-6
"""Percent by which a slip may exceed a border and still lie on it."""

_NO_LENGTH: Final = 1e-6
"""Pixels or mm up to which an end plate has no direction."""

_LEFT_OF_PATIENT: Final = ImageSide.RIGHT
"""On a frontal view, which is looked at as if the patient stood opposite."""


class SlipKind(StrEnum):
    """Which way the upper vertebra slipped, sides those of the patient, in the order of BUU's labels 0 to 4."""

    NORMAL = "normal"
    LEFT_LATEROLISTHESIS = "left_laterolisthesis"
    RIGHT_LATEROLISTHESIS = "right_laterolisthesis"
    ANTEROLISTHESIS = "anterolisthesis"
    RETROLISTHESIS = "retrolisthesis"


class Meyerding(IntEnum):
    """Grade of a slip by its share of the end plate, the borders belonging to the lower grade."""

    NONE = 0
    """Below what can be told from no slip."""
    I = 1  # noqa: E741  # the grades are Roman numerals
    II = 2
    III = 3
    IV = 4
    V = 5
    """Beyond the end plate: spondyloptosis."""


@dataclass(frozen=True, slots=True)
class Slip:
    """How an upper vertebra lies on the next lower one.

    Attributes:
        upper_vertebra, lower_vertebra: neighbours.
        kind: by the percentage, normal below `LEAST_SLIP`.
        percent: of the lower vertebra's upper end plate; positive towards the patient's front, or on a frontal view
            towards the patient's left.
        offset_px: the same in pixels along the end plate.
        offset_mm: the same; None where the spacing is not known.
        angle_degrees: between the end plates that face each other, in (-180, 180]; positive where they open towards the
            same side, so that of a lordosis is positive.
        grade: on a lateral view alone, of either direction; None on a frontal one.
    """

    upper_vertebra: str
    lower_vertebra: str
    kind: SlipKind
    percent: float
    offset_px: float
    offset_mm: float | None
    angle_degrees: float
    grade: Meyerding | None


def meyerding(percent: float) -> Meyerding:
    """Grade a slip of either direction."""
    slipped = abs(percent) - _ROUNDING
    if not is_slip(percent):
        return Meyerding.NONE
    return Meyerding(1 + sum(slipped > border for border in _LARGEST_OF_GRADE))


def is_slip(percent: float) -> bool:
    """Say whether a slip of either direction is more than none."""
    return abs(percent) + _ROUNDING >= LEAST_SLIP


def measure_slips(
    schema: LandmarkSchema, landmarks: Points, spacing: Spacing | None, anterior: ImageSide | None
) -> tuple[Slip, ...]:
    """Measure the slip of every vertebra on the next, from top to bottom.

    Args:
        schema: of the landmarks. Only those of lumbar films are measured: on a film of the whole spine a slip is hardly
            larger than the error of a landmark.
        landmarks: ``(K, 2)``, x and y in pixels; NaN where there is none.
        spacing: of the pixels, which are square where it is None.
        anterior: where the front of the patient is on a lateral view; None when unknown. A frontal one has none.

    Returns:
        Those of neighbours that both have all their corners and the lower one an end plate.
    """
    towards = _LEFT_OF_PATIENT if schema.view is SpineView.FRONTAL else anterior
    if not schema.has_levels or schema.vertebrae[0] != "L1" or towards is None:
        return ()
    corners = corners_of(schema, landmarks)
    pairs = zip(pairwise(schema.vertebrae), pairwise(corners), strict=True)
    slips = (_slip(schema.view, names, above[2:], below[:2], spacing, towards) for names, (above, below) in pairs)
    return tuple(slip for slip in slips if slip is not None)


def _slip(
    view: SpineView,
    names: tuple[str, str],
    above: Points,
    below: Points,
    spacing: Spacing | None,
    towards: ImageSide,
) -> Slip | None:
    """Measure how the end plate `above` lies on the one `below`, each ``(2, 2)`` from left to right in pixels."""
    if towards is ImageSide.LEFT:
        above, below = above[::-1], below[::-1]  # from back to front
    scale = np.array([1.0, 1.0]) if spacing is None else np.array([spacing.column_mm, spacing.row_mm])
    plate, facing = (below[1] - below[0]) * scale, (above[1] - above[0]) * scale
    length = float(np.hypot(*plate))
    moved = (above.mean(axis=0) - below.mean(axis=0) if view is SpineView.FRONTAL else above[0] - below[0]) * scale
    if not (np.isfinite(moved).all() and length > _NO_LENGTH and np.hypot(*facing) > _NO_LENGTH):
        return None
    share = float(moved @ plate) / length**2
    percent = 100 * share
    turn = float(np.degrees(np.arctan2(facing[0] * plate[1] - facing[1] * plate[0], facing @ plate)))
    return Slip(
        upper_vertebra=names[0],
        lower_vertebra=names[1],
        kind=_kind(view, percent),
        percent=percent,
        offset_px=share * float(np.hypot(*(below[1] - below[0]))),
        offset_mm=None if spacing is None else share * length,
        # y points downwards, so end plates that run to the right open to it when the lower one turns clockwise.
        angle_degrees=turn if towards is ImageSide.RIGHT else -turn,
        grade=None if view is SpineView.FRONTAL else meyerding(percent),
    )


def _kind(view: SpineView, percent: float) -> SlipKind:
    if not is_slip(percent):
        return SlipKind.NORMAL
    if view is SpineView.FRONTAL:
        return SlipKind.LEFT_LATEROLISTHESIS if percent > 0 else SlipKind.RIGHT_LATEROLISTHESIS
    return SlipKind.ANTEROLISTHESIS if percent > 0 else SlipKind.RETROLISTHESIS
