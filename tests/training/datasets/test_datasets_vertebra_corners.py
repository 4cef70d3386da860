"""Corners of vertebrae: the fixed order whatever that of the file, also of a column that leans by 60 degrees."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from training.datasets.landmark_rows import Points
from training.datasets.vertebra_corners import (
    canonical_corners,
    canonical_landmarks,
    column_directions,
    has_same_place,
    is_convex,
    largest_tilt_between,
)

ORDERS = list(itertools.permutations(range(4)))
BODY = np.array([[-10.0, -6.0], [10.0, -6.0], [-10.0, 6.0], [10.0, 6.0]])


def rotation(degrees: float) -> Points:
    """Give the matrix that turns rows of x, y clockwise, as one sees it with y downwards."""
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def leaning(degrees: float, body: Points = BODY, count: int = 5) -> Points:
    """Give a straight column that leans, ``(count, 4, 2)``."""
    middles = np.array([[0.0, 16.0 * place] for place in range(count)])
    return (body + middles[:, np.newaxis]) @ rotation(degrees) + [200, 100]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(map(str, order)))
def test_an_upright_vertebra_is_put_in_order_whatever_the_order_was(order: tuple[int, ...]) -> None:
    assert canonical_corners(BODY[list(order)]).tolist() == BODY.tolist()


@pytest.mark.parametrize("degrees", [-60, -45, -20, 0, 30, 60])
def test_a_leaning_column_is_put_in_order_whatever_the_order_was(degrees: float) -> None:
    column = leaning(degrees)
    for order in ORDERS:
        ordered = canonical_landmarks(column[:, list(order)].reshape(-1, 2))
        np.testing.assert_allclose(ordered, column.reshape(-1, 2))


def test_at_60_degrees_x_and_y_alone_would_be_wrong() -> None:
    (top_left, top_right, bottom_left, _), *_ = leaning(60)
    assert top_right[1] > bottom_left[1], "the top-right corner is the lower one"
    assert top_left[0] > bottom_left[0], "the top-left corner is further to the right than the bottom-left one"


def test_vertebrae_as_high_as_they_are_wide_follow_the_column() -> None:
    square = np.array([[-7.0, -7.0], [7.0, -7.0], [-7.0, 7.0], [7.0, 7.0]])
    column = leaning(50, square)
    np.testing.assert_allclose(canonical_landmarks(column[:, ::-1].reshape(-1, 2)), column.reshape(-1, 2))


def test_a_first_vertebra_that_stands_across_a_sharp_bend_keeps_its_order() -> None:
    """As in a row of AASCE whose T1 lies flat above a column that goes off to the side."""
    column = leaning(-60)
    top = BODY * [2, 1] + column[0].mean(axis=0) + [0, -12]
    points = np.concatenate([top[np.newaxis], column])
    np.testing.assert_allclose(canonical_landmarks(points.reshape(-1, 2)), points.reshape(-1, 2))


def test_what_is_in_order_is_not_touched() -> None:
    sheared = BODY + BODY[:, ::-1] * [0.8, 0]
    assert is_convex(sheared)
    assert canonical_corners(sheared).tolist() == sheared.tolist()


def test_a_sacrum_has_its_top_corners_left_first() -> None:
    column = leaning(0, count=3)
    points = np.concatenate([column[:2].reshape(-1, 2), column[2, [1, 0]]])
    expected = np.concatenate([column[:2].reshape(-1, 2), column[2, [0, 1]]])
    assert canonical_landmarks(points).tolist() == expected.tolist()


def test_a_vertebra_that_lacks_a_corner_takes_the_order_of_the_others() -> None:
    column = leaning(10)
    points = column[:, [1, 3, 2, 0]].copy()
    points[2, 0] = np.nan  # its top-right corner
    expected = column.copy()
    expected[2, 1] = np.nan
    np.testing.assert_allclose(canonical_landmarks(points.reshape(-1, 2)), expected.reshape(-1, 2))


def test_a_vertebra_with_two_corners_in_one_place_takes_the_order_of_the_others() -> None:
    column = leaning(0)
    column[1, 3] = column[1, 2] + [-0.4, 0.2]
    assert has_same_place(column[1])
    assert not has_same_place(column[0])
    np.testing.assert_allclose(canonical_landmarks(column.reshape(-1, 2)), column.reshape(-1, 2))


def test_vertebrae_that_are_not_there_stay_so() -> None:
    points = np.full((40, 2), np.nan)
    points[:12] = leaning(0, count=3).reshape(-1, 2)
    np.testing.assert_array_equal(canonical_landmarks(points), points)
    assert np.isfinite(column_directions(np.full((3, 2), np.nan))).all()


def test_the_largest_tilt_is_between_any_two() -> None:
    bodies = np.stack([BODY @ rotation(angle) + [0, 20 * place] for place, angle in enumerate((5, -12, 0, 20))])
    assert largest_tilt_between(bodies.reshape(-1, 2)) == pytest.approx(32)
    assert largest_tilt_between(bodies[:1].reshape(-1, 2)) == 0
