"""From an engine's outputs to a finding."""

from __future__ import annotations

import numpy as np
import pytest

import worker.findings
from models.errors import Reason, Unprocessable
from models.pixels.lung_fields import WHOLE_IMAGE, Frame, LungFields
from models.pixels.spec import InputSpec
from models.store.manifest import Manifest
from models.tasks import Task
from models.zones import ZONES, HeartFailureClass
from worker.findings import (
    Classification,
    CongestionFinding,
    GradedZone,
    PixelFrame,
    classify,
    grade,
    read_finding,
)
from worker.source_image import SourceImage


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


# Six zones

IMAGE = SourceImage(200, 100, LungFields(Frame(-0.1, 0.2, 0.9, 1.1), 0.9, True))
SURE = {0: (1, 0, 0, 0, 0), 1: (0, 1, 0, 0, 0), 2: (0, 0, 1, 0, 0), 3: (0, 0, 0, 1, 0), None: (0, 0, 0, 0, 1)}


def _zones(*scores: int | None) -> dict[str, np.ndarray]:
    """The outputs of a batch of two: all severe, then these scores for sure."""
    rows = [[SURE[3]] * len(ZONES), [SURE[score] for score in scores]]
    return {"probability": np.array(rows, np.float32)}


def test_each_zone_has_its_score_in_the_fixed_order(csi_manifest: Manifest) -> None:
    finding = grade(csi_manifest, _zones(3, 0, 1, None, 2, 0), 1, IMAGE)
    assert [(zone.zone.value, zone.score) for zone in finding.zones] == [
        ("right_sup", 3),
        ("left_sup", 0),
        ("right_mid", 1),
        ("left_mid", None),
        ("right_inf", 2),
        ("left_inf", 0),
    ]
    assert finding.gradable_zones == 5
    assert finding.mean_csi == pytest.approx(6 / 5)
    assert finding.heart_failure_class is HeartFailureClass.LOW
    assert finding.score == pytest.approx(2 / 5)


def test_probability_is_of_the_class_called_and_expected_score_of_the_graded_ones(csi_manifest: Manifest) -> None:
    outputs = _zones(0, 0, 0, 0, 0, 0)
    outputs["probability"][1, 0] = (0.125, 0.25, 0.375, 0.0, 0.25)
    outputs["probability"][1, 1] = (0.125, 0.25, 0.0, 0.0, 0.625)
    finding = grade(csi_manifest, outputs, 1, IMAGE)
    assert finding.zones[0] == GradedZone(ZONES[0], 1, 0.25, pytest.approx((0.25 + 0.75) / 0.75))
    assert finding.zones[1] == GradedZone(ZONES[1], None, 0.625, None)


def test_without_a_gradable_zone_there_is_no_mean_and_no_class(csi_manifest: Manifest) -> None:
    finding = grade(csi_manifest, _zones(*(None,) * 6), 1, IMAGE)
    assert (finding.mean_csi, finding.heart_failure_class, finding.gradable_zones, finding.score) == (
        None,
        None,
        0,
        None,
    )


def test_the_frame_is_that_of_the_lungs_in_pixels_and_may_reach_beyond_the_image(csi_manifest: Manifest) -> None:
    finding = grade(csi_manifest, _zones(*(0,) * 6), 1, IMAGE)
    assert finding.frame == Frame(-0.1, 0.2, 0.9, 1.1)
    assert finding.pixel_frame == PixelFrame(-10, 40, 90, 220)
    assert finding.lungs_found is True


def test_the_zones_divide_the_whole_image_where_lungs_were_not_found_or_not_looked_for(csi_manifest: Manifest) -> None:
    lost = SourceImage(200, 100, LungFields(WHOLE_IMAGE, 0.3, False))
    whole = csi_manifest.model_copy(update={"input_spec": InputSpec(height=24, width=24)})
    for manifest, image, found in [(csi_manifest, lost, False), (whole, IMAGE, None)]:
        finding = grade(manifest, _zones(*(0,) * 6), 1, image)
        assert (finding.frame, finding.pixel_frame) == (WHOLE_IMAGE, PixelFrame(0, 0, 100, 200))
        assert finding.lungs_found is found


def test_each_instance_gets_its_own_six_maps(csi_manifest: Manifest) -> None:
    maps = np.arange(2 * 6 * 4, dtype=np.float32).reshape(2, 6, 2, 2)
    finding = grade(csi_manifest, {**_zones(*(0,) * 6), "cam": maps}, 1, IMAGE)
    assert finding.cams is not None
    assert np.array_equal(finding.cams, maps[1])
    assert grade(csi_manifest, _zones(*(0,) * 6), 1, IMAGE).cams is None


@pytest.mark.parametrize(
    "answer",
    [
        (float("nan"), 0, 0, 0, 1),
        (float("inf"), 0, 0, 0, 0),
        (1.5, -0.5, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (0.5, 0.5, 0.5, 0, 0),
    ],
)
def test_one_zone_that_is_no_probability_refuses_the_whole_answer(
    csi_manifest: Manifest, answer: tuple[float, ...]
) -> None:
    outputs = _zones(*(0,) * 6)
    outputs["probability"][1, 5] = answer
    with pytest.raises(Unprocessable) as caught:
        grade(csi_manifest, outputs, 1, IMAGE)
    assert caught.value.reason is Reason.INTERNAL_ERROR
    assert grade(csi_manifest, outputs, 0, IMAGE).mean_csi == 3.0, "its neighbour's answer stands"


def test_rounding_of_half_precision_is_forgiven(csi_manifest: Manifest) -> None:
    outputs = _zones(*(3,) * 6)
    outputs["probability"][1] += np.float32(5e-5)
    zone = grade(csi_manifest, outputs, 1, IMAGE).zones[0]
    assert zone.probability == 1.0
    assert zone.expected_score is not None
    assert 2.99 < zone.expected_score <= 3


def test_the_task_of_the_version_chooses_the_reader(manifest: Manifest, csi_manifest: Manifest) -> None:
    assert isinstance(read_finding(manifest, _outputs(0.5), 0, IMAGE), Classification)
    assert isinstance(read_finding(csi_manifest, _zones(*(0,) * 6), 0, IMAGE), CongestionFinding)


def test_a_task_without_a_reader_is_not_served(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(worker.findings._READERS, Task.PNEUMONIA)
    with pytest.raises(Unprocessable) as caught:
        read_finding(manifest, _outputs(0.5), 0, IMAGE)
    assert (caught.value.reason, caught.value.detail) == (Reason.INTERNAL_ERROR, "pneumonia is not served")


def test_findings_say_themselves_in_words(manifest: Manifest, csi_manifest: Manifest) -> None:
    assert classify(manifest, _outputs(0.87), 0).description == "pneumonia 0.870, threshold 0.500"
    assert grade(csi_manifest, _zones(2, 1, 1, 2, None, 2), 1, IMAGE).description == (
        "mean CSI 1.60, right_sup 2, left_sup 1, right_mid 1, left_mid 2, right_inf ungradable, left_inf 2,"
        " heart failure class medium"
    )
    nothing = grade(csi_manifest, _zones(*(None,) * 6), 1, SourceImage(1, 1, LungFields(WHOLE_IMAGE, 0.1, False)))
    assert nothing.description.startswith("no zone gradable, right_sup ungradable, ")
    assert nothing.description.endswith(", zones on the image grid, lungs not found")
    assert len(nothing.description) < 300
