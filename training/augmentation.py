"""Random changes of a training radiograph.

The next hospital's images differ in detector, window, sharpness, framing, markers and compression; plain validation
folds, from the same hospital, cannot show whether a network minds. What is drawn here is meant to span those
differences, and to part each class from the look that its images happen to have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.tones import GrayImage, match_tones, mix_amplitudes

Donor = Callable[[], GrayImage]
"""Gives another image of the same size, whose class is drawn evenly; called only where one is needed."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far images are changed. Ranges are uniform and symmetric about no change unless said otherwise.

    Attributes:
        tones: probability of taking on a donor's grey distribution, by a random part.
        amplitudes: probability of taking on a donor's amplitude spectrum, by a random part.
        warp: probability of a change of framing, which is made of the next four.
        rotation_deg: largest rotation to either side.
        zoom_in: largest natural logarithm of the enlargement; what is shown then lies anywhere in the image.
        zoom_out: largest natural logarithm of the reduction.
        aspect: largest natural logarithm of the change of width to height, which stays unknown once squashed.
        shift: largest translation beyond that, part of the side.
        gamma: largest natural logarithm of the exponent.
        contrast: largest natural logarithm of the gain about the image's mean.
        brightness: largest offset.
        sharpness: probability of a Gaussian blur, a coarser detector or unsharp masking.
        noise: largest standard deviation of Gaussian noise, which half of the images get.
        jpeg: probability of a lossy round trip.
        erase: probability of up to two rectangles of one grey (markers, cables, patches of film).
        flip: probability of a horizontal flip.
    """

    tones: float = 0.5
    amplitudes: float = 0.5
    warp: float = 0.85
    rotation_deg: float = 12.0
    zoom_in: float = 0.3
    zoom_out: float = 0.18
    aspect: float = 0.25
    shift: float = 0.06
    gamma: float = 0.45
    contrast: float = 0.35
    brightness: float = 0.12
    sharpness: float = 0.6
    noise: float = 0.04
    jpeg: float = 0.2
    erase: float = 0.3
    flip: float = 0.0

    def apply(self, image: GrayImage, random: np.random.Generator, donor: Donor | None = None) -> GrayImage:
        """Give a changed copy; the same generator state and donor give the same copy."""
        if donor is not None and random.random() < self.tones:
            image = match_tones(image, donor(), random.random())
        if donor is not None and random.random() < self.amplitudes:
            image = mix_amplitudes(image, donor(), random.random())
        if random.random() < self.warp:
            image = self._warp(image, random)
        if random.random() < self.flip:
            image = image[:, ::-1]
        if random.random() < self.sharpness:
            image = change_sharpness(image, random)
        image = change_tones(image, random, self.gamma, self.contrast, self.brightness)
        if random.random() < 0.5:
            image = add_noise(image, random, self.noise)
        if random.random() < self.jpeg:
            image = through_jpeg(image, quality=int(random.integers(30, 90)))
        if random.random() < self.erase:
            image = erase(image, random)
        return image

    def _warp(self, image: GrayImage, random: np.random.Generator) -> GrayImage:
        zoom = np.exp(random.uniform(-self.zoom_in, self.zoom_out))
        aspect = np.exp(random.uniform(-self.aspect, self.aspect))
        angle = random.uniform(-self.rotation_deg, self.rotation_deg)
        room = max(0.0, 1 - zoom) / 2 + self.shift
        return warp(image, angle, zoom, aspect, random.uniform(-room, room, 2), reflect=random.random() < 0.5)


def warp(
    image: GrayImage, angle_deg: float, zoom: float, aspect: float, shift: np.ndarray, *, reflect: bool
) -> GrayImage:
    """Show another frame of the image, at the same size.

    Args:
        image: ``(H, W)``.
        angle_deg: rotation.
        zoom: side of the frame, part of the image's; below 1 enlarges.
        aspect: width of the frame over its height, relative to the image's.
        shift: ``(2)`` of the frame's centre, x and y, parts of the sides.
        reflect: continue beyond the image as in a mirror, not in black. Black corners alone would become a sign:
            unchanged images have none, and would be answered differently.
    """
    return warp_by(image, frame_matrix(image.shape, angle_deg, zoom, aspect, shift), reflect=reflect)


def frame_matrix(
    shape: tuple[int, ...], angle_deg: float, zoom: float, aspect: float, shift: np.ndarray
) -> NDArray[np.float64]:
    """Give ``(2, 3)``, from places in the frame of `warp` to the image's, counted from the first pixel's centre."""
    height, width = shape[:2]
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    stretch = np.sqrt(aspect)
    matrix = zoom * np.array([[cosine * stretch, -sine / stretch], [sine * stretch, cosine / stretch]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre + shift * (width, height) - matrix @ centre
    return np.column_stack([matrix, offset])


def warp_by(image: GrayImage, matrix: NDArray[np.float64], *, reflect: bool) -> GrayImage:
    """Show the frame that `frame_matrix` describes; what lies beyond the image is as in `warp`."""
    height, width = image.shape
    border = cv2.BORDER_REFLECT_101 if reflect else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=border)
    return np.asarray(warped, dtype=np.float32)


def change_sharpness(image: GrayImage, random: np.random.Generator) -> GrayImage:
    """Blur, coarsen or sharpen, one of them; widths are drawn for a side of 224 pixels and scaled to the image's."""
    scale = image.shape[0] / 224
    kind = random.integers(3)
    if kind == 0:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), scale * random.uniform(0.4, 1.6)), dtype=np.float32)
    if kind == 1:
        return coarsen(image, random.uniform(0.3, 0.9))
    blurred = cv2.GaussianBlur(image, (0, 0), scale * random.uniform(0.6, 2.5))
    return np.clip(image + np.float32(random.uniform(0.2, 1.2)) * (image - blurred), 0, 1)


