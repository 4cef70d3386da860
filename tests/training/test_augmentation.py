"""Augmentation: stays an image, can be repeated, and does nothing when told so."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from training.augmentation import Augmentation, warp

NOTHING = Augmentation(
    *(0.0 for _ in fields(Augmentation)),
)


@pytest.fixture
def image() -> np.ndarray:
    image = np.zeros((48, 64), np.float32)
    image[10:30, 5:20] = np.linspace(0.2, 1, 15)
    return image


def test_any_draw_is_an_image_of_the_same_shape(image: np.ndarray) -> None:
    original = image.copy()
    for seed in range(50):
        changed = Augmentation(flip=0.5).apply(image, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1
    np.testing.assert_array_equal(image, original)


def test_the_same_generator_state_draws_the_same(image: np.ndarray) -> None:
    draws = [Augmentation().apply(image, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.01


def test_ranges_of_zero_change_nothing(image: np.ndarray) -> None:
    np.testing.assert_allclose(NOTHING.apply(image, np.random.default_rng(0)), image, atol=1e-6)


def test_a_flip_mirrors_left_and_right(image: np.ndarray) -> None:
    flipped = replace(NOTHING, flip=1.0).apply(image, np.random.default_rng(0))
    np.testing.assert_allclose(flipped, image[:, ::-1], atol=1e-5)


def test_an_extreme_window_stays_finite() -> None:
    for level in (0.0, 1.0):
        changed = Augmentation().apply(np.full((32, 32), level, np.float32), np.random.default_rng(1))
        assert np.isfinite(changed).all()


def test_a_donor_is_only_asked_for_when_it_gives_something(image: np.ndarray) -> None:
    def unwanted() -> np.ndarray:
        raise AssertionError("asked")

    NOTHING.apply(image, np.random.default_rng(0), unwanted)


def test_a_zoom_shows_the_middle_larger() -> None:
    image = np.zeros((41, 41), np.float32)
    image[15:26, 15:26] = 1
    enlarged = warp(image, 0, 0.5, 1, np.zeros(2), reflect=False)
    assert enlarged.sum() == pytest.approx(4 * image.sum(), rel=0.1)
    reduced = warp(image, 0, 2.0, 1, np.zeros(2), reflect=False)
    assert reduced.sum() == pytest.approx(image.sum() / 4, rel=0.2)


def test_a_frame_beyond_the_image_is_black_or_mirrored() -> None:
    image = np.ones((32, 32), np.float32)
    assert warp(image, 0, 1.2, 1, np.zeros(2), reflect=False)[0, 0] == 0
    assert warp(image, 0, 1.2, 1, np.zeros(2), reflect=True)[0, 0] == 1
