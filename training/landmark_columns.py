"""Which bodies of a column got which names: what a mean distance does not tell.

A film whose every vertebra is outlined and called by the name of the next one has a large error and right angles; one
whose names slip from one body to the next half-way has none of them right. So each vertebra that was answered is put
down to the body that it lies on, and films are counted by how far the names of their bodies are off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from models.networks.vertebra_alignment import can_align
from models.spine.schemas import CORNERS, LandmarkSchema
from training.datasets.landmark_images import LandmarkImage
from training.datasets.landmark_rows import Points
from training.evaluation import Floats

_BEYOND: Final = 2
"""Bodies above the first and below the last one that a vertebra may lie on; they lie as far apart as those two do."""


class ColumnCounts(NamedTuple):
    """Films by the names of their bodies.

    Attributes:
        named: each vertebra lies on its body.
        level_off: all of them lie on another, as many levels away.
        slipped: some are farther off than others: a body was skipped, or got two names.
    """

    named: int
    level_off: int
    slipped: int


def column_counts(images: Sequence[LandmarkImage], points: Points, schema: LandmarkSchema) -> ColumnCounts | None:
    """Count films of a frontal column that show and answer all of it; None for other schemas.

    Args:
        images: ``N``, with their true landmarks.
        points: ``(N, K, 2)``, answered, pixels of each original.
        schema: of the landmarks.
    """
    if not can_align(schema):
        return None
    shifts = [
        levels_off(image.points, own)
        for image, own in zip(images, points, strict=True)
        if np.isfinite(image.points).all() and np.isfinite(own).all()
    ]
    alike = [bool((shift == shift[0]).all()) for shift in shifts]
    named = sum(not shift.any() for shift in shifts)
    return ColumnCounts(named, sum(alike) - named, len(shifts) - sum(alike))


def columns_in_words(columns: dict[str, int]) -> str:
    """Say it in a line; `columns` as it stands in the measures."""
    return f"{columns['named']} named right, {columns['level_off']} a level off, {columns['slipped']} slipped"


def levels_off(true: Points, found: Points) -> Floats:
    """Say how many levels below its own the body lies that each vertebra was put on, ``(V)`` whole numbers.

    Args:
        true, found: ``(4 V, 2)``, corners in the order of a schema, vertebrae from top to bottom, in one unit.
    """
    there, answered = _middles(true), _middles(found)
    number = np.arange(-_BEYOND, len(there) + _BEYOND)
    before = there[0] + np.outer(number[:_BEYOND], there[1] - there[0])
    after = there[-1] + np.outer(number[-_BEYOND:] - len(there) + 1, there[-1] - there[-2])
    bodies = np.concatenate([before, there, after])
    nearest = np.linalg.norm(answered[:, np.newaxis] - bodies, axis=2).argmin(axis=1)
    off: Floats = (number[nearest] - np.arange(len(there))).astype(np.float64)
    return off


def _middles(points: Points) -> Floats:
    middles: Floats = points.reshape(-1, len(CORNERS), 2).mean(axis=1)
    return middles
