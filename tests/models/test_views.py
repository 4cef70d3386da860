"""The analysts' views on a worked example: one row per instance and per study, null where nothing was analysed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_records import Records

from models.records.dicom import InstanceState
from models.requests import Lane
from models.tasks import Task


@pytest.fixture
def example(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    with sessions.begin() as session:
        write = Records(session)
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
        write = Records(session)
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
        write = Records(session)
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


@pytest.fixture
def busy(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """A night and a morning: receipts on both sides of midnight UTC, two senders, two modalities."""
    late, early = datetime(2026, 1, 4, 23, 59, 59, 500000, tzinfo=UTC), datetime(2026, 1, 5, 0, 0, 1, tzinfo=UTC)
    with sessions.begin() as session:
        write = Records(session)
        film, plate = write.series("1", "1.1", "CR"), write.series("1", "1.2", "DX")
        delivered = {"delivered_at": late + timedelta(seconds=10), "committed_at": late + timedelta(seconds=20)}
        write.instance("1", film, received_at=late, settled_after_s=2.5, lane=Lane.STAT, duplicates=2, **delivered)
        write.instance("2", film, received_at=late, settled_after_s=3.5, revision=1, conflicts=1)
        write.instance("3", film, InstanceState.SKIPPED, received_at=early, settled_after_s=1)
        write.instance("4", plate, InstanceState.FAILED, received_at=early, settled_after_s=4)
        write.instance("5", plate, received_at=early, settled_after_s=6, calling_ae_title="OTHER")
        write.instance("6", None, InstanceState.QUEUED, received_at=early)
        write.instance("7", None, InstanceState.RECEIVED, received_at=early)
    return sessions


def test_a_day_has_a_row_for_each_modality_and_sender_by_utc(busy: sessionmaker[Session]) -> None:
    rows = _rows(
        busy,
        "SELECT day, modality, calling_ae_title, received, waiting, done, skipped, failed, stat, duplicates, conflicts,"
        " delivered FROM daily_volume ORDER BY day, COALESCE(modality, ''), calling_ae_title",
    )
    assert [(str(row[0]), *row[1:]) for row in rows] == [
        ("2026-01-04", "CR", "MODALITY", 2, 0, 2, 0, 0, 1, 2, 1, 1),
        ("2026-01-05", None, "MODALITY", 2, 2, 0, 0, 0, 0, 0, 0, 0),
        ("2026-01-05", "CR", "MODALITY", 1, 0, 0, 1, 0, 0, 0, 0, 0),
        ("2026-01-05", "DX", "MODALITY", 1, 0, 0, 0, 1, 0, 0, 0, 0),
        ("2026-01-05", "DX", "OTHER", 1, 0, 1, 0, 0, 0, 0, 0, 0),
    ]


def test_a_day_has_mean_and_longest_latency_and_null_where_nothing_is_settled_or_delivered(
    busy: sessionmaker[Session],
) -> None:
    rows = _rows(
        busy,
        "SELECT settle_latency_mean_s, settle_latency_max_s, delivery_latency_mean_s, delivery_latency_max_s"
        " FROM daily_volume ORDER BY day, COALESCE(modality, ''), calling_ae_title",
    )
    exactly = [pytest.approx(seconds, abs=0.002) for seconds in (3.0, 3.5, 10.0, 10.0)]
    assert rows[0] == tuple(exactly)
    assert rows[1] == (None,) * 4
    assert rows[2] == (pytest.approx(1, abs=0.002), pytest.approx(1, abs=0.002), None, None)


def test_an_instance_has_its_utc_day_the_monday_of_its_week_and_its_times_and_counts(
    busy: sessionmaker[Session],
) -> None:
    rows = _rows(
        busy,
        "SELECT received_day, received_week, settle_latency_s, delivery_latency_s, committed_at IS NOT NULL, revision,"
        " duplicates, conflicts FROM instance_findings ORDER BY sop_instance_uid",
    )
    about = [pytest.approx(seconds, abs=0.002) for seconds in (2.5, 10, 3.5)]
    # 2026-01-04 was a Sunday, 2026-01-05 a Monday.
    assert [str(value) for value in rows[0][:2]] == ["2026-01-04", "2025-12-29"]
    assert rows[0][2:] == (about[0], about[1], True, 0, 2, 0)
    assert rows[1][2:] == (about[2], None, False, 1, 0, 1)
    assert [str(value) for value in rows[2][:2]] == ["2026-01-05", "2026-01-05"]
    assert rows[5][2:4] == (None, None)


def test_a_study_says_how_many_of_its_instances_are_delivered_and_committed(busy: sessionmaker[Session]) -> None:
    rows = _rows(
        busy,
        "SELECT instances, instances_delivered, instances_committed, last_delivered_at, last_committed_at"
        " FROM study_findings",
    )
    assert [row[:3] for row in rows] == [(5, 1, 1)]
    moments = [str(moment).removesuffix("+00:00").removesuffix("000")[:21] for moment in rows[0][3:]]
    assert moments == ["2026-01-05 00:00:09.5", "2026-01-05 00:00:19.5"]


def test_a_study_names_a_version_where_one_answered_for_all_of_it(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        write = Records(session)
        series = write.series("1", "1.1")
        write.finding(write.instance("1.1", series), 0.25, "1.0")
        write.finding(write.instance("1.2", series), 0.75, "2.0")
        write.congestion(write.instance("1.3", series), (1,) * 6, 1.0, "low", "4.0")
        write.finding(write.instance("1.4", series), 0.125, "1.0", Task.NORMALITY)
    read = (
        "SELECT pneumonia_version, csi_version, landmarks_version, normality_probability, normality_positive"
        " FROM study_findings"
    )
    assert _rows(sessions, read) == [(None, "4.0", None, 0.125, 0)]
    of_instances = "SELECT normality_version, normality_label, normality_positive FROM instance_findings"
    assert sorted(_rows(sessions, of_instances), key=str)[0] == ("1.0", "normal", False)


@pytest.fixture
def served(sessions: sessionmaker[Session]) -> sessionmaker[Session]:
    """Two months of answers, the last of them by backfill, and a shadow of two of them."""
    january, february = datetime(2026, 1, 31, 23, 59, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    with sessions.begin() as session:
        write = Records(session)
        series = write.series("1", "1.1")
        early = [write.instance(f"1.{n}", series, received_at=january, settled_after_s=10 + n) for n in range(4)]
        for instance, probability in zip(early, (0.125, 0.25, 0.75, 0.875), strict=True):
            write.finding(instance, probability, inferred_at=january + timedelta(seconds=2))
        write.finding(early[0], 0.5, "2.0", inferred_at=february)
        later = write.instance("2.1", series, received_at=february, settled_after_s=5)
        write.finding(later, 0.5, inferred_at=february + timedelta(seconds=1))
        write.congestion(early[0], (3, 0, 0, 0, 0, 0), 0.5, "low", inferred_at=january)
        write.congestion(early[1], (None,) * 6, None, None, inferred_at=january)
        write.spine(early[2], (20,), "low_confidence", inferred_at=january)
        for number in range(3):
            write.spine(early[number], (20,), inferred_at=january, version="6.0")
        for instance, agrees in zip(early, (True, True, True, False), strict=True):
            write.shadow(instance, agrees, inferred_at=january + timedelta(seconds=2))
        write.shadow(later, False, inferred_at=february + timedelta(seconds=1))
    return sessions


def test_a_version_has_a_row_a_month_with_its_answers_and_scores(served: sessionmaker[Session]) -> None:
    rows = _rows(
        served,
        "SELECT task, version, month, month_number, answers, positive, positive_share, without_score, score_mean,"
        " score_min, score_max, review_share FROM model_performance ORDER BY task, version, month",
    )
    assert [(*row[:2], str(row[2]), *row[3:]) for row in rows] == [
        # 0.5 of 3 is a sixth; the film without a gradable zone has no score.
        ("csi", "3.0", "2026-01-01", 24313, 2, None, None, 1, *(pytest.approx(1 / 6),) * 3, None),
        ("landmarks", "5.0", "2026-01-01", 24313, 1, None, None, 0, 0.75, 0.75, 0.75, 1.0),
        ("landmarks", "6.0", "2026-01-01", 24313, 3, None, None, 0, 0.75, 0.75, 0.75, 0.0),
        ("pneumonia", "1.0", "2026-01-01", 24313, 4, 2, 0.5, 0, 0.5, 0.125, 0.875, None),
        ("pneumonia", "1.0", "2026-02-01", 24314, 1, 1, 1.0, 0, 0.5, 0.5, 0.5, None),
        ("pneumonia", "2.0", "2026-02-01", 24314, 1, 1, 1.0, 0, 0.5, 0.5, 0.5, None),
    ]


def test_a_version_says_how_soon_its_answers_were_settled_and_how_often_a_shadow_agreed(
    served: sessionmaker[Session],
) -> None:
    rows = _rows(
        served,
        "SELECT infer_to_settle_mean_s, infer_to_settle_max_s, shadow_compared, shadow_agreement"
        " FROM model_performance WHERE task = 'pneumonia' ORDER BY version, month",
    )
    # Settled 10, 11, 12 and 13 s after receipt, inferred 2 s after it. A backfill comes after settling.
    assert rows == [
        (pytest.approx(9.5, abs=0.002), pytest.approx(11, abs=0.002), 4, 0.75),
        (pytest.approx(4, abs=0.002), pytest.approx(4, abs=0.002), 1, 0.0),
        (None, None, None, None),
    ]


def test_columns_of_an_older_view_stand_where_they_stood(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        names = list(session.execute(text("SELECT * FROM instance_findings")).keys())
        of_study = list(session.execute(text("SELECT * FROM study_findings")).keys())
    assert names.index("csi_left_inf") + 1 == names.index("landmarks_version")
    assert names.index("cobb_lower") + 1 == names.index("patient_id_issuer")
    first = of_study.index("heart_failure_class")
    assert of_study[first : first + 4] == ["heart_failure_class", "cobb_main", "landmarks_review", "patient_id_issuer"]
