"""What earlier studies of a patient showed: only of the same patient, in order, the newest answers, not too many."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from stand_in_records import Records

from models.records.dicom import InstanceState, Study
from models.records.trend import Measure, PriorResult, prior_results

Sessions = sessionmaker[Session]


def _study(write: Records, uid: str, day: date | None, *means: float | None, version: str = "3.0") -> Study:
    """A study of Jane with a film for each mean."""
    study = write.study(uid, day, patient_id="JANE", patient_id_issuer="CLINIC")
    _films(write, uid, *means, version=version)
    return study


def _films(write: Records, uid: str, *means: float | None, version: str = "3.0") -> None:
    series = write.series(uid, f"{uid}.1")
    for number, mean in enumerate(means):
        film = write.instance(f"{uid}.1.{number}", series)
        write.congestion(film, (None if mean is None else 1,) * 6, mean, None if mean is None else "low", version)


def test_prior_studies_come_oldest_first_with_their_worst_film_and_its_version(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write = Records(session)
        _study(write, "2", date(2026, 2, 1), 0.5, 1.5, None)
        _study(write, "1", date(2026, 1, 1), 2.5, version="4.0")
        _study(write, "4", date(2026, 4, 1), 3.0)
        now = _study(write, "3", date(2026, 3, 1), 2.0)
        assert prior_results(session, now, Measure.CSI_MEAN) == (
            PriorResult("1", date(2026, 1, 1), 2.5, "4.0"),
            PriorResult("2", date(2026, 2, 1), 1.5, "3.0"),
        )


def test_studies_of_one_day_are_in_the_order_in_which_they_came(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write = Records(session)
        first, second, third = (_study(write, str(n), date(2026, 1, 1), n / 2) for n in (1, 2, 3))
        found = [
            [prior.study_instance_uid for prior in prior_results(session, study, Measure.CSI_MEAN)]
            for study in (first, second, third)
        ]
    assert found == [[], ["1"], ["1", "2"]]


def test_only_the_newest_answer_of_an_instance_counts_also_where_it_has_no_value(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write = Records(session)
        for uid, mean in (("1", 0.5), ("2", None)):
            _study(write, uid, date(2026, 1, int(uid)))
            film = write.instance(f"{uid}.1", write.series(uid, f"{uid}.2"))
            write.congestion(film, (3,) * 6, 3.0, "high", "3.0")
            write.congestion(film, (None if mean is None else 1,) * 6, mean, None if mean is None else "low", "4.0")
        now = _study(write, "3", date(2026, 3, 1))
        assert prior_results(session, now, Measure.CSI_MEAN) == (PriorResult("1", date(2026, 1, 1), 0.5, "4.0"),)


def test_main_angles_are_followed_likewise_and_a_spine_without_one_is_left_out(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write = Records(session)
        for day, angles in enumerate(((20.5, 9.0), (), (30.5,)), start=1):
            _study(write, str(day), date(2026, 1, day), 1.0)
            write.spine(write.instance(f"{day}.9", write.series(str(day), f"{day}.2")), angles)
        now = _study(write, "9", date(2026, 3, 1))
        assert prior_results(session, now, Measure.COBB_MAIN) == (
            PriorResult("1", date(2026, 1, 1), 20.5, "5.0"),
            PriorResult("3", date(2026, 1, 3), 30.5, "5.0"),
        )


def test_the_newest_are_kept_where_there_are_too_many(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write = Records(session)
        for day in range(1, 6):
            _study(write, str(day), date(2026, 1, day), 1.0)
        now = _study(write, "9", date(2026, 3, 1))
        found = prior_results(session, now, Measure.CSI_MEAN, at_most=2)
    assert [prior.study_instance_uid for prior in found] == ["4", "5"]


@pytest.mark.parametrize(
    ("own", "other", "same"),
    [
        (("JANE", "CLINIC"), ("JANE", "CLINIC"), True),
        (("JANE", None), ("JANE", None), True),
        (("JANE", "CLINIC"), ("JANE", "OTHER CLINIC"), False),
        (("JANE", "CLINIC"), ("JANE", None), False),
        (("JANE", None), ("JANE", "CLINIC"), False),
        (("JANE", "CLINIC"), ("ROE", "CLINIC"), False),
        ((None, None), (None, None), False),
        ((None, "CLINIC"), (None, "CLINIC"), False),
    ],
)
def test_a_patient_is_the_same_by_identifier_and_issuer_together(
    sessions: Sessions, own: tuple[str | None, str | None], other: tuple[str | None, str | None], same: bool
) -> None:
    with sessions.begin() as session:
        write = Records(session)
        write.study("1", date(2026, 1, 1), patient_id=other[0], patient_id_issuer=other[1])
        _films(write, "1", 1.0)
        now = write.study("2", date(2026, 2, 1), patient_id=own[0], patient_id_issuer=own[1])
        assert bool(prior_results(session, now, Measure.CSI_MEAN)) == same


def test_without_dates_nothing_is_prior(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write = Records(session)
        undated = _study(write, "1", None, 1.0)
        _study(write, "2", date(2026, 1, 1), 1.0)
        now = _study(write, "3", date(2026, 2, 1), 1.0)
        assert prior_results(session, undated, Measure.CSI_MEAN) == ()
        assert [prior.study_instance_uid for prior in prior_results(session, now, Measure.CSI_MEAN)] == ["2"]


def test_a_study_that_was_not_analysed_is_no_point_of_a_trend(sessions: Sessions) -> None:
    with sessions.begin() as session:
        write = Records(session)
        _study(write, "1", date(2026, 1, 1))
        write.instance("1.9", write.series("1", "1.9"), InstanceState.SKIPPED, reason="no_rule_matched")
        now = _study(write, "2", date(2026, 2, 1), 1.0)
        assert prior_results(session, now, Measure.CSI_MEAN) == ()
