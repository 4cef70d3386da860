"""Cobb angles as they would be read on a film whose vertebrae are known but for a scatter of their tilts.

The angle of a curve is the largest between any two vertebrae. Of tilts that scatter, as those of every reader do, the
largest difference is larger than that of the tilts themselves, and which vertebrae end a curve, whether a column is an
S, and which of two like curves is the main one can be a matter of a degree. A network's tilts scatter less than those
of the readers that it learnt from: angles measured on its landmarks as they lie are too small on average, and jump
where readers differ.

So a film is read many times, each time with every vertebra turned by an error of that scatter. Given is the one of
these readings from which all of them are least far away on average: the best answer to a reading that is not known
(Bayes' decision under the absolute difference). It is a reading as any other: angles, end vertebrae and the form of the
column belong together. The scatter is found by cross-validation when a version is exported, see
`training.landmark_readings`.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from models.spine.cobb import CobbAngle, cobb_angles, curves_of, is_whole_spine, measurable_corners, named_curves
from models.spine.corners import Points
from models.spine.schemas import LandmarkSchema

READINGS: Final = 256
CANDIDATES: Final = 64
"""Readings that can be given: those that are nearest to the landmarks as they lie."""

_SEED: Final = 0


def read_cobb_angles(
    schema: LandmarkSchema, landmarks: Points, image_height: float, tilt_scatter: float | None
) -> tuple[CobbAngle, ...]:
    """Read the angles; the same landmarks give the same angles, and so does their mirror image.

    Args:
        schema: of the landmarks.
        landmarks: ``(K, 2)``, x and y in pixels that are square; NaN where there is none.
        image_height: of the image, in the pixels of y.
        tilt_scatter: standard deviation of the tilts in degrees; None, or 0, measures the landmarks as they lie.

    Returns:
        as `models.spine.cobb.cobb_angles`; a part of the spine is measured as it lies.
    """
    if not tilt_scatter or not is_whole_spine(schema):
        return cobb_angles(schema, landmarks, image_height)
    corners = measurable_corners(schema, landmarks)
    if corners is None:
        return ()
    readings = curves_of(_turned(corners, tilt_scatter * _errors(len(corners))), image_height, is_whole=True)
    apart = np.abs(readings.degrees[:CANDIDATES, np.newaxis] - readings.degrees).sum(axis=2).mean(axis=1)
    return named_curves(schema, readings, int(apart.argmin()))


@cache
def _errors(vertebrae: int) -> Points:
    """Give standard normal errors of each reading, ``(READINGS, V)``, small ones first, each with its mirror image."""
    drawn = np.random.default_rng(_SEED).standard_normal((READINGS // 2, vertebrae))
    drawn = drawn[np.argsort((drawn**2).sum(axis=1))]
    errors = np.stack([drawn, -drawn], axis=1).reshape(READINGS, vertebrae)
    errors.setflags(write=False)
    return errors


def _turned(corners: Points, degrees: Points) -> Points:
    """Turn vertebrae ``(V, 4, 2)`` about their middles, each by ``(N, V)``: ``(N, V, 4, 2)``."""
    cosine, sine = np.cos(np.radians(degrees))[..., np.newaxis], np.sin(np.radians(degrees))[..., np.newaxis]
    middles = corners.mean(axis=1, keepdims=True)
    x, y = np.moveaxis(corners - middles, -1, 0)  # each (V, 4)
    turned: Points = middles + np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
    return turned
