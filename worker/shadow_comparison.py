"""How far the answer of a version in the shadow is from the one that counted; see `models.records.shadow`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Final

import numpy as np

from models.zones import Congestion
from worker.findings import Classification, CongestionFinding, Finding
from worker.spine_finding import LandmarkFinding

_LARGEST_SCORE: Final = int(Congestion.SEVERE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers for the same instance, as `models.records.shadow.ShadowFinding` has them."""

    agrees: bool
    difference: float
    detail: dict[str, Any]


@singledispatch
def compare(live: Finding, shadow: Finding) -> Comparison:
    """Compare the answer that counted with that of a version in the shadow, of the same task.

    Raises:
        TypeError: they are of different tasks, or of one that cannot be compared.
    """
    raise TypeError(f"no comparison is known for {type(live).__name__}")


@compare.register
def _compare_classifications(live: Classification, shadow: Finding) -> Comparison:
    if not isinstance(shadow, Classification):
        raise TypeError("answers of different tasks")
    return Comparison(
        agrees=live.label == shadow.label,
        difference=abs(live.probability - shadow.probability),
        detail={
            name: {"label": finding.label, "probability": finding.probability}
            for name, finding in (("live", live), ("shadow", shadow))
        },
    )


@compare.register
def _compare_congestion(live: CongestionFinding, shadow: Finding) -> Comparison:
    if not isinstance(shadow, CongestionFinding):
        raise TypeError("answers of different tasks")
    scores = {
        name: {zone.zone.value: zone.score for zone in finding.zones}
        for name, finding in (("live", live), ("shadow", shadow))
    }
    apart = [_apart(scores["live"][zone], scores["shadow"][zone]) for zone in scores["live"]]
    return Comparison(scores["live"] == scores["shadow"], sum(apart) / len(apart), scores)


def _apart(one: int | None, other: int | None) -> int:
    if one is None or other is None:
        return 0 if one is other else _LARGEST_SCORE
    return abs(one - other)


@compare.register
def _compare_landmarks(live: LandmarkFinding, shadow: Finding) -> Comparison:
    if not isinstance(shadow, LandmarkFinding):
        raise TypeError("answers of different tasks")
    angles = {
        name: {angle.curve.value: round(angle.degrees, 3) for angle in finding.curves}
        for name, finding in (("live", live), ("shadow", shadow))
    }
    return Comparison(live.review == shadow.review, _mean_distance(live, shadow), angles)


def _mean_distance(live: LandmarkFinding, shadow: LandmarkFinding) -> float:
    """Mean distance of the landmarks that both have, pixels; versions may know different sets of them."""
    places = dict(zip(shadow.schema.points, shadow.landmarks, strict=True))
    common = [
        (place, places[point])
        for point, place in zip(live.schema.points, live.landmarks, strict=True)
        if point in places and np.isfinite([place, places[point]]).all()
    ]
    if not common:
        return float(np.hypot(live.rows, live.columns))
    here, there = np.array(common).transpose(1, 0, 2)
    return float(np.linalg.norm(here - there, axis=1).mean())
