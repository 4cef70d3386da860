"""Augmentation: stays an image, can be repeated, and does nothing when told so."""

from __future__ import annotations

import numpy as np
import pytest

from training.augmentation import Augmentation

NOTHING = Augmentation(
    rotation_deg=0, scale=0, shift=0, gamma=0, contrast=0, brightness=0, blur=0, noise=0, jpeg=0, flip=0
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
    from dataclasses import replace

    flipped = replace(NOTHING, flip=1.0).apply(image, np.random.default_rng(0))
    np.testing.assert_allclose(flipped, image[:, ::-1], atol=1e-5)


def test_an_extreme_window_stays_finite() -> None:
    for level in (0.0, 1.0):
        changed = Augmentation().apply(np.full((32, 32), level, np.float32), np.random.default_rng(1))
        assert np.isfinite(changed).all()
