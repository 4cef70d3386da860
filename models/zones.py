"""The six lung zones of the Congestion Score Index (CSI), their scores, and what follows from them.

Sides are the patient's: the patient's right lung lies on the image's left. The order of the zones is fixed in weights,
engines and records; read row by row it is the grid of three rows and two columns over a frontal radiograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


class Zone(StrEnum):
    """A zone, in the fixed order."""

    RIGHT_SUP = "right_sup"
    LEFT_SUP = "left_sup"
    RIGHT_MID = "right_mid"
    LEFT_MID = "left_mid"
    RIGHT_INF = "right_inf"
    LEFT_INF = "left_inf"

    @property
    def mirrored(self) -> Zone:
        """The zone that this one becomes when the image is flipped horizontally."""
        return ZONES[ZONES.index(self) ^ 1]


ZONES: Final = tuple(Zone)
ZONE_ROWS: Final = 3
ZONE_COLUMNS: Final = 2
MIRRORED_ORDER: Final = tuple(ZONES.index(zone.mirrored) for zone in ZONES)
"""Index by it along the axis of zones after a horizontal flip."""


class Congestion(IntEnum):
    """The class of a zone. The first four are ordered; the fifth says that the zone cannot be judged."""

    NORMAL = 0
    MILD = 1
    MODERATE = 2
    SEVERE = 3
    UNGRADABLE = 4


GRADED: Final = tuple(grade for grade in Congestion if grade is not Congestion.UNGRADABLE)
"""The classes that have a score."""

CLASS_NAMES: Final = tuple(grade.name.lower() for grade in Congestion)
"""The classes in words, in the order of a network's outputs: the labels of a manifest."""

_UNGRADABLE_FROM: Final = 0.5
_MEDIAN: Final = 0.5
_LARGEST_LOW: Final = 1.3
_LARGEST_MEDIUM: Final = 2.2


class HeartFailureClass(StrEnum):
    """Acute heart failure by the mean CSI: to 1.3 low, to 2.2 medium, above it high."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class GradedZones:
    """What probabilities say of zones, each array of the shape of their zones.

    Attributes:
        called: int64, the class that is called, a `Congestion`.
        graded: int64, the score were the zone gradable: the median of the graded classes, which of all scores has the
            least expected absolute error; the likeliest class would ignore on which side the others lie.
        expected: float64 in [0, 3], the mean of the graded classes.
        certainty: float64 in [0, 1], the probability of the class called.
    """

    called: NDArray[np.int64]
    graded: NDArray[np.int64]
    expected: NDArray[np.float64]
    certainty: NDArray[np.float64]


def grade_zones(probability: NDArray[np.floating[Any]]) -> GradedZones:
    """Read the classes of zones.

    Args:
        probability: ``(..., 5)``, sums to 1 over the classes. A zone is called ungradable from a half on.
    """
    values = probability.astype(np.float64)
    graded_part = values[..., : len(GRADED)]
    share = graded_part / np.maximum(graded_part.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    graded = (share.cumsum(axis=-1)[..., :-1] < _MEDIAN).sum(axis=-1).astype(np.int64)
    called = np.where(values[..., Congestion.UNGRADABLE] >= _UNGRADABLE_FROM, int(Congestion.UNGRADABLE), graded)
    certainty = np.take_along_axis(values, called[..., np.newaxis], axis=-1)[..., 0]
    return GradedZones(called, graded, share @ np.arange(len(GRADED), dtype=np.float64), certainty)


def mean_csi(grades: Mapping[Zone, Congestion]) -> float | None:
    """Average the scores of the gradable zones, 0 to 3; None when no zone is gradable."""
    scores = [int(grade) for grade in grades.values() if grade is not Congestion.UNGRADABLE]
    return sum(scores) / len(scores) if scores else None


def heart_failure_class(mean: float | None) -> HeartFailureClass | None:
    """Give the class of a mean CSI; None when there is no mean."""
    if mean is None:
        return None
    if mean <= _LARGEST_LOW:
        return HeartFailureClass.LOW
    return HeartFailureClass.MEDIUM if mean <= _LARGEST_MEDIUM else HeartFailureClass.HIGH
