"""How far the labels of a set agree with each other: those of radiographs that were labelled more than once.

Who labels a film twice without knowing it answers as two readers would. A network whose answers differ less from the
labels than these from one another cannot be told from one without error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.spine.schemas import LandmarkSchema
from training.datasets.landmark_images import RepeatedRadiograph
from training.landmark_evaluation import landmark_metrics

_REPLICATES = 1000


def labelled_again(pairs: Sequence[RepeatedRadiograph]) -> list[RepeatedRadiograph]:
    """Give the pairs whose labels, usable both, do not belong to one file that was copied."""
    return [
        pair
        for pair in pairs
        if pair.first.usable and pair.second.usable and pair.first.pixels_sha256 != pair.second.pixels_sha256
    ]


def label_agreement(pairs: Sequence[RepeatedRadiograph], schema: LandmarkSchema) -> dict[str, Any] | None:
    """Measure the labels of the first of each pair as if a network had given them for the second.

    Args:
        pairs: of `labelled_again`.
        schema: of the landmarks.

    Returns:
        as `training.landmark_evaluation.landmark_metrics`, intervals over persons; None of no pair.
    """
    if not pairs:
        return None
    return landmark_metrics(
        [pair.second for pair in pairs],
        np.stack([pair.transferred for pair in pairs]),
        schema,
        bootstrap=_REPLICATES,
    )
