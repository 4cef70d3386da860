"""Faults and repairs of landmarks: vertebrae are sorted where that explains everything, and points never move."""

from __future__ import annotations

import numpy as np
import pytest
from landmark_sets import SIZE, column

from training.datasets.landmark_faults import UNUSABLE, LandmarkFault, LandmarkRepair, find_faults, repaired
from training.datasets.landmark_rows import Points


def bodies() -> Points:
    return column().reshape(17, 4, 2)


def test_a_sound_spine_is_left_alone() -> None:
    points, repairs = repaired(column())
    assert repairs == ()
    np.testing.assert_array_equal(points, column())
    assert find_faults(points, SIZE, (0.0, 0.0, 0.0)) == ()


@pytest.mark.parametrize("order", [[1, 0], [4, 3, 2, 1, 0]], ids=["two", "five"])
def test_vertebrae_that_are_only_listed_in_another_order_are_sorted(order: list[int]) -> None:
    points = bodies()
    points[: len(order)] = points[order]
    assert find_faults(points.reshape(-1, 2), SIZE) == (LandmarkFault.OUT_OF_ORDER,)
    sorted_points, repairs = repaired(points.reshape(-1, 2))
    assert repairs == (LandmarkRepair.VERTEBRAE_SORTED,)
    np.testing.assert_array_equal(sorted_points, column())
    assert find_faults(sorted_points, SIZE) == ()


def test_corners_are_sorted_within_sorted_vertebrae() -> None:
    points = bodies()[[1, 0, *range(2, 17)]][:, [3, 1, 0, 2]]
    sorted_points, repairs = repaired(points.reshape(-1, 2))
    assert repairs == (LandmarkRepair.VERTEBRAE_SORTED, LandmarkRepair.CORNERS_SORTED)
    np.testing.assert_array_equal(sorted_points, column())


def test_a_vertebra_that_is_drawn_twice_is_not_guessed_away() -> None:
    points = bodies()
    points[9] = points[3] + [0, 1]  # a vertebra is missing and another one there twice
    unsorted, repairs = repaired(points.reshape(-1, 2))
    assert repairs == ()
    np.testing.assert_array_equal(unsorted, points.reshape(-1, 2))
    assert LandmarkFault.OUT_OF_ORDER in find_faults(unsorted, SIZE)
    assert set(UNUSABLE) == {LandmarkFault.OUT_OF_ORDER, LandmarkFault.DRAWN_TWICE}


def test_repairs_give_the_points_of_the_file_and_no_others() -> None:
    random = np.random.default_rng(3)
    points = bodies()[random.permutation(17)][:, random.permutation(4)].reshape(-1, 2)
    ordered, _ = repaired(points)
    assert sorted(map(tuple, ordered)) == sorted(map(tuple, points))


def test_overlap_is_measured_against_the_smaller_of_two_neighbours() -> None:
    points = bodies()  # 9.6 high, 13.6 apart
    points[8] -= [0, 13.6 - 0.7 * 9.6]
    assert find_faults(points.reshape(-1, 2), SIZE) == (LandmarkFault.OVERLAP,)
    points[8] -= [0, 0.4 * 9.6]
    assert find_faults(points.reshape(-1, 2), SIZE) == (LandmarkFault.DRAWN_TWICE,)


def test_a_landmark_may_lie_two_pixels_outside_and_no_more() -> None:
    for beyond, faults in ((1.9, ()), (2.1, (LandmarkFault.OUTSIDE,))):
        points = column() - [column()[:, 0].min() + beyond, 0]
        assert find_faults(points, SIZE) == faults


@pytest.mark.parametrize(("given", "differs"), [(0.9, False), (1.1, True)])
def test_the_main_angle_may_be_a_degree_off(given: float, differs: bool) -> None:
    faults = find_faults(column(), SIZE, (given, 0.0, 0.0))
    assert (LandmarkFault.ANGLES_DIFFER in faults) is differs


def test_landmarks_that_are_not_there_are_no_fault() -> None:
    points = column()
    points[20:24] = np.nan
    points[50] = np.nan
    kept, repairs = repaired(points)
    assert repairs == ()
    np.testing.assert_array_equal(kept, points)
    assert find_faults(points, SIZE) == ()
