"""Random changes of a radiograph with landmarks. What moves pixels moves landmarks, and Cobb angles with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.spine.schemas import LandmarkSchema
from training.augmentation import (
    add_noise,
    change_sharpness,
    change_tones,
    erase,
    frame_matrix,
    through_jpeg,
    warp_by,
)
from training.tones import GrayImage, match_tones

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LandmarkAugmentation:
    """How far films are changed. Ranges are uniform and symmetric about no change unless said otherwise.

    Attributes:
        schema: whose sides a flip swaps.
        strength: factor of every range; 0 changes nothing but, by `flip`, the side.
        framing: factor of what moves the column up and down in its film: zoom, aspect, and the vertical shift. Films
            of whole spines are cut from T1 to the sacrum, so that where a vertebra stands in its film tells its level
            better than its looks do.
        rotation_deg: largest rotation to either side.
        zoom: largest natural logarithm of the change of size.
        aspect: largest natural logarithm of the change of width to height.
        shift: largest translation, part of the input's side.
        tones, sharpness, noisy, jpeg, erase: probabilities of what is named so.
        gamma, contrast, brightness, noise: see `training.augmentation.Augmentation`.
        flip: probability of a horizontal flip.
    """

    schema: LandmarkSchema
    flip: float
    strength: float = 1.0
    framing: float = 1.0
    rotation_deg: float = 10.0
    zoom: float = 0.15
    aspect: float = 0.12
    shift: float = 0.06
    tones: float = 0.3
    sharpness: float = 0.3
    gamma: float = 0.4
    contrast: float = 0.3
    brightness: float = 0.1
    noise: float = 0.04
    noisy: float = 0.3
    jpeg: float = 0.1
    erase: float = 0.2

    def apply(
        self, image: GrayImage, points: Points, random: np.random.Generator, donor: Callable[[], GrayImage]
    ) -> tuple[GrayImage, Points]:
        """Give a changed input and its landmarks; the same generator state gives the same.

        Args:
            image: ``(H, W) float32 in [0, 1]``, padded with 0 by the letterbox.
            points: ``(K, 2)`` input pixels; NaN for landmarks that are not there.
            random: decides how.
            donor: gives another input of the set.

        Returns:
            ``(H, W)``, and ``(K, 2)`` with NaN also for landmarks that lie beyond the input now.
        """
        image, points = image.copy(), points.copy()
        if self.strength:
            image = self._toned(image, random, donor)
            image, points = self._framed(image, points, random)
            if random.random() < self.strength * self.erase:
                image = erase(image, random)
        if random.random() < self.flip:
            image, points = flip_landmarks(image, points, self.schema)
        return image, within(points, image.shape)

    def _toned(self, image: GrayImage, random: np.random.Generator, donor: Callable[[], GrayImage]) -> GrayImage:
        strength, film = self.strength, _film(image)
        part = image[film]
        if random.random() < strength * self.tones:
            other = donor()
            part = match_tones(part, other[_film(other)], random.random())
        if random.random() < strength * self.sharpness:
            part = change_sharpness(part, random)
        part = change_tones(part, random, strength * self.gamma, strength * self.contrast, strength * self.brightness)
        if random.random() < strength * self.noisy:
            part = add_noise(part, random, self.noise)
        if random.random() < strength * self.jpeg:
            part = through_jpeg(part, quality=int(random.integers(40, 90)))
        image[film] = part
        return image

    def _framed(self, image: GrayImage, points: Points, random: np.random.Generator) -> tuple[GrayImage, Points]:
        angle, zoom, aspect = (
            self.strength * random.uniform(-most, most) for most in (self.rotation_deg, self.zoom, self.aspect)
        )
        shift = self.strength * random.uniform(-self.shift, self.shift, 2) * (1.0, self.framing)
        zoom, aspect = self.framing * zoom, self.framing * aspect
        matrix = frame_matrix(image.shape, angle, float(np.exp(zoom)), float(np.exp(aspect)), shift)
        return warp_by(image, matrix, reflect=False), warp_points(points, matrix)


def warp_points(points: Points, matrix: NDArray[np.float64]) -> Points:
    """Give landmarks ``(K, 2)`` where `training.augmentation.warp_by` with the same matrix puts what they mark.

    The matrix goes from places of the new image to those of the old one and counts from the centre of the first pixel;
    landmarks count from its corner.
    """
    linear, offset = matrix[:, :2], matrix[:, 2]
    moved: Points = (points - 0.5 - offset) @ np.linalg.inv(linear).T + 0.5
    return moved


def flip_landmarks(image: GrayImage, points: Points, schema: LandmarkSchema) -> tuple[GrayImage, Points]:
    """Flip an image horizontally; the left corner of a vertebra becomes its right one."""
    mirrored = points[list(schema.mirrored_order)] * np.array([-1, 1]) + np.array([image.shape[1], 0])
    return np.ascontiguousarray(image[:, ::-1]), mirrored


def within(points: Points, shape: tuple[int, ...]) -> Points:
    """Give landmarks with NaN for those that lie beyond an image of this shape."""
    height, width = shape[:2]
    inside = ((points >= 0) & (points <= np.array([width, height]))).all(axis=1, keepdims=True)
    return np.where(inside, points, np.nan)


def _film(image: GrayImage) -> tuple[slice, slice]:
    """Give rows and columns between which anything is not black: what the letterbox padded stays black."""
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
