"""Random changes of a training radiograph, and the fixed ones by which validation is made harder.

The next hospital's images differ in detector, window, sharpness, framing and compression; plain validation folds,
from the same hospital, cannot show whether a network minds. What is drawn here is meant to span those differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

GrayImage = NDArray[np.float32]
"""``(H, W) float32 in [0, 1]``, 0 is black."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far images are changed. Ranges are uniform and symmetric about no change unless said otherwise.

    Attributes:
        warp: probability of a change of framing, which is made of the next three.
        rotation_deg: largest rotation to either side.
        scale: largest relative zoom in or out; the width alone changes by half as much again (aspect).
        shift: largest translation, part of the side.
        gamma: largest natural logarithm of the exponent.
        contrast: largest natural logarithm of the gain about the image's mean.
        brightness: largest offset.
        blur: probability of losing sharpness, by a Gaussian or by a coarser detector.
        noise: largest standard deviation of Gaussian noise, which half of the images get.
        jpeg: probability of a lossy round trip.
        flip: probability of a horizontal flip.
    """

    warp: float = 0.75
    rotation_deg: float = 10.0
    scale: float = 0.15
    shift: float = 0.06
    gamma: float = 0.45
    contrast: float = 0.35
    brightness: float = 0.12
    blur: float = 0.4
    noise: float = 0.03
    jpeg: float = 0.2
    flip: float = 0.0

    def apply(self, image: GrayImage, random: np.random.Generator) -> GrayImage:
        """Give a changed copy; the same generator state gives the same copy."""
        mirror = random.random() < self.flip
        if random.random() < self.warp:
            image = self._warp(image, random)
        if mirror:
            image = image[:, ::-1]
        if random.random() < self.blur:
            image = _lose_sharpness(image, random)
        image = self._change_tones(image, random)
        if random.random() < 0.5:
            noise = random.normal(0, random.uniform(0, self.noise), image.shape).astype(np.float32)
            image = np.clip(image + noise, 0.0, 1.0)
        if random.random() < self.jpeg:
            image = _through_jpeg(image, quality=int(random.integers(30, 90)))
        return image

    def _warp(self, image: GrayImage, random: np.random.Generator) -> GrayImage:
        height, width = image.shape
        angle = np.deg2rad(random.uniform(-self.rotation_deg, self.rotation_deg))
        zoom = 1 + random.uniform(-self.scale, self.scale)
        aspect = 1 + random.uniform(-self.scale / 2, self.scale / 2)
        cosine, sine = np.cos(angle), np.sin(angle)
        matrix = zoom * np.array([[cosine * aspect, -sine], [sine * aspect, cosine]])
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        shift = random.uniform(-self.shift, self.shift, 2) * (width, height)
        offset = centre + shift - matrix @ centre
        # Black corners alone would become a sign: unchanged images have none, and would be answered differently.
        border = cv2.BORDER_CONSTANT if random.random() < 0.5 else cv2.BORDER_REFLECT_101
        transform = np.column_stack([matrix, offset])
        warped = cv2.warpAffine(image, transform, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
        return np.asarray(warped, dtype=np.float32)

    def _change_tones(self, image: GrayImage, random: np.random.Generator) -> GrayImage:
        image = np.power(image, np.float32(np.exp(random.uniform(-self.gamma, self.gamma))))
        mean = image.mean()
        gain = np.float32(np.exp(random.uniform(-self.contrast, self.contrast)))
        offset = np.float32(random.uniform(-self.brightness, self.brightness))
        changed: GrayImage = np.clip((image - mean) * gain + mean + offset, 0.0, 1.0)
        return changed


def _lose_sharpness(image: GrayImage, random: np.random.Generator) -> GrayImage:
    if random.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 1.6)), dtype=np.float32)
    height, width = image.shape
    factor = random.uniform(0.4, 0.9)
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    coarse = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _through_jpeg(image: GrayImage, quality: int) -> GrayImage:
    encoded = cv2.imencode(".jpg", np.rint(image * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))
    return decoded.astype(np.float32) / np.float32(255)
