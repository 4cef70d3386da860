"""How far the labels of a set agree with each other: those of radiographs that were labelled more than once.

Who labels a film twice without knowing it answers as two readers would. A network whose answers differ less from the
labels than these from one another cannot be told from one without error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from models.spine.schemas import LandmarkSchema
from training.datasets.landmark_images import NearDuplicatePair
from training.landmark_evaluation import landmark_metrics

_REPLICATES: Final = 1000


def label_agreement(pairs: Sequence[NearDuplicatePair], schema: LandmarkSchema) -> dict[str, Any] | None:
    """Measure the labels of the first of each pair as if a network had given them for the second.

    Args:
        pairs: of one set; those with a faulty label are left out.
        schema: of the landmarks.

    Returns:
        as `training.landmark_evaluation.landmark_metrics`, intervals over persons; None where no pair is left.
    """
    sound = [pair for pair in pairs if pair.first.usable and pair.second.usable]
    if not sound:
        return None
    return landmark_metrics(
        [pair.second for pair in sound],
        np.stack([pair.transferred for pair in sound]),
        schema,
        bootstrap=_REPLICATES,
    )
