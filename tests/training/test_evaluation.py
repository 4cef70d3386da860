"""Measures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation import (
    average_precision,
    binary_metrics,
    choose_threshold,
    fit_temperature,
    log_loss,
    positive_probability,
    roc_auc,
)


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
    metrics = binary_metrics(label, probability, 0.5)
    assert metrics["confusion_matrix"] == {"tn": 2, "fp": 2, "fn": 1, "tp": 5}
    assert metrics["accuracy"] == 0.7
    assert metrics["precision"] == pytest.approx(5 / 7)
    assert metrics["recall"] == metrics["sensitivity"] == pytest.approx(5 / 6)
    assert metrics["specificity"] == 0.5
    assert metrics["f1"] == pytest.approx(10 / 13)
    assert metrics["n"] == 10


def test_a_share_of_nothing_is_none() -> None:
    assert binary_metrics(np.array([0, 1]), np.array([0.1, 0.2]), 0.9)["precision"] is None


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
