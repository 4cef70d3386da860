"""From the outputs of a network of landmarks to places in the original, measures and reasons for review."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import stand_in_spine
from numpy.typing import NDArray

from models.errors import Reason, Unprocessable
from models.pixels.placement import Placement
from models.spine.cobb_readings import read_cobb_angles
from models.spine.corners import ImageSide
from models.spine.schemas import SCHEMAS, SpineView
from models.spine.slips import Meyerding
from models.spine.spacing import Spacing, SpacingSource
from models.store.manifest import Manifest
from worker.findings import read_finding
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding, locate

MakeLandmarks = Callable[..., LandmarkFinding]

IMAGE = SourceImage(256, 160, placement=Placement(0.5, 0.5, 24, 0))
SPINE = stand_in_spine.corners(80, 128, 2.0)


def _confidence(**of_vertebra: float) -> NDArray[np.float64]:
    """0.9 but for these vertebrae's first landmark."""
    confidence = np.full(68, 0.9)
    for name, value in of_vertebra.items():
        confidence[SCHEMAS["aasce68"].landmarks_of(name)[0]] = value
    return confidence


def _lateral(slip: float = 0.0) -> NDArray[np.float64]:
    """L1 to S1 from the side, each 40 wide and 24 high, 30 apart; L4 and all above it moved right by `slip` pixels."""
    points = []
    for place in range(6):
        x, y = 60.0 + (slip if place <= 3 else 0.0), 20.0 + 30 * place
        points += [(x, y), (x + 40, y)]
        if place < 5:
            points += [(x, y + 24), (x + 40, y + 24)]
    return np.array(points)


def _outputs(**changes: object) -> dict[str, np.ndarray]:
    outputs = {
        "landmarks": np.zeros((2, 68, 2), np.float32),
        "confidence": np.full((2, 68), 0.5, np.float32),
        "spread": np.ones((2, 68), np.float32),
    }
    for name, value in changes.items():
        outputs[name][1, 3] = value
    return outputs


def test_landmarks_are_in_pixels_of_the_original(spine_manifest: Manifest) -> None:
    outputs = _outputs()
    outputs["landmarks"][1, 5] = (42, 20)
    finding = read_finding(spine_manifest, outputs, 1, IMAGE)
    assert isinstance(finding, LandmarkFinding)
    assert finding.landmarks.dtype == np.float64
    # 24 columns of padding, half a pixel of the input for one of the original.
    assert finding.landmarks[5].tolist() == [36, 40]
    assert finding.landmarks[0].tolist() == [-48, 0]
    assert finding.spread.tolist() == [2.0] * 68
    assert finding.confidence.tolist() == [0.5] * 68
    assert (finding.rows, finding.columns) == (256, 160)


