"""Measures of a two-class answer, the calibration of its logits, and the choice of its threshold.

One dictionary, with the same keys in the same order and rounded alike, is what a run directory, an evaluation and a
manifest hold: the same answers give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn import metrics as sklearn_metrics

from training.bootstrap import HEADLINES, Floats, Labels, bootstrap_intervals

__all__ = ["HEADLINES", "Floats", "Labels"]

CALIBRATION_BINS: Final = 10
DECIMALS: Final = 6
"""Of every figure in a file of measures."""


def classification_metrics(
    label: Labels,
    probability: Floats,
    threshold: float,
    *,
    labels: tuple[str, str],
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the positive class, with 95 % intervals.

    Args:
        label: ``(N)`` of 0 and 1.
        probability: ``(N)`` of the positive class, in [0, 1].
        threshold: positive is ``probability >= threshold``.
        labels: names of the two classes, the positive one second.
        groups: ``(N)`` person of each image: persons are resampled, not images; None resamples images.
        bootstrap: number of replicates; 0 leaves `intervals` empty.
        seed: of the resampling.

    Returns:
        A JSON object with the keys ``accuracy, roc_auc, average_precision, precision, recall, f1, sensitivity,
        specificity, ppv, npv, confusion_matrix, classification_report, threshold, ece, n, log_loss, intervals`` in
        this order. Shares lie in [0, 1], rounded to six decimals; a share of nothing (0 / 0) is None.
        ``intervals`` has ``[low, high]`` of each of `HEADLINES`.
    """
    figures = _point_figures(label, probability, threshold)
    matrix = figures.pop("confusion_matrix")
    intervals: dict[str, Any] = {}
    if bootstrap:
        intervals = {
            name: [_rounded(end) for end in ends]
            for name, ends in bootstrap_intervals(
                label, probability, threshold, groups=groups, replicates=bootstrap, seed=seed
            ).items()
        }
    return {
        **{name: _rounded(figures[name]) for name in HEADLINES},
        "confusion_matrix": matrix,
        "classification_report": _report(label, probability >= threshold, labels),
        "threshold": _rounded(threshold),
        "ece": _rounded(figures["ece"]),
        "n": len(label),
        "log_loss": _rounded(figures["log_loss"]),
        "intervals": intervals,
    }


def _point_figures(label: Labels, probability: Floats, threshold: float) -> dict[str, Any]:
    matrix = sklearn_metrics.confusion_matrix(label, probability >= threshold, labels=[0, 1])
    tn, fp, fn, tp = (int(count) for count in matrix.ravel())
    sensitivity, ppv = _share(tp, tp + fn), _share(tp, tp + fp)
    return {
        "accuracy": _share(tp + tn, len(label)),
        "roc_auc": roc_auc(label, probability),
        "average_precision": average_precision(label, probability),
        "precision": ppv,
        "recall": sensitivity,
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "sensitivity": sensitivity,
        "specificity": _share(tn, tn + fp),
        "ppv": ppv,
        "npv": _share(tn, tn + fn),
        "ece": expected_calibration_error(label, probability),
        "log_loss": log_loss(label, probability),
        "confusion_matrix": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _report(label: Labels, called: Any, labels: tuple[str, str]) -> dict[str, Any]:
    report: dict[str, Any] = sklearn_metrics.classification_report(
        label,
        called.astype(np.int64),
        labels=[0, 1],
        target_names=list(labels),
        output_dict=True,
        zero_division=np.nan,
    )
    return {
        name: {key: int(value) if key == "support" else _rounded(value) for key, value in row.items()}
        if isinstance(row, dict)
        else _rounded(row)
        for name, row in report.items()
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), DECIMALS)


def write_metrics(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON object; the same object gives the same bytes, and NaN is refused."""
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def roc_auc(label: Labels, score: Floats) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        label: ``(N)`` of 0 and 1; NaN is given where one of them does not occur.
        score: ``(N)``, higher is more positive.
    """
    return float(sklearn_metrics.roc_auc_score(label, score)) if _has_both(label) else math.nan


def average_precision(label: Labels, score: Floats) -> float:
    """Mean of the precision at each threshold, weighted by the recall it adds; tied scores are one threshold.

    NaN where no label is 1.
    """
    return float(sklearn_metrics.average_precision_score(label, score)) if label.any() else math.nan


def _has_both(label: Labels) -> bool:
    return bool(label.any()) and not bool(label.all())


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Answers whose probability lies in one tenth of [0, 1].

    Attributes:
        probability: their mean.
        observed: share of them that is positive.
        count: how many they are, at least 1.
    """

    probability: float
    observed: float
    count: int


def calibration_bins(label: Labels, probability: Floats, bins: int = CALIBRATION_BINS) -> tuple[CalibrationBin, ...]:
    """Compare probability and truth by bins of equal width; empty bins are left out.

    Args:
        label: ``(N)`` of 0 and 1.
        probability: ``(N)`` of the positive class, in [0, 1].
        bins: number of bins.
    """
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    return tuple(
        CalibrationBin(float(probability[place == i].mean()), float(label[place == i].mean()), int(np.sum(place == i)))
        for i in np.unique(place)
    )


def expected_calibration_error(label: Labels, probability: Floats, bins: int = CALIBRATION_BINS) -> float:
    """Mean distance of probability and observed share over the bins, weighted by their counts (Naeini et al. 2015)."""
    filled = calibration_bins(label, probability, bins)
    return sum(bin.count * abs(bin.probability - bin.observed) for bin in filled) / len(label)


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
