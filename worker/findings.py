"""From the outputs of an engine to findings in the words of the records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import Outputs
from models.errors import Reason, Unprocessable
from models.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Classification:
    """Answer of a two-class task for one instance.

    Attributes:
        label: the label decided for.
        positive: `probability` reaches `threshold`.
        probability: of the positive label, in [0, 1].
        cam: ``(h, w) float32 in [0, 1]``, Grad-CAM of the positive label; None when the graph gives none.
    """

    label: str
    positive_label: str
    positive: bool
    probability: float
    threshold: float
    cam: NDArray[np.float32] | None


def classify(manifest: Manifest, outputs: Outputs, index: int) -> Classification:
    """Read the answer of one instance out of a batch's outputs.

    Args:
        manifest: of the version that ran; names labels, positive label and threshold.
        outputs: ``probability`` (N, 2) float32 and, where the graph has it, ``cam`` (N, h, w) float32.
        index: the instance's place in the batch.

    Raises:
        Unprocessable: the network answered NaN or a value outside [0, 1].
    """
    positive_label = manifest.positive_label or manifest.labels[-1]
    place = manifest.labels.index(positive_label)
    probability = float(outputs["probability"][index, place])
    if not -1e-4 <= probability <= 1 + 1e-4:  # also false for NaN
        raise Unprocessable(Reason.INTERNAL_ERROR, "the network answered no probability")
    probability = min(max(probability, 0.0), 1.0)
    threshold = manifest.thresholds.get(positive_label, 0.5)
    positive = probability >= threshold
    label = positive_label if positive else next(name for name in manifest.labels if name != positive_label)
    cam = outputs["cam"][index] if "cam" in outputs else None
    return Classification(label, positive_label, positive, probability, threshold, cam)
