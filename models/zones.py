"""The six lung zones of the Congestion Score Index (CSI), their scores, and what follows from them.

Sides are the patient's: the patient's right lung lies on the image's left. The order of the zones is fixed in weights,
engines and records; read row by row it is the grid of three rows and two columns over a frontal radiograph.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final


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

_LARGEST_LOW: Final = 1.3
_LARGEST_MEDIUM: Final = 2.2


class HeartFailureClass(StrEnum):
    """Acute heart failure by the mean CSI: to 1.3 low, to 2.2 medium, above it high."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


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
