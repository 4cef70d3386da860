"""What is measured on the landmarks of a spine: Cobb angles, heights of vertebrae and discs, slips.

Percentages and angles are those of the patient as the film shows him: where rows and columns lie differently far apart
they are measured in mm. A view other than the landmarks' own has no measures at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

import numpy as np

from models.spine.cobb import CobbAngle
from models.spine.cobb_readings import read_cobb_angles
from models.spine.corners import ImageSide, Points, corners_of
from models.spine.plausibility import Implausible, implausible
from models.spine.schemas import LandmarkSchema, SpineView
from models.spine.slips import Slip, measure_slips
from models.spine.spacing import Spacing

__all__ = ["Height", "Implausible", "Part", "SpineMeasures", "implausible", "measure_spine"]


class Part(StrEnum):
    """What has a height."""

    BODY = "body"
    DISC = "disc"


@dataclass(frozen=True, slots=True)
class Height:
    """Height of a vertebral body or of a disc, on both sides of the image.

    That of a body is the distance between the corners of a side. That of a disc is the distance between the corners
    that face each other, across the plane midway between the end plates: a slip does not make a disc higher. It is
    negative where the vertebrae overlap.

    Attributes:
        part: of the spine.
        upper_vertebra, lower_vertebra: that the disc lies between; twice the same one of a body.
        left_px, right_px: in pixels of the image.
        left_mm, right_mm: None where the spacing is not known.
        anterior: which of the sides is the front; None on a frontal view, and where it is not known.
    """

    part: Part
    upper_vertebra: str
    lower_vertebra: str
    left_px: float
    right_px: float
    left_mm: float | None
    right_mm: float | None
    anterior: ImageSide | None

    @property
    def mean_px(self) -> float:
        """Of both sides."""
        return (self.left_px + self.right_px) / 2

    @property
    def mean_mm(self) -> float | None:
        """Of both sides; None where the spacing is not known."""
        return None if self.left_mm is None or self.right_mm is None else (self.left_mm + self.right_mm) / 2

    @property
    def anterior_px(self) -> float | None:
        """At the patient's front."""
        return self._at(self.anterior, self.left_px, self.right_px)

    @property
    def posterior_px(self) -> float | None:
        """At the patient's back."""
        return self._at(self.anterior and self.anterior.opposite, self.left_px, self.right_px)

    @property
    def anterior_mm(self) -> float | None:
        """At the patient's front."""
        return self._at(self.anterior, self.left_mm, self.right_mm)

    @property
    def posterior_mm(self) -> float | None:
        """At the patient's back."""
        return self._at(self.anterior and self.anterior.opposite, self.left_mm, self.right_mm)

    @staticmethod
    def _at(side: ImageSide | None, left: float | None, right: float | None) -> float | None:
        return None if side is None else left if side is ImageSide.LEFT else right


@dataclass(frozen=True, slots=True)
class SpineMeasures:
    """Everything measured on one image.

    Attributes:
        cobb: as `models.spine.cobb_readings.read_cobb_angles` gives them.
        heights: of bodies and discs, from top to bottom.
        slips: as `models.spine.slips.measure_slips` gives them.
    """

    cobb: tuple[CobbAngle, ...] = ()
    heights: tuple[Height, ...] = ()
    slips: tuple[Slip, ...] = ()


def measure_spine(
    schema: LandmarkSchema,
    landmarks: Points,
    *,
    image_height: float,
    spacing: Spacing | None = None,
    anterior: ImageSide | None = None,
    view: SpineView | None = None,
    tilt_scatter: float | None = None,
) -> SpineMeasures:
    """Measure what the landmarks permit.

    Args:
        schema: of the landmarks.
        landmarks: ``(K, 2)``, x and y in pixels of the original; NaN where there is none.
        image_height: of the original, pixels.
        spacing: of its pixels, which are square where it is None.
        anterior: where the front of the patient is on a lateral view; None when unknown.
        view: that the header says; None when it says none. Nothing is measured on another one than the schema's.
        tilt_scatter: degrees, of the network's vertebrae; None measures Cobb angles on the landmarks as they lie.
    """
    if view not in (None, schema.view):
        return SpineMeasures()
    front = anterior if schema.view is SpineView.LATERAL else None
    squared = landmarks if spacing is None else spacing.to_mm(landmarks) / spacing.row_mm
    return SpineMeasures(
        cobb=read_cobb_angles(schema, squared, image_height, tilt_scatter),
        heights=measure_heights(schema, landmarks, spacing, front),
        slips=measure_slips(schema, landmarks, spacing, front),
    )


def measure_heights(
    schema: LandmarkSchema, landmarks: Points, spacing: Spacing | None = None, anterior: ImageSide | None = None
) -> tuple[Height, ...]:
    """Measure the heights of all bodies and discs that have their corners, from top to bottom.

    Args:
        schema: of the landmarks.
        landmarks: ``(K, 2)``, x and y in pixels; NaN where there is none.
        spacing: of the pixels.
        anterior: where the front of the patient is on a lateral view; None when unknown, and on a frontal one.
    """
    in_px = dict(_heights(schema, corners_of(schema, landmarks)))
    in_mm = {} if spacing is None else dict(_heights(schema, corners_of(schema, spacing.to_mm(landmarks))))
    found = []
    for (part, upper, lower), (left, right) in in_px.items():
        left_mm, right_mm = in_mm.get((part, upper, lower), (None, None))
        found.append(Height(part, upper, lower, left, right, left_mm, right_mm, anterior))
    return tuple(found)


def _heights(schema: LandmarkSchema, corners: Points) -> Iterator[tuple[tuple[Part, str, str], tuple[float, float]]]:
    """Give the heights on the left and on the right of each part, in the unit of the corners ``(V, 4, 2)``."""
    for place, (name, own) in enumerate(zip(schema.vertebrae, corners, strict=True)):
        left, right = np.hypot(*(own[2:] - own[:2]).T).tolist()
        if isfinite(left) and isfinite(right):
            yield (Part.BODY, name, name), (left, right)
        for below, its_corners in zip(schema.vertebrae[place + 1 :][:1], corners[place + 1 :], strict=False):
            left, right = _gaps(own[2:], its_corners[:2]).tolist()
            if isfinite(left) and isfinite(right):
                yield (Part.DISC, name, below), (left, right)


def _gaps(above: Points, below: Points) -> Points:
    """Give the gap between end plates, each ``(2, 2)`` from left to right, at their left and at their right ends."""
    along = above[1] - above[0] + below[1] - below[0]
    length = float(np.hypot(*along))
    if not length > 0:
        return np.full(2, np.nan)
    down = np.array([-along[1], along[0]]) / length
    return np.asarray((below - above) @ down, np.float64)
