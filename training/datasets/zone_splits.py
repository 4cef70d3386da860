"""Splits of radiographs with zone scores: whole persons, with ungradable zones and severities spread evenly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.zones import ZONES, Congestion, mean_csi
from training.datasets.splits import connected
from training.datasets.zone_images import ZoneImage

_SEVERITY_LEVELS: Final = 4
_COMMON: Final = 2
"""Images of a kind, for each part, from which on the kind can be spread over the parts."""


@dataclass(frozen=True, slots=True)
class ZoneSplit:
    """Two sides of a set that share no person and no image; each keeps the order of the set."""

    train: tuple[ZoneImage, ...]
    validation: tuple[ZoneImage, ...]


def split_zones(images: Sequence[ZoneImage], fraction: float, seed: int) -> ZoneSplit:
    """Hold out whole persons, about this fraction of the images; none where it is 0.

    Args:
        images: of at least two persons, unless everyone is fitted.
        fraction: in [0, 1).
        seed: decides who.

    Raises:
        ConfigurationError: there are too few persons.
    """
    if fraction == 0:
        return ZoneSplit(tuple(images), ())
    parts = max(2, min(round(1 / fraction), _persons(images)))
    return kfold_zones(images, parts, seed)[0]


def kfold_zones(images: Sequence[ZoneImage], folds: int, seed: int) -> list[ZoneSplit]:
    """Give cross-validation folds: every image is validated once, and the kinds of images are spread evenly.

    Args:
        images: of at least `folds` persons.
        folds: how many, at least two.
        seed: decides who stands where.

    Raises:
        ConfigurationError: there are too few persons.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if _persons(images) < folds:
        raise ConfigurationError(f"{_persons(images)} persons are too few for {folds} parts")
    groups = np.empty(len(images), dtype=np.int64)
    for number, members in enumerate(connected(images)):
        groups[members] = number
    kinds = _kinds(images, folds)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [
        ZoneSplit(tuple(images[i] for i in train), tuple(images[i] for i in held))
        for train, held in splitter.split(kinds, kinds, groups)
    ]


def _persons(images: Sequence[ZoneImage]) -> int:
    return len(connected(images))


def _kinds(images: Sequence[ZoneImage], parts: int) -> NDArray[np.int64]:
    """Number the kinds of images ``(N)``: by their ungradable zones, and the most frequent kind by severity too."""
    masks = [tuple(grade is Congestion.UNGRADABLE for grade in image.readers[0]) for image in images]
    counts = Counter(masks)
    common = [mask for mask, count in counts.most_common() if count >= _COMMON * parts]
    usual = counts.most_common(1)[0][0]
    severity = _severity_levels([image for image, mask in zip(images, masks, strict=True) if mask == usual], parts)
    levels = iter(severity)
    kinds = [
        next(levels) if mask == usual else _SEVERITY_LEVELS + (common.index(mask) if mask in common else len(common))
        for mask in masks
    ]
    return np.array(kinds, np.int64)


def _severity_levels(images: Sequence[ZoneImage], parts: int) -> list[int]:
    """Cut images that are ungradable in the same zones into quarters by mean score; few images into one."""
    means = [mean_csi(dict(zip(ZONES, image.readers[0], strict=True))) or 0.0 for image in images]
    if len(images) < _SEVERITY_LEVELS * _COMMON * parts:
        return [0] * len(images)
    edges = np.quantile(means, np.linspace(0, 1, _SEVERITY_LEVELS + 1)[1:-1])
    return [int(level) for level in np.searchsorted(edges, means, side="right")]
