"""The scatter of tilts with which Cobb angles are read, see `models.spine.cobb_readings`: found on held-out films.

It holds what readers and network differ by, so it is no constant of nature: another network, or labels of other
readers, have another one.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.spine.cobb import is_whole_spine
from training.landmark_evaluation import given_angles, measured_angles
from training.located_images import LocatedImages
from training.progress import track

FEWEST_FILMS: Final = 50
"""Of fewer a scatter would be chance."""

_TRIED: Final = tuple(number / 10 for number in range(31))
"""Degrees."""


def found_tilt_scatter(located: LocatedImages) -> float | None:
    """Give the scatter in degrees with which read angles differ least from those that came with the films, on average.

    Returns:
        None where landmarks as they lie are best, where the films are too few, and of other landmarks than those of a
        whole spine.
    """
    given = given_angles(located.images)
    with_angles = np.flatnonzero(np.isfinite(given).all(axis=1))
    if len(with_angles) < FEWEST_FILMS or not is_whole_spine(located.schema):
        return None
    films = located.chosen(with_angles.tolist())

    def difference(scatter: float) -> float:
        """Give the mean difference in degrees; an answer without angles says nothing of scatters."""
        read = measured_angles(films.images, films.points, films.schema, scatter)
        return float(np.nanmean(np.abs(read - given[with_angles])))

    differences = [difference(scatter) for scatter in track(_TRIED, len(_TRIED), "reading angles")]
    return _TRIED[int(np.argmin(differences))] or None
