"""From an engine's outputs to a finding."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import Reason, Unprocessable
from models.store.manifest import Manifest
from worker.findings import classify


def _outputs(*positives: float) -> dict[str, np.ndarray]:
    column = np.array(positives, np.float32)
    return {"probability": np.stack([1 - column, column], axis=1)}


@pytest.mark.parametrize(
    ("probability", "label", "positive"), [(0.75, "pneumonia", True), (0.5, "pneumonia", True), (0.25, "normal", False)]
)
def test_the_threshold_belongs_to_the_positive_side(
    manifest: Manifest, probability: float, label: str, positive: bool
) -> None:
    finding = classify(manifest, _outputs(0.1, probability), 1)
    assert (finding.label, finding.positive, finding.probability) == (label, positive, probability)
    assert (finding.positive_label, finding.threshold) == ("pneumonia", 0.5)
    assert finding.cam is None


def test_labels_may_stand_in_any_order(manifest: Manifest) -> None:
    turned = manifest.model_copy(update={"labels": ("pneumonia", "normal"), "thresholds": {"pneumonia": 0.2}})
    finding = classify(turned, {"probability": np.array([[0.25, 0.75]], np.float32)}, 0)
    assert (finding.label, finding.probability, finding.threshold) == ("pneumonia", 0.25, 0.2)


def test_without_a_positive_label_the_last_one_counts_at_one_half(manifest: Manifest) -> None:
    plain = manifest.model_copy(update={"positive_label": None, "thresholds": {}})
    finding = classify(plain, _outputs(0.5), 0)
    assert (finding.positive_label, finding.threshold, finding.positive) == ("pneumonia", 0.5, True)


def test_each_instance_gets_its_own_map(manifest: Manifest) -> None:
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    finding = classify(manifest, {**_outputs(0.1, 0.9), "cam": maps}, 1)
    assert finding.cam is not None
    assert finding.cam.tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize(("answer", "expected"), [(1.00005, 1.0), (-0.00005, 0.0)])
def test_rounding_beyond_the_range_is_forgiven(manifest: Manifest, answer: float, expected: float) -> None:
    assert classify(manifest, _outputs(answer), 0).probability == expected


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -0.1, 1.1])
def test_an_answer_that_is_no_probability_is_refused(manifest: Manifest, answer: float) -> None:
    with pytest.raises(Unprocessable) as caught:
        classify(manifest, {"probability": np.array([[0.0, answer]], np.float32)}, 0)
    assert caught.value.reason is Reason.INTERNAL_ERROR
