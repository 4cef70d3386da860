"""What probabilities say of zones: the median score, when a zone is ungradable, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from models.zones import CLASS_NAMES, Congestion, grade_zones


def test_classes_have_names_in_the_order_of_the_outputs() -> None:
    assert CLASS_NAMES == ("normal", "mild", "moderate", "severe", "ungradable")


@pytest.mark.parametrize(
    ("probability", "called", "expected"),
    [
        ([1.0, 0.0, 0.0, 0.0, 0.0], Congestion.NORMAL, 0.0),
        # The likeliest class is 0, but more than half lies above it.
        ([0.4, 0.25, 0.2, 0.15, 0.0], Congestion.MILD, 1.1),
        ([0.1, 0.1, 0.2, 0.6, 0.0], Congestion.SEVERE, 2.3),
        # Scores are judged among the graded classes alone.
        ([0.0, 0.3, 0.3, 0.0, 0.4], Congestion.MILD, 1.5),
        ([0.0, 0.0, 0.3, 0.1, 0.6], Congestion.UNGRADABLE, 2.25),
    ],
)
def test_a_zone_gets_the_median_of_its_graded_classes(
    probability: list[float], called: Congestion, expected: float
) -> None:
    zones = grade_zones(np.array([probability], np.float32))
    assert zones.called.tolist() == [called]
    assert zones.expected[0] == pytest.approx(expected, abs=1e-6)
    assert zones.certainty[0] == pytest.approx(probability[called], abs=1e-6)


def test_the_median_has_the_least_expected_absolute_error() -> None:
    probability = np.random.default_rng(0).dirichlet([0.7] * 4, 500)
    graded = grade_zones(np.column_stack([probability, np.zeros(500)])).graded
    errors = np.abs(np.arange(4)[:, None] - np.arange(4)) @ probability.T  # (guess, case)
    assert np.allclose(errors[graded, np.arange(500)], errors.min(axis=0))


def test_the_shape_of_the_zones_is_kept_and_nothing_gradable_is_no_division_by_zero() -> None:
    zones = grade_zones(np.broadcast_to(np.eye(5)[4], (2, 6, 5)))
    assert zones.called.shape == zones.expected.shape == (2, 6)
    assert (zones.called == Congestion.UNGRADABLE).all()
    assert np.isfinite(zones.expected).all()
