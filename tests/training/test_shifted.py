"""The shifted view: an image as of another hospital, repeatable, with changes that are never trained on."""

from __future__ import annotations

import numpy as np
import pytest

from training.shifted import ShiftedView


@pytest.fixture
def image() -> np.ndarray:
    image = np.full((96, 96), 0.3, np.float32)
    image[20:70, 20:40] = np.linspace(0.2, 0.9, 20)
    return image


def view(image: np.ndarray, seed: int) -> np.ndarray:
    donor = np.random.default_rng(99).beta(2, 4, image.shape).astype(np.float32)
    return ShiftedView().apply(image, np.random.default_rng(seed), lambda: donor)


def test_any_draw_is_an_image_of_the_same_shape_and_leaves_the_original(image):
    original = image.copy()
    for seed in range(80):
        shifted = view(image, seed)
        assert shifted.shape == image.shape
        assert shifted.dtype == np.float32
        assert shifted.min() >= 0
        assert shifted.max() <= 1
    np.testing.assert_array_equal(image, original)


def test_the_same_draw_is_the_same_view(image):
    np.testing.assert_array_equal(view(image, 5), view(image, 5))
    assert np.abs(view(image, 5) - view(image, 6)).max() > 0.05


def test_some_views_have_collimation_borders_and_some_burned_in_text(image):
    corners = [view(image, seed)[:3, :3] for seed in range(60)]
    assert sum(corner.mean() < 0.05 for corner in corners) >= 3
    assert sum(corner.mean() > 0.95 for corner in corners) >= 2
    grey = np.full((96, 96), 0.4, np.float32)
    white = [ShiftedView().apply(grey, np.random.default_rng(seed)).max() for seed in range(60)]
    assert 10 < sum(largest > 0.95 for largest in white) < 50


def test_it_works_without_a_donor_and_on_a_constant_image():
    for seed in range(30):
        assert np.isfinite(ShiftedView().apply(np.zeros((64, 64), np.float32), np.random.default_rng(seed))).all()
