"""The shifted view of validation images: as another hospital might have made, processed and exported them.

Networks for radiographs saturate on person-grouped folds of one hospital (AUC 0.999 after four epochs) and yet differ
by several per cent at the next hospital, so they are chosen on this view of the same held-out persons. An image gets

1. another frame: cropped to the chest, or wide with collimation borders, black or white; rotated up to 8 degrees;
   another aspect where the image was squashed;
2. another detector and processing: grey distribution and amplitude spectrum of a donor whose class is drawn evenly,
   gamma and window, blur, unsharp masking or a matrix of only 40 to 112 pixels a side;
3. noise, and lossy compression;
4. burned-in side markers and text near the borders.

Each change comes with a probability of its own, so that most images get several and few get none. It differs from
`training.augmentation` on purpose where it can: collimation borders and markers are never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.augmentation import Donor, add_noise, change_sharpness, change_tones, coarsen, through_jpeg, warp
from training.tones import GrayImage, match_tones, mix_amplitudes

_MARKERS = ("L", "R", "PORTABLE", "AP", "SUPINE", "07:42", "ICU 3")


@dataclass(frozen=True, slots=True)
class ShiftedView:
    """Draws one other hospital per image."""

    def apply(self, image: GrayImage, random: np.random.Generator, donor: Donor | None = None) -> GrayImage:
        """Give a changed copy of ``(H, W) float32 in [0, 1]``; the same generator state and donor give the same."""
        image = _another_detector(image, random, donor)
        image = _another_frame(image, random)
        if random.random() < 0.4:
            image = _burn_in_text(image, random)
        if random.random() < 0.5:
            image = add_noise(image, random, largest=0.03)
        if random.random() < 0.3:
            image = through_jpeg(image, quality=int(random.integers(35, 80)))
        return image


def _another_detector(image: GrayImage, random: np.random.Generator, donor: Donor | None) -> GrayImage:
    if donor is not None and random.random() < 0.6:
        image = match_tones(image, donor(), random.uniform(0.3, 1.0))
    if donor is not None and random.random() < 0.4:
        image = mix_amplitudes(image, donor(), random.uniform(0.2, 0.7))
    if random.random() < 0.5:
        image = change_sharpness(image, random)
    elif random.random() < 0.3:
        image = coarsen(image, random.uniform(40, 112) / image.shape[0])
    return change_tones(image, random, gamma=0.4, contrast=0.3, brightness=0.1)


def _another_frame(image: GrayImage, random: np.random.Generator) -> GrayImage:
    angle, aspect = random.uniform(-8, 8), np.exp(random.uniform(-0.2, 0.2))
    if random.random() < 0.6:  # cropped to the chest
        zoom = random.uniform(0.75, 0.95)
        room = (1 - zoom) / 2
        return warp(image, angle, zoom, aspect, random.uniform(-room, room, 2), reflect=True)
    zoom = random.uniform(1.05, 1.3)  # wide: the image lies within collimation borders
    image = warp(image, angle / 2, zoom, aspect, random.uniform(-0.03, 0.03, 2), reflect=False)
    if random.random() < 0.25:
        inside = warp(np.ones_like(image), angle / 2, zoom, aspect, np.zeros(2), reflect=False)
        image = np.where(inside < 1, np.maximum(image, 1 - inside), image)  # film scanned on a white ground
    return np.asarray(image, dtype=np.float32)


def _burn_in_text(image: GrayImage, random: np.random.Generator) -> GrayImage:
    height, width = image.shape
    for _ in range(random.integers(1, 3)):
        text = _MARKERS[random.integers(len(_MARKERS))]
        size = height / 224 * random.uniform(0.4, 0.9) * (1.4 if len(text) == 1 else 0.7)
        (columns, rows), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        left = int(random.choice([0.03 * width, max(0.0, 0.95 * width - columns)]))
        bottom = int(random.choice([0.04 * height + rows, 0.5 * height, 0.96 * height]))
        grey = 1.0 if random.random() < 0.8 else 0.0
        ink = np.zeros((height, width), np.uint8)
        cv2.putText(ink, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
        cover = ink.astype(np.float32) / 255
        image = np.asarray(image * (1 - cover) + grey * cover, dtype=np.float32)
    return image
