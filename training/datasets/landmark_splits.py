"""Splits of radiographs with landmarks: whole persons, with straight and curved spines spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError
from training.datasets.landmark_images import LandmarkImage
from training.datasets.splits import connected
from training.datasets.vertebra_corners import largest_tilt_between

_SEVERITY_LEVELS: Final = 3
_LEAST_OF_LEVEL: Final = 2
"""Images of a level, for each part, from which on it can be spread over the parts."""


@dataclass(frozen=True, slots=True)
class LandmarkSplit:
    """Two sides of a set that share no person and no image; each keeps the order of the set."""

    train: tuple[LandmarkImage, ...]
    validation: tuple[LandmarkImage, ...]


def split_landmarks(images: Sequence[LandmarkImage], fraction: float, seed: int) -> LandmarkSplit:
    """Hold out whole persons, about this fraction of the images; none where it is 0.

    Args:
        images: of at least two persons, unless everyone is fitted.
        fraction: in [0, 1).
        seed: decides who.

    Raises:
        ConfigurationError: there are too few persons.
    """
    if fraction == 0:
        return LandmarkSplit(tuple(images), ())
    parts = max(2, min(round(1 / fraction), len(connected(images))))
    return kfold_landmarks(images, parts, seed)[0]


def kfold_landmarks(images: Sequence[LandmarkImage], folds: int, seed: int) -> list[LandmarkSplit]:
    """Give cross-validation folds: every image is validated once, and curved spines are spread evenly.

    Args:
        images: of at least `folds` persons.
        folds: how many, at least two.
        seed: decides who stands where.

    Raises:
        ConfigurationError: there are too few persons.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    persons = connected(images)
    if len(persons) < folds:
        raise ConfigurationError(f"{len(persons)} persons are too few for {folds} parts")
    groups = np.empty(len(images), dtype=np.int64)
    for number, members in enumerate(persons):
        groups[members] = number
    levels = _severity_levels(images, folds)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [
        LandmarkSplit(tuple(images[i] for i in train), tuple(images[i] for i in held))
        for train, held in splitter.split(levels, levels, groups)
    ]


def _severity_levels(images: Sequence[LandmarkImage], parts: int) -> NDArray[np.int64]:
    """Cut images into thirds by their largest angle, ``(N)``; few images into one."""
    if len(images) < _SEVERITY_LEVELS * _LEAST_OF_LEVEL * parts:
        return np.zeros(len(images), np.int64)
    angles = [largest_tilt_between(image.points) for image in images]
    edges = np.quantile(angles, np.linspace(0, 1, _SEVERITY_LEVELS + 1)[1:-1])
    return np.searchsorted(edges, angles, side="right").astype(np.int64)
