"""Changes of films with landmarks: what moves pixels moves landmarks."""

from __future__ import annotations

import numpy as np
import pytest
from landmark_sets import column
from numpy.typing import NDArray

from models.spine.cobb import cobb_angles
from models.spine.schemas import SCHEMAS
from training.augmentation import frame_matrix, warp_by
from training.landmark_augmentation import LandmarkAugmentation, flip_landmarks, warp_points, within

AASCE = SCHEMAS["aasce68"]
SIZE = (192, 96)


def _spots(points: NDArray[np.float64]) -> NDArray[np.float32]:
    """A soft spot about each point, so that its place can be read from the pixels."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    spots = [np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / 2.0**2) for x, y in points]
    return np.max(spots, axis=0).astype(np.float32)


def _centre_of(image: NDArray[np.float32]) -> NDArray[np.float64]:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    mass = image / image.sum()
    return np.array([(columns * mass).sum(), (rows * mass).sum()])


@pytest.mark.parametrize("point", [(48.0, 96.0), (30.5, 120.25), (60.0, 70.0)])
def test_a_landmark_goes_where_its_pixels_go(point: tuple[float, float]) -> None:
    points = np.array([point])
    matrix = frame_matrix(SIZE, 9.0, 1.1, 1.08, np.array([0.03, -0.02]))
    moved = warp_points(points, matrix)
    np.testing.assert_allclose(_centre_of(warp_by(_spots(points), matrix, reflect=False)), moved[0], atol=0.05)
    assert np.hypot(*(moved[0] - points[0])) > 2


def test_a_rotation_turns_every_vertebra_and_no_angle_between_them() -> None:
    tilts = [4.0 * place - 30 for place in range(17)]
    points = column(SIZE, tilts)
    matrix = frame_matrix(SIZE, 7.0, 1.0, 1.0, np.zeros(2))
    before, after = (cobb_angles(AASCE, each, SIZE[0])[0] for each in (points, warp_points(points, matrix)))
    assert before.degrees == pytest.approx(64, abs=1e-6)
    assert after.degrees == pytest.approx(64, abs=1e-6)


def test_a_flip_makes_the_left_corner_the_right_one() -> None:
    points = column(SIZE)
    image = _spots(points[:1])
    flipped, mirrored = flip_landmarks(image, points, AASCE)
    np.testing.assert_allclose(_centre_of(flipped), mirrored[1], atol=0.05)  # it is T1's right corner now
    assert mirrored[0, 0] < mirrored[1, 0]
    np.testing.assert_allclose(mirrored[:, 1], points[:, 1])


def test_two_flips_are_none() -> None:
    rng = np.random.default_rng(0)
    image, points = rng.random(SIZE, dtype=np.float32), rng.random((68, 2)) * 90
    again = flip_landmarks(*flip_landmarks(image, points, AASCE), AASCE)
    np.testing.assert_array_equal(again[0], image)
    np.testing.assert_allclose(again[1], points)


def test_landmarks_beyond_the_input_are_not_there() -> None:
    points = np.array([[0.0, 0.0], [-0.1, 5.0], [96.0, 192.0], [5.0, 192.5], [np.nan, 3.0]])
    assert np.isnan(within(points, SIZE)).any(axis=1).tolist() == [False, True, False, True, True]


def test_the_same_draw_gives_the_same_change_and_no_strength_none() -> None:
    changes = LandmarkAugmentation(AASCE, flip=0.5)
    image, points = np.random.default_rng(1).random(SIZE, dtype=np.float32), column(SIZE)
    first, second = (changes.apply(image, points, np.random.default_rng(7), lambda: image) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], image)
    still = LandmarkAugmentation(AASCE, flip=0.0, strength=0.0)
    same, places = still.apply(image, points, np.random.default_rng(7), lambda: image)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(places, points)


def test_without_framing_a_column_stays_at_its_height_in_the_film() -> None:
    image, points = np.random.default_rng(1).random(SIZE, dtype=np.float32), column(SIZE)
    across = set()
    for seed in range(8):
        still = LandmarkAugmentation(AASCE, flip=0.0, framing=0.0, rotation_deg=0.0)
        moving = LandmarkAugmentation(AASCE, flip=0.0, rotation_deg=0.0)
        places, moved = (
            changes.apply(image, points, np.random.default_rng(seed), lambda: image)[1] for changes in (still, moving)
        )
        np.testing.assert_allclose(places[:, 1], points[:, 1], atol=1e-9)
        assert np.nanmax(np.abs(moved[:, 1] - points[:, 1])) > 0.5
        across.add(round(float(places[0, 0]), 3))
    assert len(across) > 1  # sideways it may stand anywhere


def test_changes_keep_range_and_shape_and_the_black_of_the_letterbox() -> None:
    image = np.zeros(SIZE, np.float32)
    image[:, 20:70] = np.random.default_rng(2).random((SIZE[0], 50), dtype=np.float32) * 0.5 + 0.25
    changes = LandmarkAugmentation(AASCE, flip=0.5, erase=0.0)
    for seed in range(20):
        changed, _ = changes.apply(image, column(SIZE), np.random.default_rng(seed), lambda: image)
        assert changed.shape == SIZE
        assert changed.dtype == np.float32
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert (changed == 0).mean() > 0.2
