"""Finds near duplicates: radiographs that a set holds twice, cut out and scaled differently, as by two hands.

Their pixels differ, and so do their names, so that neither a digest nor a table of persons tells. Two pictures of one
exposure are a similarity apart, without a turn: nearly all the points that look alike in both lie within a pixel of it.
Two exposures of one person are not, for nobody stands twice in the same way.

Points are those of SIFT (Lowe, Distinctive image features from scale-invariant keypoints, IJCV 2004), compared by
Hellinger's distance (Arandjelovic and Zisserman, Three things everyone should know to improve object retrieval, CVPR
2012).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec

Floats = NDArray[np.float32]

_LONGEST_SIDE: Final = 512
"""Pixels that points are looked for in; a film is not enlarged."""

_POINTS: Final = 400
_STRONGEST: Final = 120
"""Points, and how many of them every pair is first looked at by."""

_CONTRAST: Final = 0.02
_ALIKE: Final = 0.93
_ENOUGH_ALIKE: Final = 8
"""Cosine from which on two points are alike at first sight, and how many such make a pair worth a second one."""

_RATIO: Final = 0.8
"""Of the distances to the nearest and the second nearest point, up to which the nearest one is meant (Lowe, 7.1)."""

_WITHIN: Final = 1.0
_LEAST_POINTS: Final = 40
_LEAST_SHARE: Final = 0.65
_MOST_TURN: Final = 0.2
"""Two are one radiograph when so many points, and this share of those that are meant, lie within so many pixels of one
similarity that turns by so many degrees at most. Of the 481 films of AASCE, the 24 pairs that are one have 74 points
and 0.80 at least, and turn by 0.02 degrees at most; the next one has 42 points, 0.46 and 0.3 degrees."""


@dataclass(frozen=True, slots=True, eq=False)
class Keypoints:
    """Points of a radiograph, the most distinct first.

    Attributes:
        places: ``(M, 2)`` x, y in pixels of the original from the top-left corner of the top-left pixel.
        descriptors: ``(M, 128)``, of length 1.
        unit: pixels of the original in one of those that points were looked for in.
    """

    places: Floats
    descriptors: Floats
    unit: float


@dataclass(frozen=True, slots=True, eq=False)
class NearDuplicate:
    """Two pictures of one radiograph.

    Attributes:
        first, second: their places in what was searched, the first the lower.
        transform: ``(2, 3)``, takes x, y, 1 of the first to x, y of the second; in pixels of the originals.
    """

    first: int
    second: int
    transform: NDArray[np.float64]

    def to_second(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give where points ``(K, 2)`` of the first lie in the second."""
        return points @ self.transform[:, :2].T + self.transform[:, 2]


def keypoints_of(radiograph: Radiograph) -> Keypoints:
    """Find points of a radiograph that would be found again in another picture of it."""
    rows, columns = radiograph.rows, radiograph.columns
    unit = max(1.0, max(rows, columns) / _LONGEST_SIDE)
    spec = InputSpec(height=max(8, round(rows / unit)), width=max(8, round(columns / unit)))
    greys = np.rint(radiograph.to_input(spec) * 255).astype(np.uint8)
    evened = cv2.createCLAHE(clipLimit=4.0, tileGridSize=(8, 8)).apply(greys)
    found, descriptors = cv2.SIFT.create(nfeatures=_POINTS, contrastThreshold=_CONTRAST).detectAndCompute(evened, None)
    if not found:
        return Keypoints(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32), unit)
    order = np.argsort([-point.response for point in found], kind="stable")[:_POINTS]
    places = np.array([found[place].pt for place in order]) + 0.5  # of OpenCV, 0 is the middle of the first pixel
    places *= [columns / spec.width, rows / spec.height]
    shares = descriptors[order] / np.maximum(descriptors[order].sum(axis=1, keepdims=True), 1e-9)
    return Keypoints(places.astype(np.float32), np.sqrt(shares).astype(np.float32), unit)


def find_near_duplicates(radiographs: Sequence[Keypoints]) -> list[NearDuplicate]:
    """Find every pair that is one radiograph.

    All pairs are looked at: some seconds for five hundred radiographs, four times as long for twice as many.

    Args:
        radiographs: points of each.

    Returns:
        pairs, in the order of `radiographs`.
    """
    found = []
    for first, second in _alike_at_first_sight(radiographs):
        transform = _similarity(radiographs[first], radiographs[second])
        if transform is not None:
            found.append(NearDuplicate(first, second, transform))
    return found


def _alike_at_first_sight(radiographs: Sequence[Keypoints]) -> Iterator[tuple[int, int]]:
    strongest = np.zeros((len(radiographs), _STRONGEST, 128), np.float32)
    for each, radiograph in zip(strongest, radiographs, strict=True):
        descriptors = radiograph.descriptors[:_STRONGEST]
        each[: len(descriptors)] = descriptors
    for first in range(len(radiographs) - 1):
        others = strongest[first + 1 :]
        cosines = strongest[first] @ others.reshape(-1, 128).T
        nearest = cosines.reshape(_STRONGEST, len(others), _STRONGEST).max(axis=2)
        for place in np.flatnonzero((nearest > _ALIKE).sum(axis=0) >= _ENOUGH_ALIKE):
            yield first, first + 1 + int(place)


def _similarity(first: Keypoints, second: Keypoints) -> NDArray[np.float64] | None:
    """Give the similarity by which two are one radiograph; None where they are not."""
    if min(len(first.places), len(second.places)) < _LEAST_POINTS:
        return None
    cosines = first.descriptors @ second.descriptors.T
    nearest = np.argpartition(-cosines, 1, axis=1)[:, :2]
    distances = 2 - 2 * np.take_along_axis(cosines, nearest, axis=1)  # squared
    meant = distances[:, 0] < _RATIO**2 * distances[:, 1]
    if meant.sum() < _LEAST_POINTS:
        return None
    transform, within = cv2.estimateAffinePartial2D(
        first.places[meant],
        second.places[nearest[meant, 0]],
        method=cv2.RANSAC,
        ransacReprojThreshold=_WITHIN * second.unit,
        maxIters=5000,
    )
    if transform is None or within.sum() < max(_LEAST_POINTS, _LEAST_SHARE * meant.sum()):
        return None
    turn = np.degrees(np.arctan2(transform[1, 0], transform[0, 0]))
    return np.asarray(transform, np.float64) if abs(turn) <= _MOST_TURN else None
