"""Landmarks in the records: places and measures in pixels of the original, null where there is nothing to tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import stand_in_spine
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.pixels.placement import Placement
from models.records.base import Base
from models.records.dicom import Instance, InstanceState
from models.records.inference import Inference, ModelVersion
from models.records.spine import CobbFinding, HeightFinding, Landmark, SlipFinding, SpineSummary, VertebraFinding
from models.spine.corners import ImageSide
from models.spine.schemas import SCHEMAS, SpineView
from models.spine.spacing import Spacing, SpacingSource
from worker.settlement import Settlement, forget_outcome
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding

Sessions = sessionmaker[Session]

IMAGE = SourceImage(256, 160, placement=Placement(0.5, 0.5, 24, 0))
SPINE = stand_in_spine.corners(80, 128, 2.0)
LATERAL = replace(IMAGE, view=SpineView.LATERAL, anterior=ImageSide.LEFT)
KINDS = (SpineSummary, VertebraFinding, Landmark, CobbFinding, HeightFinding, SlipFinding)

# L1 to S1 from the side, the front on the left, each 40 wide; L5 lies 8 pixels (20 percent) before S1.
SIDE_VIEW = np.array(
    [
        (x, y)
        for place, left in enumerate((52, 52, 52, 52, 52, 60))
        for y in ((20 + 30 * place, 44 + 30 * place) if place < 5 else (20 + 30 * place,))
        for x in (left, left + 40)
    ],
    np.float64,
)


def _all(sessions: Sessions, table: type[Base]) -> list[Any]:
    with sessions() as session:
        return list(session.scalars(select(table).order_by(*table.__table__.primary_key.columns)))


@pytest.fixture
def settle(settlement: Settlement, outcomes: Any) -> Callable[..., None]:
    """Settle one instance with one answer of the task."""

    def act(uid: str = "1.2.3", **answer: Any) -> None:
        done = replace(outcomes.done(uid), results=(outcomes.landmarks(**answer),))
        assert settlement.settle([done]) == [InstanceState.DONE]

    return act


def test_every_landmark_is_a_row_with_its_place_in_the_original(
    settle: Callable[..., None], sessions: Sessions
) -> None:
    settle()
    rows = {(row.vertebra, row.corner): row for row in _all(sessions, Landmark)}
    assert len(rows) == 68
    for point, (x, y) in zip(SCHEMAS["aasce68"].points, SPINE, strict=True):
        assert (rows[point].x, rows[point].y) == pytest.approx((x, y), abs=1e-3)
        assert rows[point].confidence == pytest.approx(0.9)
        assert rows[point].spread == 3.0, "1.5 pixels of the input, each two of the original"
    (version,) = _all(sessions, ModelVersion)
    assert (version.task, version.version) == ("landmarks", "5.0.0")


def test_angles_are_written_by_curve_with_their_vertebrae(settle: Callable[..., None], sessions: Sessions) -> None:
    settle()
    found = {
        row.curve.value: (round(row.degrees, 2), row.upper_vertebra, row.lower_vertebra)
        for row in _all(sessions, CobbFinding)
    }
    assert found == stand_in_spine.ANGLES
    (summary,) = _all(sessions, SpineSummary)
    assert (summary.landmark_schema, summary.view, summary.anterior) == ("aasce68", SpineView.FRONTAL, None)
    assert (summary.review, summary.review_reasons) == (False, None)
    assert summary.mean_confidence == pytest.approx(0.9)


def test_heights_are_in_pixels_and_in_mm_only_where_a_pixel_is_known(
    settle: Callable[..., None], sessions: Sessions
) -> None:
    settle("1.2.3")
    settle("1.2.4", image=replace(IMAGE, spacing=Spacing(0.2, 0.1, SpacingSource.IMAGER_PIXEL_SPACING)))
    bare, measured = _all(sessions, SpineSummary)
    assert (bare.row_mm, bare.column_mm, bare.spacing_source) == (None, None, None)
    assert (measured.row_mm, measured.column_mm) == (0.2, 0.1)
    assert measured.spacing_source is SpacingSource.IMAGER_PIXEL_SPACING
    rows = [row for row in _all(sessions, HeightFinding) if (row.upper_vertebra, row.lower_vertebra) == ("T1", "T1")]
    assert [row.left_px for row in rows] == pytest.approx([8, 8], abs=1e-3)
    assert [row.left_mm for row in rows] == [None, pytest.approx(1.6, abs=1e-3)]
    counts = Counter(row.part.value for row in _all(sessions, HeightFinding))
    assert counts == {"body": 2 * 17, "disc": 2 * 16}


def test_reasons_for_review_and_the_vertebrae_are_written(settle: Callable[..., None], sessions: Sessions) -> None:
    confidence = np.full(68, 0.9)
    confidence[9] = 0.25  # the second corner of T3
    settle(landmarks=SPINE - np.array([0.0, 33.0]), confidence=confidence)
    (summary,) = _all(sessions, SpineSummary)
    assert summary.review
    assert summary.review_reasons == "low_confidence,beyond_image"
    rows = {row.vertebra: (row.review, row.confidence) for row in _all(sessions, VertebraFinding)}
    assert len(rows) == 17
    assert [name for name, (review, _) in rows.items() if review] == ["T1", "T3"], "T1 lies beyond the image"
    assert rows["T3"][1] == pytest.approx(0.25)
    assert min(row.y for row in _all(sessions, Landmark)) < -2, "what lies beyond the image is not moved into it"


def test_a_landmark_that_is_not_there_has_no_place_and_its_spine_no_angle(
    settle: Callable[..., None], sessions: Sessions
) -> None:
    settle(confidence=0.2, thresholds={"T5:bottom_left": 0.3})
    (row,) = [row for row in _all(sessions, Landmark) if row.x is None]
    assert (row.vertebra, row.corner.value, row.y) == ("T5", "bottom_left", None)
    assert _all(sessions, CobbFinding) == []
    assert len(_all(sessions, SpineSummary)) == 1


def test_slips_are_written_with_side_percentage_and_grade(settle: Callable[..., None], sessions: Sessions) -> None:
    settle(landmarks=SIDE_VIEW, schema="buu_la22", image=LATERAL)
    rows = {(row.upper_vertebra, row.lower_vertebra): row for row in _all(sessions, SlipFinding)}
    assert [rows[pair].kind.value for pair in sorted(rows)] == ["normal"] * 4 + ["anterolisthesis"]
    slip = rows["L5", "S1"]
    assert (slip.percent, slip.offset_px) == (pytest.approx(20, abs=1e-3), pytest.approx(8, abs=1e-3))
    assert (slip.grade, slip.offset_mm) == (1, None)
    (summary,) = _all(sessions, SpineSummary)
    assert (summary.view, summary.anterior) == (SpineView.LATERAL, ImageSide.LEFT)
    assert len(_all(sessions, Landmark)) == 22


def test_another_view_has_landmarks_but_no_measure(settle: Callable[..., None], sessions: Sessions) -> None:
    settle(image=LATERAL)
    (summary,) = _all(sessions, SpineSummary)
    assert (summary.review_reasons, summary.view) == ("other_view", SpineView.FRONTAL)
    assert [len(_all(sessions, kind)) for kind in (CobbFinding, HeightFinding, SlipFinding)] == [0, 0, 0]
    assert len(_all(sessions, Landmark)) == 68


def test_landmarks_are_forgotten_with_their_instance(settle: Callable[..., None], sessions: Sessions) -> None:
    settle("1.2.3", landmarks=SIDE_VIEW, schema="buu_la22", image=LATERAL)
    settle("1.2.4")
    with sessions.begin() as session:
        forget_outcome(session, session.scalars(select(Instance).where(Instance.sop_instance_uid == "1.2.3")).one())
    kept = {kind.__tablename__: len(_all(sessions, kind)) for kind in (Inference, *KINDS)}
    assert kept == {
        "inference": 1,
        "spine_summary": 1,
        "vertebra_finding": 17,
        "landmark": 68,
        "cobb_finding": 3,
        "height_finding": 33,
        "slip_finding": 0,
    }


def test_the_longest_reasons_find_room(
    settle: Callable[..., None], sessions: Sessions, make_landmarks: Callable[..., LandmarkFinding]
) -> None:
    # Everything at once: uncertain, beyond the image, of another view, and no spine at all.
    points = np.random.default_rng(0).uniform(-500, 500, SPINE.shape)
    settle(landmarks=points, confidence=0.1, image=LATERAL)
    (summary,) = _all(sessions, SpineSummary)
    reasons = make_landmarks(landmarks=points, confidence=0.1, image=LATERAL).review_reasons
    assert len(reasons) >= 5
    assert summary.review_reasons == ",".join(reasons)
