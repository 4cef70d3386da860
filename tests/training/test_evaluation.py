"""Measures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.bootstrap import bootstrap_intervals, weighted_measures
from training.evaluation import (
    HEADLINES,
    average_precision,
    calibration_bins,
    choose_threshold,
    classification_metrics,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    positive_probability,
    roc_auc,
    write_metrics,
)

LABELS = ("NORMAL", "PNEUMONIA")
KEYS = (
    *("accuracy", "roc_auc", "average_precision", "precision", "recall", "f1", "sensitivity", "specificity", "ppv"),
    *("npv", "confusion_matrix", "classification_report", "threshold", "ece", "n", "log_loss", "intervals"),
)


def noisy_answers(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities with errors on both sides and many ties."""
    random = np.random.default_rng(seed)
    label = (random.random(n) < 0.6).astype(np.int64)
    return label, np.clip(0.5 + 0.25 * (2 * label - 1) + random.normal(0, 0.3, n), 0, 1).round(1)


def test_auc_counts_pairs_and_half_of_ties() -> None:
    label = np.array([0, 0, 1, 1, 1])
    score = np.array([0.1, 0.5, 0.5, 0.7, 0.05])
    # Of 6 pairs: 0.5 beats 0.1 and ties 0.5; 0.7 beats both; 0.05 beats none: 1 + 0.5 + 2 = 3.5.
    assert roc_auc(label, score) == pytest.approx(3.5 / 6)


@pytest.mark.parametrize(("score", "auc"), [([0, 0, 1, 1], 1.0), ([1, 1, 0, 0], 0.0), ([0, 0, 0, 0], 0.5)])
def test_auc_of_perfect_reversed_and_constant_scores(score: list[float], auc: float) -> None:
    assert roc_auc(np.array([0, 0, 1, 1]), np.array(score, float)) == auc


