"""What a study summary says, against records written by hand: the worst of each task, what is missing, the trend."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker
from stand_in_records import Records
from summarised_study import PATIENT, STUDY_UID, write_report, write_slip, write_study

from models.records.dicom import Instance, InstanceState
from models.records.findings import ClassificationFinding
from models.records.inference import Inference
from models.records.trend import Measure
from models.spine.cobb import Curve
from models.spine.slips import SlipKind
from models.tasks import Task
from models.zones import HeartFailureClass, Zone
from worker.study_summary import StudyFacts, read_study

Sessions = sessionmaker[Session]
CHEST_1, CHEST_2, SPINE = f"{STUDY_UID}.1.1", f"{STUDY_UID}.1.2", f"{STUDY_UID}.2.1"
DONE, SKIPPED, FAILED = InstanceState.DONE, InstanceState.SKIPPED, InstanceState.FAILED


class Desk:
    """Writes records of one study and reads its summary."""

    def __init__(self, session: Session) -> None:
        self.write = Records(session)
        self.session = session
        self.study = self.write.study(STUDY_UID, date(2026, 3, 1), **PATIENT)
        self.series = self.write.series(STUDY_UID, f"{STUDY_UID}.1")

    def film(self, number: int, **attributes: Any) -> Instance:
        return self.write.instance(f"{STUDY_UID}.1.{number}", self.series, **attributes)

    def read(self) -> StudyFacts:
        self.session.flush()
        return read_study(self.session, self.study)


@pytest.fixture
def desk(sqlite_sessions: Sessions) -> Any:
    with sqlite_sessions.begin() as session:
        yield Desk(session)


def test_the_worst_of_each_task_is_told_with_its_instance_and_version(sessions: Sessions) -> None:
    with sessions.begin() as session:
        facts = read_study(session, write_study(Records(session)))
    assert facts.answered == {Task.PNEUMONIA: 2, Task.NORMALITY: 2, Task.CSI: 2, Task.LANDMARKS: 1}
    told = [(each.origin.task, each.positive, each.probability, each.threshold) for each in facts.classes]
    assert told == [(Task.PNEUMONIA, True, 0.8125, 0.5), (Task.NORMALITY, False, 0.40625, 0.5)]
    assert facts.classes[0].origin.source.sop_instance_uid == CHEST_2
    assert (facts.classes[0].origin.version, facts.classes[0].origin.network) == ("1.0", "n")
    assert facts.congestion is not None
    assert (facts.congestion.mean_csi, facts.congestion.heart_failure_class) == (2.4, HeartFailureClass.HIGH)
    assert facts.congestion.gradable_zones == 5
    zones = {each.zone: (each.score, each.origin.source.sop_instance_uid) for each in facts.zones}
    assert zones == {
        Zone.RIGHT_SUP: (3, CHEST_2),
        Zone.LEFT_SUP: (2, CHEST_2),
        Zone.RIGHT_MID: (2, CHEST_1),
        Zone.LEFT_MID: (3, CHEST_1),
        Zone.RIGHT_INF: (None, CHEST_1),
        Zone.LEFT_INF: (3, CHEST_2),
    }
    assert [(each.curve, each.degrees) for each in facts.curves] == [
        (Curve.MAIN, 31.25),
        (Curve.UPPER, 12.0),
        (Curve.LOWER, 9.5),
    ]
    assert facts.slip is not None
    assert (facts.slip.kind, facts.slip.percent, facts.slip.grade) == (SlipKind.ANTEROLISTHESIS, 27.5, 2)
    assert facts.spine is not None
    assert (facts.spine.mean_confidence, facts.spine.to_review) == (0.75, 1)


def test_what_was_not_analysed_is_counted_with_its_reason(sessions: Sessions) -> None:
    with sessions.begin() as session:
        facts = read_study(session, write_study(Records(session)))
    assert (facts.count(DONE), facts.count(SKIPPED), facts.count(FAILED)) == (3, 1, 1)
    reasons = {each.reference.sop_instance_uid: each.reason for each in facts.instances if each.reason}
    assert reasons == {f"{STUDY_UID}.1.8": "not_a_radiograph", f"{STUDY_UID}.1.9": "decode_timeout"}


def test_the_trend_ends_with_the_worst_of_this_study(sessions: Sessions) -> None:
    with sessions.begin() as session:
        facts = read_study(session, write_study(Records(session)))
    csi, cobb = facts.trends
    assert (csi.measure, csi.value, csi.origin.source.sop_instance_uid) == (Measure.CSI_MEAN, 2.4, CHEST_2)
    assert [(prior.study_date, prior.value) for prior in csi.priors] == [
        (date(2025, 1, 1), 1.0),
        (date(2025, 2, 1), 1.5),
    ]
    assert csi.change == pytest.approx(0.9)
    assert (cobb.measure, cobb.value, cobb.origin.source.sop_instance_uid) == (Measure.COBB_MAIN, 31.25, SPINE)
    assert [prior.value for prior in cobb.priors] == [20.0, 24.5]
    assert cobb.change == 6.75


def test_values_of_two_versions_are_shown_and_not_subtracted(desk: Desk) -> None:
    before = desk.write.study("1.2.7", date(2025, 1, 1), **PATIENT)
    old = desk.write.instance("1.2.7.1", desk.write.series(before.study_instance_uid, "1.2.7.2"))
    desk.write.congestion(old, (1,) * 6, 1.0, "low", version="3.0")
    desk.write.congestion(desk.film(1), (2,) * 6, 2.0, "medium", version="4.0")
    (trend,) = desk.read().trends
    assert [prior.value for prior in trend.priors] == [1.0]
    assert trend.change is None


@pytest.mark.parametrize("patient", [{}, {"patient_id": "4711"}, {"patient_id": "4712", "patient_id_issuer": "CLINIC"}])
def test_there_is_no_trend_where_nothing_earlier_is_of_the_patient(desk: Desk, patient: dict[str, str]) -> None:
    before = desk.write.study("1.2.7", date(2025, 1, 1), **patient)
    old = desk.write.instance("1.2.7.1", desk.write.series(before.study_instance_uid, "1.2.7.2"))
    desk.write.congestion(old, (1,) * 6, 1.0, "low")
    desk.write.congestion(desk.film(1), (2,) * 6, 2.0, "medium")
    assert desk.read().trends == ()


def test_there_is_no_trend_of_what_this_study_does_not_show(desk: Desk) -> None:
    before = desk.write.study("1.2.7", date(2025, 1, 1), **PATIENT)
    old = desk.write.instance("1.2.7.1", desk.write.series(before.study_instance_uid, "1.2.7.2"))
    desk.write.congestion(old, (1,) * 6, 1.0, "low")
    desk.write.congestion(desk.film(1), (None,) * 6, None, None)
    facts = desk.read()
    assert facts.trends == ()
    assert facts.congestion is not None
    assert facts.congestion.mean_csi is None


def test_a_positive_answer_is_worse_than_a_higher_probability_of_a_version_that_says_no(desk: Desk) -> None:
    desk.write.finding(desk.film(1), 0.5)
    desk.write.finding(other := desk.film(2), 0.6)
    answer = desk.session.query(Inference).filter_by(instance_id=other.id).one()
    row = desk.session.get_one(ClassificationFinding, answer.id)
    row.threshold, row.positive = 0.7, False
    (worst,) = desk.read().classes
    assert (worst.positive, worst.probability, worst.threshold) == (True, 0.5, 0.5)


def test_only_the_newest_answer_of_an_instance_counts(desk: Desk) -> None:
    film = desk.film(1)
    desk.write.finding(film, 0.9, version="1.0")
    desk.write.finding(film, 0.25, version="2.0")
    (worst,) = desk.read().classes
    assert (worst.probability, worst.origin.version) == (0.25, "2.0")


def test_the_farthest_slip_counts_whichever_way_and_none_is_none(desk: Desk) -> None:
    for number, percent in ((1, 4.0), (2, 12.0)):
        desk.write.spine(film := desk.film(number), ())
        write_slip(desk.write, film, percent)
    slip = desk.read().slip
    assert slip is not None
    assert slip.percent == 12.0
    desk.write.spine(film := desk.film(3), ())
    write_slip(desk.write, film, -30.0)
    slip = desk.read().slip
    assert slip is not None
    assert (slip.kind, slip.percent) == (SlipKind.RETROLISTHESIS, -30.0)


def test_a_spine_without_slip_or_curve_tells_neither(desk: Desk) -> None:
    desk.write.spine(film := desk.film(1), ())
    write_slip(desk.write, film, 4.0)
    facts = desk.read()
    assert (facts.slip, facts.curves) == (None, ())
    assert facts.spine is not None
    assert facts.spine.to_review == 0


def test_our_own_outputs_that_came_back_are_no_part_of_the_study(desk: Desk) -> None:
    desk.write.finding(film := desk.film(1), 0.9)
    write_report(desk.write, film, f"{STUDY_UID}.1.7")
    alone = desk.read()
    desk.film(6, state=SKIPPED, reason="own_output")
    desk.film(7, state=FAILED, reason="decode_timeout")  # in the list of outputs
    assert desk.read() == alone
    assert [each.reference.sop_instance_uid for each in alone.instances] == [CHEST_1]


def test_the_reports_of_the_newest_answers_are_named_and_no_others(desk: Desk) -> None:
    film = desk.film(1, received_at=None, revision=1)
    desk.write.finding(film, 0.9, version="1.0")
    desk.write.finding(film, 0.8, version="2.0")
    write_report(desk.write, film, "2.25.1", version="1.0")
    write_report(desk.write, film, "2.25.2", version="2.0", minute=-1)  # of bytes that were replaced
    write_report(desk.write, film, "2.25.3", version="2.0")
    write_report(desk.write, film, "2.25.4", version=None)  # it was not analysed once
    failed = desk.film(2, state=FAILED, reason="decode_timeout")
    write_report(desk.write, failed, "2.25.5", version=None)
    named = [[report.sop_instance_uid for report in each.reports] for each in desk.read().instances]
    assert named == [["2.25.3"], ["2.25.5"]]


@pytest.mark.parametrize(
    "change",
    [
        lambda desk, film: desk.film(9, state=SKIPPED, reason="not_a_radiograph"),
        lambda desk, film: setattr(film, "content_sha256", "1" * 64),
        lambda desk, film: setattr(film, "revision", 1),
        lambda desk, film: desk.write.finding(film, 0.9, version="2.0"),
        lambda desk, film: write_report(desk.write, film, "2.25.9"),
    ],
)
def test_what_says_something_else_has_another_digest(desk: Desk, change: Callable[[Desk, Instance], object]) -> None:
    film = desk.film(1)
    desk.write.finding(film, 0.9)
    before = desk.read().digest
    assert desk.read().digest == before
    change(desk, film)
    assert desk.read().digest != before


def test_both_databases_and_any_order_of_arrival_give_one_digest(sessions: Sessions, sqlite_sessions: Sessions) -> None:
    digests = []
    for number, each in enumerate((sessions, sqlite_sessions)):
        with each.begin() as session:
            write = Records(session)
            study, series = write.study("1.2.8", date(2026, 3, 1)), write.series("1.2.8", "1.2.8.1")
            for uid in ("1.2.8.1.1", "1.2.8.1.2")[:: -1 if number else 1]:
                write.finding(write.instance(uid, series), 1 / 3)
            digests.append(read_study(session, study).digest)
    assert digests[0] == digests[1]


def test_of_a_study_without_instances_nothing_is_told(desk: Desk) -> None:
    facts = desk.read()
    assert (facts.instances, facts.classes, facts.congestion, facts.spine, facts.trends) == ((), (), None, None, ())
