"""Measures of zone scores, against hand-worked values and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from models.zones import Congestion
from training.zone_evaluation import HEADLINES, ZoneAnswers, zone_metrics

UNGRADABLE = int(Congestion.UNGRADABLE)
PERSONS = [f"p{i}" for i in range(40)]


def random_grades(seed: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (count, 6))


def test_a_perfect_answer_scores_one_though_a_grade_never_occurs() -> None:
    truth = np.tile([0, 1, 2, 0, 1, 2], (4, 1))  # nobody is severe
    truth[1] = [1, 1, 0, 2, 2, 2]
    measured = zone_metrics(truth, ZoneAnswers.of_reader(truth), groups=PERSONS[:4], bootstrap=50)
    for name in ("kappa_quadratic", "f1_macro", "accuracy", "mean_csi_pearson"):
        assert measured[name] == pytest.approx(1.0)
    assert measured["mae_zone"] == measured["mean_csi_mae"] == measured["mean_csi_rmse"] == 0


def test_kappa_is_that_of_scikit_learn() -> None:
    truth, answer = random_grades(1), random_grades(2)
    answer[::2] = truth[::2]
    measured = zone_metrics(truth, ZoneAnswers.of_reader(answer), groups=PERSONS, bootstrap=0)
    expected = cohen_kappa_score(truth.ravel(), answer.ravel(), weights="quadratic")
    assert measured["kappa_quadratic"] == pytest.approx(expected, abs=1e-6)
    left_mid = cohen_kappa_score(truth[:, 3], answer[:, 3], weights="quadratic")
    assert measured["per_zone"]["left_mid"]["kappa_quadratic"] == pytest.approx(left_mid, abs=1e-6)
    assert measured["intervals"] == {}


def test_what_the_reader_could_not_judge_is_in_no_measure() -> None:
    truth = np.array([[0, 1, 2, 3, UNGRADABLE, 1], [UNGRADABLE] * 6])
    answer = np.array([[0, 1, 2, 2, 3, 1], [3] * 6])
    measured = zone_metrics(truth, ZoneAnswers.of_reader(answer), groups=["a", "b"], bootstrap=0)
    assert (measured["n"], measured["gradable"]) == (2, 5)
    assert measured["mae_zone"] == pytest.approx(1 / 5)
    assert measured["accuracy"] == pytest.approx(4 / 5)
    # Means over the same five zones: 7/5 and 6/5.
    assert measured["mean_csi_mae"] == pytest.approx(1 / 5)
    assert measured["mean_csi_pearson"] is None
    assert measured["per_zone"]["right_inf"]["mae_zone"] is None


def test_calling_a_zone_ungradable_is_wrong_and_improves_no_error() -> None:
    probability = np.full((1, 6, 5), 0.01)
    probability[0, :, 1] = 0.4
    probability[0, 0, UNGRADABLE] = 0.9
    truth = np.array([[3, 1, 1, 1, 1, 1]])
    answers = ZoneAnswers.of_probability(probability)
    assert answers.called[0].tolist() == [UNGRADABLE, 1, 1, 1, 1, 1]
    measured = zone_metrics(truth, answers, groups=["a"], bootstrap=0)
    assert measured["accuracy"] == pytest.approx(5 / 6, abs=1e-6)
    assert measured["mae_zone"] == pytest.approx(2 / 6, abs=1e-6)
    assert measured["per_zone"]["right_sup"]["confusion_matrix"][3] == [0, 0, 0, 0, 1]


def test_intervals_hold_the_figure_and_widen_when_images_share_persons() -> None:
    truth, answer = random_grades(3), random_grades(3)
    answer[:15] = random_grades(4)[:15]
    each = zone_metrics(truth, ZoneAnswers.of_reader(answer), groups=PERSONS, bootstrap=300)
    pairs = zone_metrics(truth, ZoneAnswers.of_reader(answer), groups=[f"p{i // 8}" for i in range(40)], bootstrap=300)
    for name in HEADLINES:
        low, high = each["intervals"][name]
        assert low <= each[name] <= high
    width = {id(m): np.ptp(m["intervals"]["kappa_quadratic"]) for m in (each, pairs)}
    assert width[id(pairs)] > width[id(each)]


def test_the_same_answers_give_the_same_bytes_under_stable_keys() -> None:
    truth, answer = random_grades(5), random_grades(6)
    first, second = (
        json.dumps(zone_metrics(truth, ZoneAnswers.of_reader(answer), groups=PERSONS, bootstrap=20), allow_nan=False)
        for _ in range(2)
    )
    assert first == second
    assert list(json.loads(first)) == [*HEADLINES, "per_zone", "n", "gradable", "intervals"]
