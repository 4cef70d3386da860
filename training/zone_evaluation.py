"""Measures of zone scores: agreement with a reader, zone by zone and for the mean CSI, with 95 % intervals.

The keys and their order are fixed; the same answers give the same bytes. What the reader called ungradable is in no
measure of scores. What the network called ungradable counts as wrong in accuracy and F1; kappa and errors take the
graded class that it held most likely, so that refusing to answer improves neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from models.zones import GRADED, ZONES, Congestion
from training.evaluation import DECIMALS

Grades = NDArray[np.int64]
"""``(N, 6)`` of `Congestion`, zones in their fixed order."""

HEADLINES: Final = (
    *("kappa_quadratic", "mae_zone", "f1_macro", "accuracy"),
    *("mean_csi_mae", "mean_csi_rmse", "mean_csi_pearson"),
)
"""Measures that get an interval."""

_GRADED: Final = [int(grade) for grade in GRADED]
_TAILS_PERCENT: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class ZoneAnswers:
    """What a network, or another reader, answers.

    Attributes:
        called: ``(N, 6)``, the class that is called, which may be ungradable.
        graded: ``(N, 6)``, the likeliest of the graded classes.
    """

    called: Grades
    graded: Grades

    @classmethod
    def of_probability(cls, probability: NDArray[np.floating[Any]]) -> ZoneAnswers:
        """Take the likeliest classes of ``(N, 6, 5)``."""
        return cls(probability.argmax(axis=2), probability[:, :, : len(GRADED)].argmax(axis=2))

    @classmethod
    def of_reader(cls, grades: Grades) -> ZoneAnswers:
        """Take a reader's own grades, none of which is ungradable."""
        return cls(grades, grades)


def zone_metrics(
    truth: Grades, answers: ZoneAnswers, *, groups: Sequence[str], bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Measure answers against a reader.

    Args:
        truth: ``(N, 6)`` of the reader.
        answers: of the network.
        groups: ``(N)``, the person of each image: persons are resampled, not images.
        bootstrap: number of replicates of the intervals; 0 leaves them empty.
        seed: of the resampling.

    Returns:
        A JSON object with the keys ``kappa_quadratic, mae_zone, f1_macro, accuracy, mean_csi_mae, mean_csi_rmse,
        mean_csi_pearson, per_zone, n, gradable, intervals`` in this order. Kappa, F1, accuracy and MAE are over all
        gradable zones together; mean CSI over images with one. ``per_zone`` has the first four of each zone, and its
        ``confusion_matrix``: rows are the reader's four grades, columns the five classes called. What is undefined (one
        grade alone, no image) is None.
    """
    figures = _figures(truth, answers)
    per_zone = {
        zone.value: _rounded_all(_of_zones(truth[:, [i]], answers.called[:, [i]], answers.graded[:, [i]]))
        | {"confusion_matrix": _confusion_matrix(truth[:, i], answers.called[:, i])}
        for i, zone in enumerate(ZONES)
    }
    return {
        **_rounded_all(figures),
        "per_zone": per_zone,
        "n": len(truth),
        "gradable": int((truth != Congestion.UNGRADABLE).sum()),
        "intervals": _intervals(truth, answers, groups, bootstrap, seed) if bootstrap else {},
    }


def _figures(truth: Grades, answers: ZoneAnswers) -> dict[str, float]:
    return _of_zones(truth, answers.called, answers.graded) | _of_means(truth, answers.graded)


def _of_zones(truth: Grades, called: Grades, graded: Grades) -> dict[str, float]:
    known = truth != Congestion.UNGRADABLE
    if not known.any():
        return dict.fromkeys(HEADLINES[:4], math.nan)
    reader, said, grade = truth[known], called[known], graded[known]
    return {
        "kappa_quadratic": quadratic_kappa(reader, grade),
        "mae_zone": float(np.abs(reader - grade).mean()),
        "f1_macro": _f1_macro(reader, said),
        "accuracy": float((reader == said).mean()),
    }


def _f1_macro(reader: Grades, said: Grades) -> float:
    """Average F1 over the grades that occur in either, so that a perfect answer scores 1."""
    seen = [grade for grade in _GRADED if (reader == grade).any() or (said == grade).any()]
    return float(sklearn_metrics.f1_score(reader, said, labels=seen, average="macro", zero_division=0))


def _of_means(truth: Grades, graded: Grades) -> dict[str, float]:
    known = truth != Congestion.UNGRADABLE
    rows = known.any(axis=1)
    if not rows.any():
        return dict.fromkeys(HEADLINES[4:], math.nan)
    counts = known[rows].sum(axis=1)
    # Both over the zones that the reader graded: otherwise the means would be of different zones.
    reader = np.where(known, truth, 0)[rows].sum(axis=1) / counts
    answer = np.where(known, graded, 0)[rows].sum(axis=1) / counts
    error = answer - reader
    varies = len(reader) > 1 and reader.std() > 0 and answer.std() > 0
    return {
        "mean_csi_mae": float(np.abs(error).mean()),
        "mean_csi_rmse": float(np.sqrt((error**2).mean())),
        "mean_csi_pearson": float(np.corrcoef(reader, answer)[0, 1]) if varies else math.nan,
    }


def quadratic_kappa(reader: Grades, other: Grades) -> float:
    """Cohen's kappa with quadratic weights over the four grades, of ``(M)`` and ``(M)``; NaN where both are constant.

    One minus the mean squared difference over the one expected of independent readers with the same marginals.
    """
    expected = float(((reader[:, None] - np.asarray(_GRADED)) ** 2 @ _shares(other)).mean())
    return math.nan if expected == 0 else 1 - float(((reader - other) ** 2).mean()) / expected


def _shares(grades: Grades) -> NDArray[np.float64]:
    return np.bincount(grades, minlength=len(_GRADED)) / len(grades)


def _confusion_matrix(reader: Grades, called: Grades) -> list[list[int]]:
    matrix = sklearn_metrics.confusion_matrix(reader, called, labels=[int(grade) for grade in Congestion])
    return [[int(count) for count in row] for row in matrix[: len(_GRADED)]]


def _intervals(
    truth: Grades, answers: ZoneAnswers, groups: Sequence[str], replicates: int, seed: int
) -> dict[str, list[float | None]]:
    """Give the 2.5th and 97.5th percentile of every headline over resampled persons (Efron's percentile bootstrap)."""
    random = np.random.default_rng(seed)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    images_of = [np.flatnonzero(member == person) for person in range(len(names))]
    drawn: dict[str, list[float]] = {name: [] for name in HEADLINES}
    for _ in range(replicates):
        chosen = np.concatenate([images_of[person] for person in random.integers(0, len(names), len(names))])
        replicate = _figures(truth[chosen], ZoneAnswers(answers.called[chosen], answers.graded[chosen]))
        for name in HEADLINES:
            drawn[name].append(replicate[name])
    return {
        name: [_rounded(float(end)) for end in np.nanpercentile(values, _TAILS_PERCENT)]
        if np.isfinite(values).any()
        else [None, None]
        for name, values in drawn.items()
    }


def _rounded_all(figures: dict[str, float]) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DECIMALS)
