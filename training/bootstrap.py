"""95 % intervals of two-class measures, by resampling whole persons with replacement (Efron's percentile bootstrap).

Images of one person answer alike; drawing images one by one would make the intervals too narrow. Every replicate is a
vector of weights over the images, so that a thousand of them are a few matrix products and not a thousand sorts.

A share that is 0 or 1 in the sample is so in every replicate. There the bootstrap knows nothing, and Wilson's score
interval of the share, counted in persons, stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

HEADLINES: Final = (
    "accuracy",
    "roc_auc",
    "average_precision",
    "precision",
    "recall",
    "f1",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
)
"""Measures that get an interval. The calibration error gets none: resampling itself makes it larger."""

_TAILS_PERCENT: Final = (2.5, 97.5)
_CHUNK_CELLS: Final = 4_000_000
"""Replicates times images held at once; 32 MB per array of them."""


def bootstrap_intervals(
    label: Labels,
    probability: Floats,
    threshold: float,
    *,
    groups: Sequence[str] | None,
    replicates: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Give the 2.5th and 97.5th percentile of every headline over the replicates.

    A replicate in which a measure is a share of nothing is left out of that measure; where all are, both ends are NaN.
    F1 and the two areas have no such substitute as the shares have: of a perfect sample their interval is 1 to 1.

    Args:
        label: ``(N)`` of 0 and 1.
        probability: ``(N)`` of the positive class.
        threshold: positive is ``probability >= threshold``.
        groups: ``(N)`` person of each image; None takes every image for its own person.
        replicates: how many to draw; at least 1.
        seed: of the draw; the same seed gives the same intervals.
    """
    if groups is None:
        member, count = np.arange(len(label)), len(label)
    else:
        names, member = np.unique(np.asarray(groups), return_inverse=True)
        count = len(names)
    parts = [
        weighted_measures(label, probability, threshold, drawn[:, member])
        for drawn in _draws(count, len(label), replicates, seed)
    ]
    counted = _persons_counted(label, probability >= threshold, member)
    intervals = {}
    for name in HEADLINES:
        values = np.concatenate([part[name] for part in parts])
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, _TAILS_PERCENT) if len(values) else (np.nan, np.nan)
        if name in counted and low == high and low in (0, 1):
            persons = counted[name]
            low, high = binomtest(round(low) * persons, persons).proportion_ci(method="wilson")
        intervals[name] = (float(low), float(high))
    return intervals


def _persons_counted(label: Labels, called: NDArray[np.bool_], member: NDArray[np.int64]) -> dict[str, int]:
    """Give how many persons stand below the line of each headline that is a share."""
    below = {
        "accuracy": np.ones_like(called),
        "precision": called,
        "recall": label == 1,
        "sensitivity": label == 1,
        "specificity": label == 0,
        "ppv": called,
        "npv": ~called,
    }
    return {name: len(np.unique(member[mask])) for name, mask in below.items()}


def _draws(count: int, images: int, replicates: int, seed: int) -> Iterator[Floats]:
    """Give how often each of `count` persons is drawn, ``(replicates of this chunk, count)``."""
    random = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // max(images, 1))
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        yield random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


def weighted_measures(label: Labels, probability: Floats, threshold: float, weights: Floats) -> dict[str, Floats]:
    """Give every headline under each row of weights; NaN where it is a share of nothing.

    Args:
        label: ``(N)`` of 0 and 1.
        probability: ``(N)`` of the positive class.
        threshold: positive is ``probability >= threshold``.
        weights: ``(B, N)``, how often each image counts.

    Returns:
        ``(B)`` by headline.
    """
    called, truth = probability >= threshold, label == 1
    tp, fp = weights @ (called & truth), weights @ (called & ~truth)
    fn, tn = weights @ (~called & truth), weights @ (~called & ~truth)
    auc, average_precision = _ranking(truth, probability, weights)
    sensitivity, ppv = _share(tp, tp + fn), _share(tp, tp + fp)
    return {
        "accuracy": _share(tp + tn, tp + tn + fp + fn),
        "roc_auc": auc,
        "average_precision": average_precision,
        "precision": ppv,
        "recall": sensitivity,
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "sensitivity": sensitivity,
        "specificity": _share(tn, tn + fp),
        "ppv": ppv,
        "npv": _share(tn, tn + fn),
    }


def _ranking(truth: NDArray[np.bool_], probability: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Give ROC-AUC and average precision, ``(B)`` each, equal scores being one step of the curve."""
    order = np.argsort(-probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=np.inf))
    ranked = weights[:, order]
    positive = np.add.reduceat(ranked * truth[order], starts, axis=1)  # (B, distinct scores), highest score first
    negative = np.add.reduceat(ranked * ~truth[order], starts, axis=1)
    above, wrong_above = positive.cumsum(1), negative.cumsum(1)
    positives, negatives = above[:, -1], wrong_above[:, -1]
    pairs = (negative * (above - positive / 2)).sum(1)
    precision = np.divide(above, above + wrong_above, out=np.zeros_like(above), where=above > 0)
    return _share(pairs, positives * negatives), _share((precision * positive).sum(1), positives)


def _share(part: Any, whole: Any) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return shares
