"""The analysts' views on a worked example: one row per instance and per study, null where nothing was analysed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.findings import ClassificationFinding
from models.records.inference import Inference, ModelVersion
from models.requests import Lane
from models.tasks import Task

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _at(minute: int) -> datetime:
    return NOON.replace(minute=minute)


class _Example:
    """Writes rows as a worker would, in few words."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.versions = {
            (task, name): self._add(
                ModelVersion(task=task, version=name, network="n", network_sha256="0" * 64, first_served_at=NOON)
            )
            for task, name in [(Task.PNEUMONIA, "1.0"), (Task.PNEUMONIA, "2.0"), (Task.NORMALITY, "1.0")]
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

    def finding(
        self, instance: Instance, probability: float, version: str = "1.0", task: Task = Task.PNEUMONIA
    ) -> None:
        inference = self._add(
            Inference(
                instance_id=instance.id,
                model_version_id=self.versions[task, version].id,
                provider="onnxruntime",
                precision="fp32",
                inferred_at=NOON,
            )
        )
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
