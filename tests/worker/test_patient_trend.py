"""A patient's studies stay together over time as far as the mode of identity allows it, from header to trend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.records.dicom import Study
from models.records.trend import Measure, prior_results
from models.settings import PatientIdentity
from worker.settlement import Settlement


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (PatientIdentity.FULL, [("1.1.1000", 1.0)]),
        (PatientIdentity.PSEUDONYMISED, [("1.1.1000", 1.0)]),
        (PatientIdentity.NONE, []),
    ],
)
def test_a_trend_has_the_studies_of_one_patient_of_one_issuer(
    sqlite_sessions: sessionmaker[Session], outcomes: Any, mode: PatientIdentity, expected: list[tuple[str, float]]
) -> None:
    headers = {
        "1.1.1": {"IssuerOfPatientID": "CLINIC", "StudyDate": "20260101"},
        "1.2.1": {"IssuerOfPatientID": "OTHER", "StudyDate": "20260102"},
        "1.3.1": {"IssuerOfPatientID": "CLINIC", "StudyDate": "20260103", "PatientID": "ID8"},
        "1.4.1": {"IssuerOfPatientID": "CLINIC ", "StudyDate": "20260104"},
    }
    batch = [
        replace(
            outcomes.done(uid, facts=outcomes.facts(uid, mode, **header)), results=(outcomes.congestion(*(1,) * 6),)
        )
        for uid, header in headers.items()
    ]
    Settlement(sqlite_sessions, "keep_first", []).settle(batch)
    with sqlite_sessions() as session:
        newest = session.scalars(select(Study).where(Study.study_instance_uid == "1.4.1000")).one()
        found = prior_results(session, newest, Measure.CSI_MEAN)
    assert [(prior.study_instance_uid, prior.value) for prior in found] == expected
