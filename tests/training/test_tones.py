"""A donor's look: its grey distribution and its amplitudes, and nothing of its anatomy."""

from __future__ import annotations

import numpy as np
import pytest

from training.tones import match_tones, mix_amplitudes


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).beta(2, 5, (64, 64)).astype(np.float32)


@pytest.fixture
def donor() -> np.ndarray:
    return np.random.default_rng(2).beta(6, 2, (64, 64)).astype(np.float32)


def test_full_strength_gives_the_donors_distribution_and_keeps_the_order(image, donor):
    matched = match_tones(image, donor, 1.0)
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    np.testing.assert_allclose(np.quantile(matched, levels), np.quantile(donor, levels), atol=0.04)
    order = np.argsort(image, axis=None)
    assert (np.diff(matched.ravel()[order]) >= -1e-6).all()


@pytest.mark.parametrize("change", [match_tones, mix_amplitudes])
def test_no_strength_changes_nothing(change, image, donor):
    np.testing.assert_allclose(change(image, donor, 0.0), image, atol=1e-5)


def test_a_donor_may_have_another_size_and_a_constant_image_stays_one(donor):
    constant = np.full((32, 48), 0.25, np.float32)
    matched = match_tones(constant, donor, 1.0)
    assert np.isfinite(matched).all()
    assert np.ptp(matched) == 0


def test_full_strength_gives_the_donors_amplitudes_and_keeps_the_phase(image, donor):
    image, donor = 0.4 + 0.1 * image, 0.4 + 0.1 * donor  # far from black and white, so that nothing is clipped
    mixed = np.fft.rfft2(mix_amplitudes(image, donor, 1.0))
    np.testing.assert_allclose(np.abs(mixed), np.abs(np.fft.rfft2(donor)), rtol=1e-2, atol=1e-2)
    difference = np.angle(mixed / np.fft.rfft2(image))
    assert np.median(np.abs(difference)) < 1e-3


def test_constant_images_have_no_phase_and_stay_finite(donor):
    assert np.isfinite(mix_amplitudes(np.zeros((64, 64), np.float32), donor, 0.5)).all()
