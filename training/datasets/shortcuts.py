"""Shortcuts: properties that have nothing to do with the disease and yet tell the classes apart.

A network that can answer from the size, the framing or the border of an image will, and fails where another hospital
frames otherwise. Each property alone is measured by the area under its ROC curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.datasets.inspection import ImageFacts

FRAMING_AUC: Final = 0.70
"""From here on a property of size, encoding or border is worth a warning: the disease does not change those."""
TONES_AUC: Final = 0.85
"""From here on brightness or contrast of the whole image is, which the disease does change."""

_FRAMING: Final[dict[str, Callable[[ImageFacts], float]]] = {
    "rows": lambda facts: facts.rows,
    "columns": lambda facts: facts.columns,
    "columns / rows": lambda facts: facts.columns / facts.rows,
    "border brightness": lambda facts: facts.border_mean,
    "black part of border": lambda facts: facts.border_black,
}
_TONES: Final[dict[str, Callable[[ImageFacts], float]]] = {
    "mean brightness": lambda facts: facts.mean,
    "contrast": lambda facts: facts.deviation,
}


@dataclass(frozen=True, slots=True)
class Shortcut:
    """One property of the images of two classes.

    Attributes:
        name: of the property, for people.
        means: its mean in each class; none for the encoding, which is no number.
        auc: in [0.5, 1]: how well it alone tells the positive class, higher or lower values whichever way round.
    """

    name: str
    means: tuple[float, ...]
    auc: float

    @property
    def is_telling(self) -> bool:
        """Whether it deserves a warning."""
        return self.auc >= (TONES_AUC if self.name in _TONES else FRAMING_AUC)


def measure_shortcuts(labels: Sequence[int], facts: Sequence[ImageFacts]) -> tuple[Shortcut, ...]:
    """Measure every property.

    Args:
        labels: of each image, 0 or 1; both must occur.
        facts: of each image, in the same order.
    """
    label = np.asarray(labels)
    found = []
    for name, give in (_FRAMING | _TONES).items():
        values = np.array([give(each) for each in facts], dtype=np.float64)
        means = tuple(float(values[label == index].mean()) for index in (0, 1))
        found.append(Shortcut(name, means, _auc(label, values)))
    return (*found, Shortcut("encoding", (), _auc(label, _rate_by_encoding(label, facts))))


def _auc(label: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    auc = float(roc_auc_score(label, values))
    return max(auc, 1 - auc)


def _rate_by_encoding(label: NDArray[np.int64], facts: Sequence[ImageFacts]) -> NDArray[np.float64]:
    """Give each image the part of positives among the images of its encoding, ``(N)``."""
    encodings = np.array([each.encoding for each in facts])
    rate = np.zeros(len(label))
    for encoding in np.unique(encodings):
        alike = encodings == encoding
        rate[alike] = label[alike].mean()
    return rate
