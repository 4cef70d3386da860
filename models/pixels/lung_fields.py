"""Where the lungs lie on a frontal chest radiograph: a rectangle that the six zones divide.

The image is registered to an average chest by an affine transform that maximises the enhanced correlation coefficient
(ECC; Evangelidis and Psarakis, IEEE TPAMI 2008), as OpenCV has it, from several starts. The whole of the chest takes
part (ribs, shoulders, diaphragm, borders of the body), so that lungs which disease has made white are found too, where
a threshold would lose them. What is unlike any chest gives a low coefficient; the rectangle is then the whole image.

``average_chest.png`` is the mean of 259 frontal radiographs of adults and children, registered to each other in six
rounds and made symmetric; no person can be made out in it. 120 of them are under CC BY 4.0 (Kermany et al., 2018), 139
for research only (Cohen et al., 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIDE: Final = 96
"""Of the average chest and of the image that is compared with it, pixels."""
LEAST_SIMILARITY: Final = 0.63
"""Correlation, in [-1, 1], below which nothing is taken for lungs."""

_AVERAGE: Final = Path(__file__).with_name("average_chest.png")
_LARGEST_DEVIATION: Final = 3.0  # of a normalised image, in standard deviations; what 0 and 255 of the file stand for
_LUNGS_OF_AVERAGE: Final = (11.0, 12.0, 85.0, 78.0)  # left, top, right, bottom: apices to costophrenic angles
_MARGIN: Final = 0.05
"""Part of the lungs' width and height that the frame is larger on every side: where they end is found to within that,
and fitted with it zone networks agreed better with a radiologist than without."""

_NEIGHBOURHOOD: Final = SIDE / 8  # standard deviation of the Gaussian that local mean and contrast are taken over
_LEAST_CONTRAST: Final = 0.03
_STARTS: Final = (
    # width, height, shift right, shift down of the average chest, in parts of the image
    (1.0, 1.0, 0.0, 0.0),
    (0.8, 0.8, 0.0, 0.0),
    (0.8, 0.8, 0.0, -0.1),
    (1.0, 0.7, 0.0, -0.12),
    (1.15, 1.15, 0.0, 0.0),
    (0.65, 0.65, 0.0, -0.1),
)
_CERTAIN: Final = 0.8  # from here on another start never found a better place
_STEPS: Final = 40
_LEAST_GAIN: Final = 1e-3
_SMOOTHING: Final = 5  # pixels, odd: the Gaussian that ECC lays over both images
_EVERYWHERE: Final = np.full((SIDE, SIDE), 255, np.uint8)
_SCALES: Final = (0.4, 1.6)
_LARGEST_SHEAR: Final = 0.3


@dataclass(frozen=True, slots=True)
class Frame:
    """A rectangle on an image, in parts of its width and height; it may reach beyond the image, [0, 1]."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Part of the image's width."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Part of the image's height."""
        return self.bottom - self.top

    def widened(self, part: float) -> Frame:
        """Give a frame that reaches further on every side, by a part of this one's width and height."""
        across, down = part * self.width, part * self.height
        return Frame(self.left - across, self.top - down, self.right + across, self.bottom + down)


WHOLE_IMAGE: Final = Frame(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class LungFields:
    """What was found.

    Attributes:
        frame: around both lungs together, a little larger; the whole image where they were not found.
        similarity: correlation with the average chest, in [-1, 1].
        found: whether it is high enough to be believed.
    """

    frame: Frame
    similarity: float
    found: bool


def find_lung_fields(image: Floats) -> LungFields:
    """Find the lungs.

    Args:
        image: ``(96, 96) float32 in [0, 1]``, the whole radiograph, stretched.

    Raises:
        ValueError: the image has another size.
    """
    if image.shape != (SIDE, SIDE):
        raise ValueError(f"an image of {SIDE} x {SIDE} is wanted")
    similarity, transform = _register(normalise(image))
    if transform is None or similarity < LEAST_SIMILARITY:
        return LungFields(WHOLE_IMAGE, similarity, False)
    return LungFields(_frame_of(transform), similarity, True)


def normalise(image: Floats) -> Floats:
    """Take off the local mean, divide by the local contrast, and cut at three: ``(h, w)`` in [-3, 3]."""
    deviation = image - cv2.GaussianBlur(image, (0, 0), _NEIGHBOURHOOD)
    contrast = np.sqrt(cv2.GaussianBlur(deviation * deviation, (0, 0), _NEIGHBOURHOOD)) + np.float32(_LEAST_CONTRAST)
    normalised: Floats = np.clip(deviation / contrast, -_LARGEST_DEVIATION, _LARGEST_DEVIATION)
    return normalised


@cache
def _average_chest() -> Floats:
    stored = cv2.imdecode(np.frombuffer(_AVERAGE.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    parts = np.asarray(stored, np.float32) / np.float32(255)
    return (2 * parts - 1) * np.float32(_LARGEST_DEVIATION)


def _register(image: Floats) -> tuple[float, NDArray[np.float32] | None]:
    """Give correlation and the ``(2, 3)`` transform of places of the average chest into the image; None for none."""
    best: tuple[float, NDArray[np.float32] | None] = (-1.0, None)
    for start in _STARTS:
        found = _register_from(image, start)
        if found is not None and found[0] > best[0]:
            best = found
        if best[0] >= _CERTAIN:
            break
    return best


def _register_from(image: Floats, start: tuple[float, float, float, float]) -> tuple[float, NDArray[np.float32]] | None:
    width, height, right, down = start
    transform = np.array(
        [[width, 0, ((1 - width) / 2 + right) * SIDE], [0, height, ((1 - height) / 2 + down) * SIDE]], np.float32
    )
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _LEAST_GAIN)
    try:
        similarity, found = cv2.findTransformECC(
            _average_chest(), image, transform, cv2.MOTION_AFFINE, criteria, _EVERYWHERE, _SMOOTHING
        )
    except cv2.error:  # it left the image, or nothing in it correlates
        return None
    is_chest_like = (
        all(_SCALES[0] < found[axis, axis] < _SCALES[1] for axis in (0, 1))
        and max(abs(found[0, 1]), abs(found[1, 0])) < _LARGEST_SHEAR
        and np.isfinite(found).all()
    )
    return (float(similarity), np.asarray(found, np.float32)) if is_chest_like else None


def _frame_of(transform: NDArray[np.float32]) -> Frame:
    """Give the upright rectangle of the transformed lungs: their centre, and width and height without the rotation."""
    left, top, right, bottom = _LUNGS_OF_AVERAGE
    centre = transform @ np.array([(left + right) / 2, (top + bottom) / 2, 1], np.float32)
    reach = np.array([(right - left) / 2 * transform[0, 0], (bottom - top) / 2 * transform[1, 1]])
    # Half a pixel on: places of pixels are those of their centres.
    first, last = (centre - reach + 0.5) / SIDE, (centre + reach + 0.5) / SIDE
    return Frame(float(first[0]), float(first[1]), float(last[0]), float(last[1])).widened(_MARGIN)