def test_angles_are_measured_on_them_and_nobody_need_look(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks()
    assert {
        angle.curve.value: (round(angle.degrees, 2), angle.upper_vertebra, angle.lower_vertebra)
        for angle in finding.measures.cobb
    } == stand_in_spine.ANGLES
    assert (finding.review, finding.review_reasons, finding.flagged) == (False, (), ())
    assert finding.score == pytest.approx(0.9)


def test_a_stretched_pixel_counts_as_what_it_measures(make_landmarks: MakeLandmarks) -> None:
    # Rows twice as far apart as columns: in mm each slope is twice as steep.
    image = replace(IMAGE, spacing=Spacing(0.4, 0.2, SpacingSource.PIXEL_SPACING))
    (main, *_) = make_landmarks(image=image).measures.cobb
    slopes = np.degrees(np.arctan(2 * np.tan(np.radians([15, 10]))))
    assert main.degrees == pytest.approx(slopes.sum(), abs=1e-3)


def test_angles_are_read_with_the_scatter_that_the_version_says(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(tilt_scatter=2.0)
    read = read_cobb_angles(finding.schema, finding.landmarks, finding.rows, 2.0)
    assert finding.measures.cobb == read
    assert read[0].degrees > make_landmarks().measures.cobb[0].degrees


def test_a_vertebra_with_one_uncertain_landmark_is_flagged(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(confidence=_confidence(T3=0.49, T4=0.51, L5=0.1))
    assert finding.flagged == ("T3", "L5")
    assert finding.review_reasons == ("low_confidence",)
    assert finding.review_words == ("low confidence (T3 L5)",)
    assert finding.vertebra_confidence["T3"] == pytest.approx(0.49)
    assert finding.vertebra_confidence["T2"] == pytest.approx(0.9)
    assert len(finding.measures.cobb) == 3, "measured all the same"


def test_many_uncertain_vertebrae_are_named_in_part(make_landmarks: MakeLandmarks) -> None:
    assert make_landmarks(confidence=0.2).review_words == ("low confidence (T1 T2 T3 T4 ...)",)


def test_without_a_border_of_confidence_none_is_flagged(make_landmarks: MakeLandmarks) -> None:
    assert make_landmarks(confidence=0.01, review_confidence=None).flagged == ()


def test_a_landmark_below_its_threshold_is_not_there_and_takes_the_angles_with_it(
    make_landmarks: MakeLandmarks,
) -> None:
    finding = make_landmarks(confidence=_confidence(T3=0.2), thresholds={"T3:top_left": 0.3})
    place = SCHEMAS["aasce68"].landmarks_of("T3")[0]
    assert np.isnan(finding.landmarks[place]).all()
    assert np.isfinite(np.delete(finding.landmarks, place, axis=0)).all()
    assert finding.measures.cobb == (), "a curve might end with it"
    assert finding.flagged == (), "what is not there is not uncertain"
    assert finding.description == "no angle or slip measured"


def test_a_landmark_beyond_the_image_stays_there_and_is_flagged(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(landmarks=SPINE + np.array([-75.0, 0.0]))
    assert finding.landmarks[:, 0].min() < -4
    assert finding.review_reasons == ("beyond_image",)
    assert finding.flagged == SCHEMAS["aasce68"].vertebrae


def test_a_rounding_beyond_the_border_is_none(make_landmarks: MakeLandmarks) -> None:
    shifted = SPINE - np.array([SPINE[:, 0].min() + 1.9, 0.0])
    assert not make_landmarks(landmarks=shifted).review


def test_landmarks_that_are_no_spine_are_for_review_but_not_refused(make_landmarks: MakeLandmarks) -> None:
    upside_down = SPINE * [1, -1] + [0, 256]
    finding = make_landmarks(landmarks=upside_down)
    assert "vertebrae_out_of_order" in finding.review_reasons
    assert "vertebrae out of order" in finding.review_words


@pytest.mark.parametrize("view", [None, SpineView.FRONTAL])
def test_the_view_of_the_landmarks_or_an_unknown_one_is_measured(
    make_landmarks: MakeLandmarks, view: SpineView | None
) -> None:
    finding = make_landmarks(image=replace(IMAGE, view=view))
    assert len(finding.measures.cobb) == 3
    assert not finding.review


def test_another_view_is_never_measured(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(image=replace(IMAGE, view=SpineView.LATERAL, anterior=ImageSide.LEFT))
    assert finding.review_reasons == ("other_view",)
    assert (finding.measures.cobb, finding.measures.heights, finding.measures.slips) == ((), (), ())
    assert finding.anterior is None, "these are landmarks of a frontal view"
    assert finding.description == "no angle or slip measured, for review: other view"


@pytest.mark.parametrize(("anterior", "kind"), [("right", "anterolisthesis"), ("left", "retrolisthesis")])
def test_a_slip_goes_to_the_side_where_the_front_is(make_landmarks: MakeLandmarks, anterior: str, kind: str) -> None:
    image = replace(IMAGE, view=SpineView.LATERAL, anterior=ImageSide(anterior))
    finding = make_landmarks(_lateral(12.0), schema="buu_la22", image=image)
    (slip,) = finding.slips
    # 12 of 40 pixels: 30 percent of the end plate.
    assert (slip.upper_vertebra, slip.lower_vertebra, slip.kind.value) == ("L4", "L5", kind)
    assert abs(slip.percent) == pytest.approx(30, abs=1e-4)
    assert slip.grade is Meyerding.II
    assert finding.anterior is ImageSide(anterior)
    assert finding.description == f"L4-L5 {kind} 30% (Meyerding II)"


def test_without_a_known_front_there_is_no_slip_and_no_grade(make_landmarks: MakeLandmarks) -> None:
    finding = make_landmarks(_lateral(12.0), schema="buu_la22", image=replace(IMAGE, view=SpineView.LATERAL))
    assert finding.measures.slips == ()
    assert finding.measures.heights
    assert finding.description == "no angle or slip measured"


def test_vertebrae_that_lie_on_each_other_are_said_to_do_so(make_landmarks: MakeLandmarks) -> None:
    image = replace(IMAGE, view=SpineView.LATERAL, anterior=ImageSide.RIGHT)
    finding = make_landmarks(_lateral(), schema="buu_la22", image=image)
    assert finding.slips == ()
    assert len(finding.measures.slips) == 5
    assert finding.description == "no slip"


def test_a_finding_says_itself_in_words(make_landmarks: MakeLandmarks) -> None:
    assert make_landmarks(confidence=_confidence(T3=0.2)).description == (
        "Cobb main 25.0 deg T4-T11, Cobb upper 15.0 deg T1-T4, Cobb lower 10.0 deg T11-L5,"
        " for review: low confidence (T3)"
    )
    worst = make_landmarks(np.zeros((68, 2)) - 900, confidence=0.1, image=replace(IMAGE, view=SpineView.LATERAL))
    assert len(worst.description) < 300
    assert worst.description.isascii()


def test_a_curve_that_begins_and_ends_with_one_vertebra_is_not_told(make_landmarks: MakeLandmarks) -> None:
    # Tilted one way all the way down: the main curve is the whole spine, and nothing is left beside it.
    points = SPINE.reshape(17, 4, 2).copy()
    for place, box in enumerate(points):
        box[:, 1] = box[:, 1].mean() + np.array([-4, -4, 4, 4]) + np.array([-1, 1, -1, 1]) * place * 0.2
    finding = make_landmarks(points.reshape(-1, 2))
    assert [(curve.upper_vertebra, curve.lower_vertebra) for curve in finding.curves] == [("T1", "L5")]
    assert len(finding.measures.cobb) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"landmarks": float("nan")},
        {"landmarks": float("inf")},
        {"confidence": float("nan")},
        {"confidence": 1.1},
        {"confidence": -0.1},
        {"spread": float("nan")},
        {"spread": -1.0},
    ],
    ids=str,
)
def test_an_answer_that_is_no_landmark_is_refused(spine_manifest: Manifest, changes: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable) as caught:
        locate(spine_manifest, _outputs(**changes), 1, IMAGE)
    assert caught.value.reason is Reason.INTERNAL_ERROR
    assert not locate(spine_manifest, _outputs(**changes), 0, IMAGE).measures.slips, "its neighbour does not pay for it"


def test_rounding_beyond_the_range_is_forgiven(spine_manifest: Manifest) -> None:
    finding = locate(spine_manifest, _outputs(confidence=1.00005, spread=-0.00005), 1, IMAGE)
    assert (finding.confidence[3], finding.spread[3]) == (1.0, 0.0)


def test_landmarks_without_a_placement_are_refused(spine_manifest: Manifest) -> None:
    with pytest.raises(Unprocessable):
        locate(spine_manifest, _outputs(), 1, SourceImage(256, 160))
