"""Measures of zone scores: agreement with a reader, zone by zone and for the mean CSI, with 95 % intervals.

The keys and their order are fixed; the same answers give the same bytes. What the reader called ungradable is in no
measure of scores. What the network called ungradable counts as wrong in accuracy and F1; kappa and errors take the
score that it would have given, so that refusing to answer improves neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.zones import GRADED, ZONES, Congestion, grade_zones
from training.evaluation import DECIMALS, Floats

Grades = NDArray[np.int64]
"""``(N, 6)`` of `Congestion`, zones in their fixed order."""

HEADLINES: Final = (
    *("kappa_quadratic", "mae_zone", "f1_macro", "accuracy"),
    *("mean_csi_mae", "mean_csi_rmse", "mean_csi_pearson"),
)
"""Measures that get an interval."""

_GRADED: Final = [int(grade) for grade in GRADED]
_TAILS_PERCENT: Final = (2.5, 97.5)
_NO_SPREAD: Final = 1e-12


@dataclass(frozen=True, slots=True)
class ZoneAnswers:
    """What a network, or another reader, answers.

    Attributes:
        called: ``(N, 6)``, the class that is called, which may be ungradable.
        graded: ``(N, 6)``, the score were the zone gradable, see `models.zones.GradedZones`.
    """

    called: Grades
    graded: Grades

    @classmethod
    def of_probability(cls, probability: NDArray[np.floating[Any]]) -> ZoneAnswers:
        """Read the classes of ``(N, 6, 5)`` as the worker does."""
        zones = grade_zones(probability)
        return cls(zones.called, zones.graded)

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
        zone.value: _of_zone(truth[:, [i]], ZoneAnswers(answers.called[:, [i]], answers.graded[:, [i]]))
        for i, zone in enumerate(ZONES)
    }
    return {
        **_rounded_all(figures),
        "per_zone": per_zone,
        "n": len(truth),
        "gradable": int((truth != Congestion.UNGRADABLE).sum()),
        "intervals": _intervals(truth, answers, groups, bootstrap, seed) if bootstrap else {},
    }


def _of_zone(truth: Grades, answers: ZoneAnswers) -> dict[str, Any]:
    """Give the measures of one zone, of grades ``(N, 1)``."""
    figures = _of_zones(truth, answers, np.ones((1, len(truth))))
    measured = _rounded_all({name: float(values[0]) for name, values in figures.items()})
    return measured | {"confusion_matrix": _confusion_matrix(truth, answers.called)}


def _figures(truth: Grades, answers: ZoneAnswers) -> dict[str, float]:
    once = np.ones((1, len(truth)))
    drawn = _of_zones(truth, answers, once) | _of_means(truth, answers.graded, once)
    return {name: float(values[0]) for name, values in drawn.items()}


def _of_zones(truth: Grades, answers: ZoneAnswers, times: Floats) -> dict[str, Floats]:
    """Give the measures over zones of samples in which image n stands ``times[r, n]`` times: each ``(R)``.

    Everything is made from two matrices of counts per sample, reader by class called ``(R, 4, 5)`` and reader by grade
    ``(R, 4, 4)``, so that a thousand samples take no longer than one.
    """
    called = _counts(truth, answers.called, len(Congestion), times)
    graded = _counts(truth, answers.graded, len(_GRADED), times)
    distance = np.abs(np.subtract.outer(_GRADED, _GRADED))
    zones = graded.sum(axis=(1, 2))
    return {
        "kappa_quadratic": _kappa(graded),
        "mae_zone": _divided((graded * distance).sum(axis=(1, 2)), zones),
        "f1_macro": _f1_macro(called),
        "accuracy": _divided(np.trace(called, axis1=1, axis2=2), zones),
    }


def _counts(truth: Grades, answer: Grades, classes: int, times: Floats) -> Floats:
    readers = truth[..., np.newaxis] == _GRADED  # (N, 6, 4); nothing where the reader called a zone ungradable
    answered = answer[..., np.newaxis] == np.arange(classes)  # (N, 6, classes)
    per_image = np.einsum("nzg,nzc->ngc", readers.astype(np.float64), answered.astype(np.float64))
    counts: Floats = np.einsum("rn,ngc->rgc", times, per_image)
    return counts


def _kappa(counts: Floats) -> Floats:
    """Give Cohen's kappa with quadratic weights of matrices ``(R, 4, 4)``; NaN where both readers are constant."""
    squares = np.subtract.outer(_GRADED, _GRADED) ** 2
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    expected = _divided(np.einsum("rg,rc,gc->r", rows, columns, squares), counts.sum(axis=(1, 2)))
    return 1 - _divided((counts * squares).sum(axis=(1, 2)), expected)


