"""The analysts' views on a worked example: one row per instance and per study, null where nothing was analysed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.findings import ClassificationFinding, ZoneFinding, ZoneSummary
from models.records.inference import Inference, ModelVersion
from models.records.spine import CobbFinding, SpineSummary
from models.requests import Lane
from models.spine.cobb import Curve
from models.spine.schemas import SpineView
from models.tasks import Task
from models.zones import ZONES, HeartFailureClass

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _at(minute: int) -> datetime:
    return NOON.replace(minute=minute)


class _Example:
    """Writes rows as a worker would, in few words."""

    def __init__(self, session: Session) -> None:
        self.session = session
        served = {
            Task.PNEUMONIA: ("1.0", "2.0"),
            Task.NORMALITY: ("1.0",),
            Task.CSI: ("3.0", "4.0"),
            Task.LANDMARKS: ("5.0", "6.0"),
        }
        self.versions = {
            (task, name): self._add(
                ModelVersion(task=task, version=name, network="n", network_sha256="0" * 64, first_served_at=NOON)
            )
            for task, names in served.items()
            for name in names
        }

    def _add(self, row: Any) -> Any:
        self.session.add(row)
        self.session.flush()
        return row

    def series(self, study_uid: str, series_uid: str) -> Series:
        study = self.session.query(Study).filter_by(study_instance_uid=study_uid).one_or_none() or self._add(
            Study(study_instance_uid=study_uid, accession_number=f"A{study_uid}", study_date=date(2026, 1, 1))
        )
        return self._add(Series(study_id=study.id, series_instance_uid=series_uid, modality="DX"))

    def instance(
        self, uid: str, series: Series | None, state: InstanceState, minute: int, reason: str | None = None
    ) -> Instance:
        settled = None if state in {InstanceState.RECEIVED, InstanceState.QUEUED} else _at(minute + 1)
        return self._add(
            Instance(
                sop_instance_uid=uid,
                sop_class_uid="1.2",
                transfer_syntax_uid="1.2",
                content_sha256="0" * 64,
                calling_ae_title="MODALITY",
                lane=Lane.ROUTINE,
                state=state,
                reason=reason,
                series_id=series.id if series else None,
                received_at=_at(minute),
                settled_at=settled,
            )
        )

    def inference(self, instance: Instance, version: str, task: Task) -> Inference:
        return self._add(
            Inference(
                instance_id=instance.id,
                model_version_id=self.versions[task, version].id,
                provider="onnxruntime",
                precision="fp32",
                inferred_at=NOON,
            )
        )

    def congestion(
        self,
        instance: Instance,
        scores: Sequence[int | None],
        mean: float | None,
        worst: str | None,
        version: str = "3.0",
        lungs_found: bool = True,
    ) -> None:
        inference = self.inference(instance, version, Task.CSI)
        for zone, score in zip(ZONES, scores, strict=True):
            expected = None if score is None else 1.5
            self._add(
                ZoneFinding(inference_id=inference.id, zone=zone, score=score, probability=0.5, expected_score=expected)
            )
        self._add(
            ZoneSummary(
                inference_id=inference.id,
                mean_csi=mean,
                gradable_zones=sum(score is not None for score in scores),
                heart_failure_class=worst and HeartFailureClass(worst),
                lungs_found=lungs_found,
                frame_left=-5,
                frame_top=0,
                frame_right=100,
                frame_bottom=90,
            )
        )

    def spine(
        self, instance: Instance, angles: Sequence[float], reasons: str | None = None, version: str = "5.0"
    ) -> None:
        inference = self.inference(instance, version, Task.LANDMARKS)
        self._add(
            SpineSummary(
                inference_id=inference.id,
                landmark_schema="aasce68",
                view=SpineView.FRONTAL,
                mean_confidence=0.75,
                review=reasons is not None,
                review_reasons=reasons,
            )
        )
        for curve, degrees in zip(Curve, angles, strict=False):
            ends = ("T4", "T11") if curve is Curve.MAIN else ("T1", "T4")
            self._add(
                CobbFinding(
                    inference_id=inference.id,
                    curve=curve,
                    degrees=degrees,
                    upper_vertebra=ends[0],
                    lower_vertebra=ends[1],
                )
            )

    def finding(
        self, instance: Instance, probability: float, version: str = "1.0", task: Task = Task.PNEUMONIA
    ) -> None:
        inference = self.inference(instance, version, task)
        positive = probability >= 0.5
        self._add(
            ClassificationFinding(
                inference_id=inference.id,
                label="pneumonia" if positive else "normal",
                positive=positive,
                probability=probability,
                threshold=0.5,
            )
        )


@pytest.fixture
def example(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    with sessions.begin() as session:
        write = _Example(session)
        # Study 1: two series; one positive, one negative instance, one skipped.
        first, second = write.series("1", "1.1"), write.series("1", "1.2")
        write.finding(write.instance("1.1.1", first, InstanceState.DONE, 0), 0.25)
        write.finding(write.instance("1.1.2", first, InstanceState.DONE, 1), 0.75)
        write.instance("1.2.1", second, InstanceState.SKIPPED, 2, "excluded_by_rule")
        # Study 2: analysed by two versions, and by another task; the newest pneumonia finding counts.
        twice = write.instance("2.1.1", write.series("2", "2.1"), InstanceState.DONE, 3)
        write.finding(twice, 0.875, "1.0")
        write.finding(twice, 0.125, "2.0")
        write.finding(twice, 0.99, "1.0", Task.NORMALITY)
        # Study 3: nothing was analysed.
        third = write.series("3", "3.1")
        write.instance("3.1.1", third, InstanceState.FAILED, 4, "undecodable_pixels")
        write.instance("3.1.2", third, InstanceState.SKIPPED, 5, "no_rule_matched")
        # Accepted, but not read yet: no study is known.
        write.instance("4", None, InstanceState.RECEIVED, 6)
        write.instance("5", None, InstanceState.QUEUED, 7)
    return sessions


@pytest.fixture
def congested(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    with sessions.begin() as session:
        write = _Example(session)
        # Study 1: three films of rising congestion, the worst with a zone that nobody can judge; one of no task.
        first = write.series("1", "1.1")
        write.congestion(write.instance("1.1", first, InstanceState.DONE, 0), (0, 0, 0, 0, 0, 1), 1 / 6, "low")
        worst = write.instance("1.2", first, InstanceState.DONE, 1)
        write.congestion(worst, (3, 3, 3, 3, 3, None), 3.0, "high")
        write.finding(worst, 0.75)
        write.congestion(write.instance("1.3", first, InstanceState.DONE, 2), (2, 2, 2, 2, 2, 2), 2.0, "medium")
        write.finding(write.instance("1.4", first, InstanceState.DONE, 3), 0.25)
        # Study 2: analysed by two versions, the newest counts; no zone is gradable.
        twice = write.instance("2.1", write.series("2", "2.1"), InstanceState.DONE, 4)
        write.congestion(twice, (3, 3, 3, 3, 3, 3), 3.0, "high", "3.0")
        write.congestion(twice, (None,) * 6, None, None, "4.0", lungs_found=False)
        # Study 3: nothing was analysed.
        write.instance("3.1", write.series("3", "3.1"), InstanceState.SKIPPED, 5, "excluded_by_rule")
    return sessions


@pytest.fixture
def curved(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    with sessions.begin() as session:
        write = _Example(session)
        # Study 1: two spines, the straighter one for review, and a chest.
        first = write.series("1", "1.1")
        write.spine(write.instance("1.1", first, InstanceState.DONE, 0), (40.5, 20.25, 10.125))
        write.spine(
            write.instance("1.2", first, InstanceState.DONE, 1), (12.5, 6.5, 3.5), "low_confidence,beyond_image"
        )
        write.finding(write.instance("1.3", first, InstanceState.DONE, 2), 0.75)
        # Study 2: analysed by two versions, the newest counts; it has no angle, since a vertebra is missing.
        twice = write.instance("2.1", write.series("2", "2.1"), InstanceState.DONE, 3)
        write.spine(twice, (33.0, 2.0, 1.0), "low_confidence", "5.0")
        write.spine(twice, (), None, "6.0")
        # Study 3: nothing was analysed. Study 4: the main angle alone.
        write.instance("3.1", write.series("3", "3.1"), InstanceState.SKIPPED, 4, "excluded_by_rule")
        write.spine(write.instance("4.1", write.series("4", "4.1"), InstanceState.DONE, 5), (7.5,))
    return sessions


def _rows(sessions: sessionmaker[Session], statement: str) -> Sequence[Any]:
    with sessions() as session:
        return [tuple(row) for row in session.execute(text(statement))]


def test_every_accepted_instance_is_one_row_whatever_became_of_it(example: sessionmaker[Session]) -> None:
    rows = _rows(
        example,
        "SELECT sop_instance_uid, study_instance_uid, series_instance_uid, modality, state, reason"
        " FROM instance_findings ORDER BY sop_instance_uid",
    )
    assert rows == [
        ("1.1.1", "1", "1.1", "DX", "done", None),
        ("1.1.2", "1", "1.1", "DX", "done", None),
        ("1.2.1", "1", "1.2", "DX", "skipped", "excluded_by_rule"),
        ("2.1.1", "2", "2.1", "DX", "done", None),
        ("3.1.1", "3", "3.1", "DX", "failed", "undecodable_pixels"),
        ("3.1.2", "3", "3.1", "DX", "skipped", "no_rule_matched"),
        ("4", None, None, None, "received", None),
        ("5", None, None, None, "queued", None),
    ]


def test_findings_are_null_never_zero_where_nothing_was_analysed(example: sessionmaker[Session]) -> None:
    rows = _rows(
        example,
        "SELECT sop_instance_uid, pneumonia_version, pneumonia_probability, pneumonia_threshold, pneumonia_label,"
        " pneumonia_positive FROM instance_findings ORDER BY sop_instance_uid",
    )
    assert rows == [
        ("1.1.1", "1.0", 0.25, 0.5, "normal", False),
        ("1.1.2", "1.0", 0.75, 0.5, "pneumonia", True),
        ("1.2.1", None, None, None, None, None),
        ("2.1.1", "2.0", 0.125, 0.5, "normal", False),
        ("3.1.1", None, None, None, None, None),
        ("3.1.2", None, None, None, None, None),
        ("4", None, None, None, None, None),
        ("5", None, None, None, None, None),
    ]


def test_a_study_is_one_row_with_its_worst_finding(example: sessionmaker[Session]) -> None:
    rows = _rows(
        example,
        "SELECT study_instance_uid, accession_number, instances, instances_done, instances_skipped, instances_failed,"
        " instances_waiting, pneumonia_probability, pneumonia_positive FROM study_findings ORDER BY study_instance_uid",
    )
    assert rows == [
        ("1", "A1", 3, 2, 1, 0, 0, 0.75, 1),
        ("2", "A2", 1, 1, 0, 0, 0, 0.125, 0),
        ("3", "A3", 2, 0, 1, 1, 0, None, None),
    ]


def test_a_study_says_when_it_began_and_when_the_last_instance_was_settled(example: sessionmaker[Session]) -> None:
    rows = _rows(
        example, "SELECT first_received_at, last_settled_at FROM study_findings WHERE study_instance_uid = '1'"
    )
    assert len(rows) == 1
    first, last = (str(moment).replace("+00:00", "").removesuffix(".000000") for moment in rows[0])
    assert (first, last) == ("2026-01-01 12:00:00", "2026-01-01 12:03:00")


def test_congestion_scores_stand_by_zone_and_are_null_where_ungradable_or_not_analysed(
    congested: sessionmaker[Session],
) -> None:
    rows = _rows(
        congested,
        "SELECT sop_instance_uid, csi_right_sup, csi_left_sup, csi_right_mid, csi_left_mid, csi_right_inf,"
        " csi_left_inf FROM instance_findings ORDER BY sop_instance_uid",
    )
    assert rows == [
        ("1.1", 0, 0, 0, 0, 0, 1),
        ("1.2", 3, 3, 3, 3, 3, None),
        ("1.3", 2, 2, 2, 2, 2, 2),
        ("1.4", *(None,) * 6),
        ("2.1", *(None,) * 6),
        ("3.1", *(None,) * 6),
    ]


def test_an_instance_has_one_row_with_the_newest_finding_of_each_task(congested: sessionmaker[Session]) -> None:
    rows = _rows(
        congested,
        "SELECT sop_instance_uid, pneumonia_probability, csi_version, csi_mean, csi_gradable_zones,"
        " heart_failure_class, csi_lungs_found FROM instance_findings ORDER BY sop_instance_uid",
    )
    assert rows == [
        ("1.1", None, "3.0", pytest.approx(1 / 6), 6, "low", True),
        ("1.2", 0.75, "3.0", 3.0, 5, "high", True),
        ("1.3", None, "3.0", 2.0, 6, "medium", True),
        ("1.4", 0.25, None, None, None, None, None),
        ("2.1", None, "4.0", None, 0, None, False),
        ("3.1", None, None, None, None, None, None),
    ]


def test_a_study_has_the_highest_mean_and_the_worst_class_of_its_instances(congested: sessionmaker[Session]) -> None:
    rows = _rows(
        congested,
        "SELECT study_instance_uid, instances, pneumonia_probability, csi_mean, heart_failure_class"
        " FROM study_findings ORDER BY study_instance_uid",
    )
    assert rows == [("1", 4, 0.75, 3.0, "high"), ("2", 1, None, None, None), ("3", 1, None, None, None)]


def test_angles_stand_by_curve_with_the_vertebrae_that_end_the_main_one(curved: sessionmaker[Session]) -> None:
    rows = _rows(
        curved,
        "SELECT sop_instance_uid, cobb_main, cobb_main_upper_vertebra, cobb_main_lower_vertebra, cobb_upper, cobb_lower"
        " FROM instance_findings ORDER BY sop_instance_uid",
    )
    assert rows == [
        ("1.1", 40.5, "T4", "T11", 20.25, 10.125),
        ("1.2", 12.5, "T4", "T11", 6.5, 3.5),
        ("1.3", *(None,) * 5),
        ("2.1", *(None,) * 5),
        ("3.1", *(None,) * 5),
        ("4.1", 7.5, "T4", "T11", None, None),
    ]


def test_an_instance_says_whether_its_landmarks_are_to_be_reviewed_and_why(curved: sessionmaker[Session]) -> None:
    rows = _rows(
        curved,
        "SELECT sop_instance_uid, landmarks_version, landmarks_confidence, landmarks_review, landmarks_review_reasons,"
        " pneumonia_probability FROM instance_findings ORDER BY sop_instance_uid",
    )
    assert rows == [
        ("1.1", "5.0", 0.75, False, None, None),
        ("1.2", "5.0", 0.75, True, "low_confidence,beyond_image", None),
        ("1.3", None, None, None, None, 0.75),
        ("2.1", "6.0", 0.75, False, None, None),
        ("3.1", None, None, None, None, None),
        ("4.1", "5.0", 0.75, False, None, None),
    ]


def test_a_study_has_the_largest_main_angle_and_asks_for_review_when_any_image_does(
    curved: sessionmaker[Session],
) -> None:
    rows = _rows(
        curved,
        "SELECT study_instance_uid, instances, pneumonia_probability, cobb_main, landmarks_review"
        " FROM study_findings ORDER BY study_instance_uid",
    )
    assert rows == [
        ("1", 3, 0.75, 40.5, 1),
        ("2", 1, None, None, 0),
        ("3", 1, None, None, None),
        ("4", 1, None, 7.5, 0),
    ]


def test_columns_of_an_older_view_stand_where_they_stood(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        names = list(session.execute(text("SELECT * FROM instance_findings")).keys())
        of_study = list(session.execute(text("SELECT * FROM study_findings")).keys())
    assert names.index("csi_left_inf") + 1 == names.index("landmarks_version")
    assert names[-1] == "cobb_lower"
    assert of_study[-3:] == ["heart_failure_class", "cobb_main", "landmarks_review"]
