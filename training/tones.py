"""Giving one radiograph the look of another, its donor: grey distribution and amplitude spectrum.

Look is what differs between hospitals (detector, window, sharpness, noise), and within one set it can give the class
away: in the public paediatric set the spread of the grey values at a scale of a few pixels alone tells pneumonia from
normal with an AUC of 0.86. Donors whose class is drawn evenly take that sign from the network.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

GrayImage = NDArray[np.float32]
"""``(H, W) float32 in [0, 1]``, 0 is black."""

_LEVELS: Final = np.linspace(0, 1, 65)
_STEPS: Final = np.linspace(0, 1, 256)
_SMALLEST_STEP: Final = 1e-6
_STRIDE: Final = 3  # quantiles of every ninth pixel are close enough, and cost a ninth


def match_tones(image: GrayImage, donor: GrayImage, strength: float) -> GrayImage:
    """Move the grey values towards the donor's distribution (histogram matching by 65 quantiles).

    Args:
        image: ``(H, W)``.
        donor: of any size.
        strength: 0 leaves the image, 1 gives it the donor's distribution.
    """
    have = np.quantile(image[::_STRIDE, ::_STRIDE], _LEVELS)
    want = np.quantile(donor[::_STRIDE, ::_STRIDE], _LEVELS)
    have = np.maximum.accumulate(have + np.arange(len(have)) * _SMALLEST_STEP)  # strictly rising, as interp wants
    curve = np.interp(_STEPS, have, want)
    matched = np.interp(image.ravel(), _STEPS, curve).reshape(image.shape)
    mixed: GrayImage = ((1 - strength) * image + strength * matched).astype(np.float32)
    return mixed


def mix_amplitudes(image: GrayImage, donor: GrayImage, strength: float) -> GrayImage:
    """Mix the amplitude spectrum with the donor's and keep the phase, which carries the anatomy.

    Source: Q. Xu et al., A Fourier-based Framework for Domain Generalization, CVPR 2021, equation 4.

    Args:
        image: ``(H, W)``.
        donor: ``(H, W)``.
        strength: 0 leaves the image, 1 gives it the donor's amplitudes.
    """
    spectrum = np.fft.rfft2(image)
    amplitude = np.abs(spectrum)
    mixed = (1 - strength) * amplitude + strength * np.abs(np.fft.rfft2(donor))
    changed = np.fft.irfft2(spectrum * (mixed / np.maximum(amplitude, 1e-8)), s=image.shape)
    return np.clip(changed, 0, 1).astype(np.float32)