def coarsen(image: GrayImage, factor: float) -> GrayImage:
    """Give what a detector with `factor` times the pixels a side would have shown, at the same size."""
    height, width = image.shape
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    coarse = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def change_tones(
    image: GrayImage, random: np.random.Generator, gamma: float, contrast: float, brightness: float
) -> GrayImage:
    """Change gamma, gain about the mean and offset; see `Augmentation` for the ranges."""
    image = np.power(image, np.float32(np.exp(random.uniform(-gamma, gamma))))
    mean = image.mean()
    gain = np.float32(np.exp(random.uniform(-contrast, contrast)))
    offset = np.float32(random.uniform(-brightness, brightness))
    changed: GrayImage = np.clip((image - mean) * gain + mean + offset, 0.0, 1.0)
    return changed


def add_noise(image: GrayImage, random: np.random.Generator, largest: float) -> GrayImage:
    """Add Gaussian noise of a standard deviation up to `largest`."""
    noise = random.normal(0, random.uniform(0, largest), image.shape).astype(np.float32)
    noisy: GrayImage = np.clip(image + noise, 0.0, 1.0)
    return noisy


def through_jpeg(image: GrayImage, quality: int) -> GrayImage:
    """Encode as JPEG of 8 bits and decode."""
    encoded = cv2.imencode(".jpg", np.rint(image * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))
    return decoded.astype(np.float32) / np.float32(255)


def erase(image: GrayImage, random: np.random.Generator) -> GrayImage:
    """Cover one or two rectangles, of up to a quarter of the side, with one grey each."""
    image = image.copy()
    height, width = image.shape
    for _ in range(random.integers(1, 3)):
        rows, columns = (max(1, round(side * random.uniform(0.05, 0.25))) for side in (height, width))
        top, left = random.integers(0, height - rows + 1), random.integers(0, width - columns + 1)
        image[top : top + rows, left : left + columns] = random.random()
    return image
