"""Random changes of a training radiograph with zone scores.

The lungs are found to within a few hundredths of the image, so the frame is moved by about as much; tones, sharpness
and noise differ between hospitals as in `training.augmentation`, but milder, for congestion itself is a matter of tone
and sharpness. A flip puts the right lung on the left one's side, and its scores with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from training.augmentation import add_noise, change_sharpness, change_tones, erase, through_jpeg, warp
from training.tones import GrayImage, match_tones
from training.zone_targets import flip_zones

WIDENING: Final = 0.25
"""Part of its width and height by which an image is read wider than the input on every side, so that a frame that is
moved shows what lies there."""


@dataclass(frozen=True, slots=True)
class ZoneAugmentation:
    """How far images are changed. Ranges are uniform and symmetric about no change unless said otherwise.

    Attributes:
        rotation_deg: largest rotation to either side.
        zoom: largest natural logarithm of the change of size.
        aspect: largest natural logarithm of the change of width to height.
        shift: largest translation, part of the input's side.
        tones: probability of taking on another image's grey distribution, by a random part.
        sharpness: probability of a Gaussian blur, a coarser detector or unsharp masking.
        gamma, contrast, brightness: as of `training.augmentation.Augmentation`.
        noise: largest standard deviation of Gaussian noise, which some images get.
        noisy, jpeg, erase: probability of noise, of a lossy round trip, of up to two rectangles of one grey.
        flip: probability of a horizontal flip.
    """

    rotation_deg: float = 8.0
    zoom: float = 0.12
    aspect: float = 0.1
    shift: float = 0.06
    tones: float = 0.3
    sharpness: float = 0.4
    gamma: float = 0.35
    contrast: float = 0.3
    brightness: float = 0.1
    noise: float = 0.03
    noisy: float = 0.3
    jpeg: float = 0.1
    erase: float = 0.2
    flip: float = 0.5

    def apply(
        self, wide: GrayImage, targets: Tensor, random: np.random.Generator, donor: Callable[[], GrayImage]
    ) -> tuple[GrayImage, Tensor]:
        """Give a changed input and its targets; the same generator state gives the same.

        Args:
            wide: ``(H', W')``, the input widened by `WIDENING` on every side.
            targets: ``(6, K)``.
            random: decides how.
            donor: gives another wide image.

        Returns:
            ``(H, W)`` with H = H' / 1.5, W likewise, and targets ``(6, K)``.
        """
        image = self._framed(wide, random)
        if random.random() < self.tones:
            image = match_tones(image, middle(donor()), random.random())
        if random.random() < self.sharpness:
            image = change_sharpness(image, random)
        image = change_tones(image, random, self.gamma, self.contrast, self.brightness)
        if random.random() < self.noisy:
            image = add_noise(image, random, self.noise)
        if random.random() < self.jpeg:
            image = through_jpeg(image, quality=int(random.integers(40, 90)))
        if random.random() < self.erase:
            image = erase(image, random)
        if random.random() < self.flip:
            flipped, targets = flip_zones(torch.from_numpy(image), targets)
            image = flipped.numpy()
        return image, targets

    def _framed(self, wide: GrayImage, random: np.random.Generator) -> GrayImage:
        zoom = np.exp(random.uniform(-self.zoom, self.zoom))
        aspect = np.exp(random.uniform(-self.aspect, self.aspect))
        angle = random.uniform(-self.rotation_deg, self.rotation_deg)
        shift = random.uniform(-self.shift, self.shift, 2) / (1 + 2 * WIDENING)
        return middle(warp(wide, angle, zoom, aspect, shift, reflect=False))


def widened_side(side: int) -> int:
    """Give the side, pixels, of an image that is the input widened."""
    return round(side * (1 + 2 * WIDENING))


def middle(wide: GrayImage) -> GrayImage:
    """Cut the input out of ``(H', W')``."""
    rows, columns = (round(side / (1 + 2 * WIDENING)) for side in wide.shape)
    top, left = (wide.shape[0] - rows) // 2, (wide.shape[1] - columns) // 2
    return wide[top : top + rows, left : left + columns]
