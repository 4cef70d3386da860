"""Measures of a two-class answer, the calibration of its logits, and the choice of its threshold. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def roc_auc(label: Labels, score: Floats) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        label: ``(N)`` of 0 and 1; both occur.
        score: ``(N)``, higher is more positive.
    """
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of ties, from 1
    positives = int(label.sum())
    negatives = len(label) - positives
    return float((ranks[label == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(label: Labels, score: Floats) -> float:
    """Mean of the precision at each threshold, weighted by the recall it adds; tied scores are one threshold."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(label[order])
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    precision = hits[ends] / (ends + 1)
    recall = hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def binary_metrics(label: Labels, probability: Floats, threshold: float) -> dict[str, Any]:
    """Measure the positive class. A share of nothing (0 / 0) is None.

    Args:
        label: ``(N)`` of 0 and 1; both occur.
        probability: ``(N)`` of the positive class, in [0, 1].
        threshold: positive is ``probability >= threshold``.
    """
    called = probability >= threshold
    truth = label == 1
    tp, fp = int(np.sum(called & truth)), int(np.sum(called & ~truth))
    fn, tn = int(np.sum(~called & truth)), int(np.sum(~called & ~truth))
    return {
        "n": len(label),
        "threshold": threshold,
        "accuracy": (tp + tn) / len(label),
        "roc_auc": roc_auc(label, probability),
        "average_precision": average_precision(label, probability),
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "sensitivity": _share(tp, tp + fn),
        "specificity": _share(tn, tn + fp),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "log_loss": log_loss(label, probability),
        "confusion_matrix": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def log_loss(label: Labels, probability: Floats) -> float:
    """Mean negative log-likelihood, natural logarithm."""
    of_truth = np.where(label == 1, probability, 1 - probability)
    return float(-np.log(np.clip(of_truth, 1e-7, 1)).mean())


def positive_probability(logits: Floats, temperature: float) -> Floats:
    """Give the softmax's second column, ``(N)``, of two-class ``logits (N, 2)`` divided by `temperature`."""
    margin = (logits[:, 1] - logits[:, 0]) / temperature
    return np.asarray(0.5 * (1 + np.tanh(margin / 2)))


def fit_temperature(label: Labels, logits: Floats) -> float:
    """Give the temperature in [1, 4] of the least log-loss (Guo et al. 2017), to three digits.

    Never below 1: that would make the network surer than it was trained to be, on the strength of images from the
    hospital it was trained on; elsewhere networks are too sure as it is.
    """
    candidates = np.geomspace(1.0, 4.0, 401)
    losses = [log_loss(label, positive_probability(logits, float(t))) for t in candidates]
    return round(float(candidates[int(np.argmin(losses))]), 3)


def choose_threshold(label: Labels, probability: Floats) -> float:
    """Give the highest threshold whose sensitivity + specificity is within one standard error of the best.

    The best itself hangs on a few images. Of those that cannot be told from it the highest is taken, because the known
    failure of these networks at other hospitals is to call pneumonia too often. Four digits.
    """
    values = np.unique(np.concatenate([probability, [0.0, 1.0]]))
    middles = (values[1:] + values[:-1]) / 2
    positives, negatives = np.sort(probability[label == 1]), np.sort(probability[label == 0])
    sensitivity = 1 - np.searchsorted(positives, middles) / len(positives)
    specificity = np.searchsorted(negatives, middles) / len(negatives)
    youden = sensitivity + specificity
    variance = sensitivity * (1 - sensitivity) / len(positives) + specificity * (1 - specificity) / len(negatives)
    best = int(np.argmax(youden))
    close = np.flatnonzero(youden >= youden[best] - np.sqrt(variance[best]) - 1e-12)
    return round(float(middles[close[-1]]), 4)