def _f1_macro(counts: Floats) -> Floats:
    """Average F1 over the grades that occur in either, so that a perfect answer scores 1: of ``(R, 4, 5)``."""
    graded = counts[:, :, : len(_GRADED)]
    occurs = counts.sum(axis=2) + graded.sum(axis=1)  # (R, 4), in the reader and in the answer
    each = _divided(2 * np.einsum("rgg->rg", graded), occurs)
    seen = (occurs > 0).sum(axis=1)
    return _divided(np.nansum(each, axis=1), seen.astype(np.float64))


def _of_means(truth: Grades, graded: Grades, times: Floats) -> dict[str, Floats]:
    """Give the measures of the mean CSI, as `_of_zones`."""
    known = truth != Congestion.UNGRADABLE
    counted = known.sum(axis=1)
    # Both over the zones that the reader graded: otherwise the means would be of different zones.
    reader = np.where(known, truth, 0).sum(axis=1) / np.maximum(counted, 1)
    answer = np.where(known, graded, 0).sum(axis=1) / np.maximum(counted, 1)
    weights = times * (counted > 0)
    images = weights.sum(axis=1)
    error = answer - reader
    return {
        "mean_csi_mae": _divided(weights @ np.abs(error), images),
        "mean_csi_rmse": np.sqrt(_divided(weights @ error**2, images)),
        "mean_csi_pearson": _pearson(reader, answer, weights, images),
    }


def _pearson(reader: Floats, answer: Floats, weights: Floats, images: Floats) -> Floats:
    mean_reader, mean_answer = _divided(weights @ reader, images), _divided(weights @ answer, images)
    from_mean = reader - mean_reader[:, np.newaxis], answer - mean_answer[:, np.newaxis]  # each (R, N)
    spread = [(weights * side**2).sum(axis=1) for side in from_mean]
    product = np.sqrt(spread[0] * spread[1])
    return _divided((weights * from_mean[0] * from_mean[1]).sum(axis=1), np.where(product > _NO_SPREAD, product, 0))


def _divided(part: Floats, whole: Floats) -> Floats:
    """Divide; nothing by nothing is NaN."""
    quotient: Floats = np.divide(part, whole, out=np.full(np.shape(part), math.nan), where=whole > 0)
    return quotient


def quadratic_kappa(reader: Grades, other: Grades) -> float:
    """Cohen's kappa with quadratic weights over the four grades, of ``(M)`` and ``(M)``; NaN where both are constant.

    One minus the mean squared difference over the one expected of independent readers with the same marginals.
    """
    counts = _counts(reader[:, np.newaxis], other[:, np.newaxis], len(_GRADED), np.ones((1, len(reader))))
    return float(_kappa(counts)[0])


def _confusion_matrix(truth: Grades, called: Grades) -> list[list[int]]:
    (counts,) = _counts(truth, called, len(Congestion), np.ones((1, len(truth))))
    return [[int(count) for count in row] for row in counts]


def _intervals(
    truth: Grades, answers: ZoneAnswers, groups: Sequence[str], replicates: int, seed: int
) -> dict[str, list[float | None]]:
    """Give the 2.5th and 97.5th percentile of every headline over resampled persons (Efron's percentile bootstrap)."""
    random = np.random.default_rng(seed)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    chosen = random.integers(0, len(names), (replicates, len(names)))
    drawn = np.stack([np.bincount(row, minlength=len(names)) for row in chosen])  # how often each person was drawn
    times = drawn[:, member].astype(np.float64)  # (R, N)
    measured = _of_zones(truth, answers, times) | _of_means(truth, answers.graded, times)
    return {
        name: [_rounded(float(end)) for end in np.nanpercentile(measured[name], _TAILS_PERCENT)]
        if np.isfinite(measured[name]).any()
        else [None, None]
        for name in HEADLINES
    }


def _rounded_all(figures: dict[str, float]) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DECIMALS)