def test_average_precision_weights_precision_by_the_recall_it_adds() -> None:
    label = np.array([1, 0, 1, 0])
    # Going down: 1/1 at recall 1/2, 1/2, 2/3 at recall 1, 2/4.
    assert average_precision(label, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(label, np.full(4, 0.3)) == pytest.approx(0.5)


def test_confusion_and_its_shares() -> None:
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    probability = np.array([0.1, 0.2, 0.5, 0.9, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    metrics = classification_metrics(label, probability, 0.5, labels=LABELS, bootstrap=0)
    assert metrics["confusion_matrix"] == {"tn": 2, "fp": 2, "fn": 1, "tp": 5}
    assert metrics["accuracy"] == 0.7
    assert metrics["precision"] == metrics["ppv"] == 0.714286
    assert metrics["recall"] == metrics["sensitivity"] == 0.833333
    assert (metrics["specificity"], metrics["npv"], metrics["f1"]) == (0.5, 0.666667, 0.769231)
    assert (metrics["n"], metrics["threshold"], metrics["intervals"]) == (10, 0.5, {})
    report = metrics["classification_report"]
    assert report["NORMAL"] == {"precision": 0.666667, "recall": 0.5, "f1-score": 0.571429, "support": 4}
    assert report["PNEUMONIA"]["f1-score"] == metrics["f1"]
    assert report["accuracy"] == 0.7
    assert report["macro avg"]["recall"] == 0.666667


def test_keys_and_bytes_are_stable(tmp_path: Path) -> None:
    label, probability = noisy_answers(60)
    written = []
    for name in ("a.json", "b.json"):
        metrics = classification_metrics(label, probability, 0.5, labels=LABELS, bootstrap=50)
        write_metrics(tmp_path / name, metrics)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert tuple(json.loads(written[0])) == KEYS
    assert tuple(json.loads(written[0])["intervals"]) == HEADLINES


def test_a_share_of_nothing_is_none() -> None:
    metrics = classification_metrics(np.array([0, 1]), np.array([0.1, 0.2]), 0.9, labels=LABELS, bootstrap=5)
    assert metrics["precision"] is metrics["ppv"] is None
    assert metrics["intervals"]["precision"] == [None, None]
    assert metrics["classification_report"]["PNEUMONIA"]["precision"] is None


@pytest.mark.parametrize("only", [0, 1])
def test_images_of_one_class_have_no_area_and_no_warning(only: int, tmp_path: Path) -> None:
    metrics = classification_metrics(np.full(4, only), np.array([0.1, 0.4, 0.6, 0.9]), 0.5, labels=LABELS, bootstrap=20)
    assert metrics["roc_auc"] is None
    assert metrics["intervals"]["roc_auc"] == [None, None]
    assert metrics["accuracy"] == 0.5
    write_metrics(tmp_path / "metrics.json", metrics)


def test_weights_count_as_repeated_images_do() -> None:
    label, probability = noisy_answers(80)
    weights = np.random.default_rng(1).integers(0, 4, (5, 80)).astype(float)
    measures = weighted_measures(label, probability, 0.55, weights)
    for row, weight in enumerate(weights):
        times = weight.astype(int)
        repeated = classification_metrics(
            np.repeat(label, times), np.repeat(probability, times), 0.55, labels=LABELS, bootstrap=0
        )
        for name in HEADLINES:
            assert measures[name][row] == pytest.approx(repeated[name], abs=1e-6)


def test_interval_of_a_share_is_the_normal_approximation_where_that_holds() -> None:
    label = np.ones(2000, np.int64)
    label[:400] = 0
    probability = np.where(np.arange(2000) % 10 == 0, 1.0 - label, label)  # one in ten is wrong
    low, high = bootstrap_intervals(label, probability, 0.5, groups=None, replicates=2000, seed=0)["accuracy"]
    half = 1.96 * np.sqrt(0.9 * 0.1 / 2000)
    assert (low, high) == pytest.approx((0.9 - half, 0.9 + half), abs=0.002)


def test_four_images_of_each_person_are_worth_one() -> None:
    label, probability = noisy_answers(150)
    alone = bootstrap_intervals(label, probability, 0.5, groups=None, replicates=1000, seed=0)
    four = np.repeat(label, 4), np.repeat(probability, 4)
    persons = [f"p{i // 4}" for i in range(600)]
    grouped = bootstrap_intervals(*four, 0.5, groups=persons, replicates=1000, seed=0)
    by_image = bootstrap_intervals(*four, 0.5, groups=None, replicates=1000, seed=0)
    for name in ("accuracy", "roc_auc", "sensitivity"):
        width, wide, narrow = (high - low for low, high in (alone[name], grouped[name], by_image[name]))
        assert wide == pytest.approx(width, rel=0.15)
        assert narrow == pytest.approx(width / 2, rel=0.15)


def test_a_perfect_share_is_not_certain() -> None:
    label = np.repeat([0, 1], [20, 40])
    persons = [f"p{i // 2}" for i in range(60)]
    intervals = bootstrap_intervals(label, label.astype(float), 0.5, groups=persons, replicates=100, seed=0)
    # Wilson of 10 of 10 persons: n / (n + z squared) = 10 / (10 + 3.8415)
    assert intervals["specificity"] == pytest.approx((10 / 13.8415, 1.0), abs=1e-4)
    assert intervals["sensitivity"] == pytest.approx((20 / 23.8415, 1.0), abs=1e-4)


def test_calibration_error_is_the_weighted_distance_of_the_bins() -> None:
    label = np.array([0, 1, 1, 1])
    probability = np.array([0.02, 0.06, 0.9, 1.0])
    # First tenth: mean 0.04, observed 0.5, two images. Last tenth: 0.95, 1, two images.
    assert [bin.count for bin in calibration_bins(label, probability)] == [2, 2]
    assert expected_calibration_error(label, probability) == pytest.approx(0.5 * 0.46 + 0.5 * 0.05)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    from torch import from_numpy

    from models.networks.torchvision_shim import prepare_torchvision

    prepare_torchvision()  # which torchmetrics imports
    from torchmetrics.functional.classification import binary_calibration_error

    random = np.random.default_rng(0)
    probability = random.random(500)
    label = (random.random(500) < probability**2).astype(np.int64)
    expected = binary_calibration_error(from_numpy(probability), from_numpy(label), n_bins=10, norm="l1")
    assert expected_calibration_error(label, probability) == pytest.approx(float(expected), abs=1e-6)


def test_log_loss_is_finite_when_certain_and_wrong() -> None:
    assert log_loss(np.array([1, 0]), np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert np.isfinite(log_loss(np.array([1]), np.array([0.0])))


def test_probability_is_the_softmax_of_scaled_logits() -> None:
    logits = np.array([[0.0, np.log(3.0)], [1000.0, -1000.0]])
    np.testing.assert_allclose(positive_probability(logits, 1.0), [0.75, 0.0], atol=1e-12)
    np.testing.assert_allclose(positive_probability(logits, 2.0)[0], np.sqrt(3) / (1 + np.sqrt(3)))


def test_temperature_undoes_logits_that_were_scaled_up() -> None:
    random = np.random.default_rng(0)
    margin = random.normal(0, 2, 20_000)
    label = (random.random(20_000) < 1 / (1 + np.exp(-margin))).astype(np.int64)
    logits = np.stack([np.zeros_like(margin), 2.5 * margin], axis=1)
    assert fit_temperature(label, logits) == pytest.approx(2.5, rel=0.05)


def test_temperature_never_sharpens() -> None:
    label = np.array([0, 1] * 50)
    logits = np.stack([1.0 - 2 * label, np.zeros(100)], axis=1)  # always right, and unsure about it
    assert fit_temperature(label, logits) == 1.0


def test_threshold_of_separable_scores_is_the_middle_of_their_gap() -> None:
    assert choose_threshold(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8])) == pytest.approx(0.5)


def test_threshold_is_the_highest_that_cannot_be_told_from_the_best() -> None:
    # 100 negatives at 0.1 but two at 0.3; 100 positives at 0.9 but two at 0.2, one at 0.4, ten at 0.6.
    label = np.repeat([0, 1], 100)
    probability = np.concatenate([[0.1] * 98, [0.3] * 2, [0.2] * 2, [0.4], [0.6] * 10, [0.9] * 87])
    # Best: between 0.3 and 0.4, sensitivity 0.98, specificity 1, standard error 0.014. Between 0.4 and 0.6 the
    # sensitivity is 0.97, within it; above 0.6 it is 0.87, far beyond.
    assert choose_threshold(label, probability) == pytest.approx(0.5)
