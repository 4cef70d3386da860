"""Deletes the records of old studies, all rows of a study in one transaction and in the order of the foreign keys.

A study is old when its last instance was received before a moment. It is left alone while anything of it is
unfinished, and where it is on hold. Nothing is kept of a deleted study: an instance of it that comes again is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select
from sqlalchemy.orm import Session, sessionmaker

from models.audit.events import Patient, StudyTouched
from models.records.base import Base
from models.records.dicom import SETTLED_STATES, Instance, Series, Study
from models.records.findings import FINDING_KINDS
from models.records.inference import Inference
from models.records.outputs import Delivery, DeliveryState, Output
from models.records.shadow import ShadowFinding
from models.records.summaries import StudySummary, SummaryState

BATCH: Final = 20
"""Studies, or instances of none, deleted in one transaction: short enough for a feed that waits for it."""
KEPT_TABLES: Final = {
    "model_version": "versions outlive what they answered",
    "commitment_request": "a job of its own, by age",
    "schema_compatibility": "of the database itself",
    "process": "of running processes",
}
"""Tables that the deletion of a study leaves alone, and why."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """One study that was deleted, or the instances that belong to none.

    Attributes:
        told: for the audit trail.
        file_names: of its outputs.
        spool_keys: of its instances.
    """

    told: StudyTouched
    file_names: tuple[str, ...]
    spool_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Old studies by what is to become of them; the ids of those to be deleted, oldest first."""

    due: list[int]
    unfinished: int
    held: int
    loose_instances: list[int]


class RecordRetention:
    """Finds and deletes.

    Args:
        sessions: of the records.
        before: studies whose last instance was received before.
        held: Study Instance UIDs that are left alone.
    """

    def __init__(self, sessions: sessionmaker[Session], before: datetime, held: frozenset[str]) -> None:
        self._sessions = sessions
        self._before = before
        self._held = held

    def find(self) -> Found:
        """Look, changing nothing."""
        with self._sessions() as session:
            session.connection(execution_options={"read_only": True})
            old = session.execute(self._old_studies()).all()
            due_ids = set(session.scalars(self._old_studies().with_only_columns(Study.id).where(~_unfinished())))
            loose = list(session.scalars(self._loose_instances().order_by(Instance.received_at)).all())
        free = [row for row in old if row.study_instance_uid not in self._held]
        due = [row.id for row in free if row.id in due_ids]
        return Found(due, len(free) - len(due), len(old) - len(free), loose)

    def delete_studies(self, ids: Sequence[int]) -> list[Deleted]:
        """Delete those of some studies that are still due, in one transaction; give what was deleted."""
        with self._sessions.begin() as session:
            # What somebody else has in hand is not old; it is looked at next time.
            locked = (
                self._old_studies().where(Study.id.in_(ids), ~_unfinished()).with_for_update(of=Study, skip_locked=True)
            )
            rows = session.execute(locked).all()
            chosen = [row for row in rows if row.study_instance_uid not in self._held]
            deleted = [self._describe(session, row.study_instance_uid, row.patient_id, row.id) for row in chosen]
            _delete_rows(session, [row.id for row in chosen])
            return deleted

    def delete_loose(self, ids: Sequence[int]) -> list[Deleted]:
        """Delete instances that belong to no study, likewise."""
        with self._sessions.begin() as session:
            of_these = self._loose_instances().where(Instance.id.in_(ids)).with_for_update(skip_locked=True)
            chosen = list(session.scalars(of_these))
            if not chosen:
                return []
            deleted = _described(session, None, None, Instance.id.in_(chosen), Output.instance_id.in_(chosen))
            _delete_of_instances(session, select(Instance.id).where(Instance.id.in_(chosen)))
            session.execute(_delete_where(Instance, Instance.id.in_(chosen)))
            return [deleted]

    def _old_studies(self) -> Select[int, str, str | None]:
        young = (
            select(Instance.id)
            .join(Series, Series.id == Instance.series_id)
            .where(Series.study_id == Study.id, Instance.received_at >= self._before)
        )
        any_instance = select(Instance.id).join(Series, Series.id == Instance.series_id)
        any_instance = any_instance.where(Series.study_id == Study.id)
        return (
            select(Study.id, Study.study_instance_uid, Study.patient_id)
            .where(exists(any_instance), ~exists(young))
            .order_by(Study.id)
        )

    def _loose_instances(self) -> Select[int]:
        outputs = select(Output.id).where(Output.instance_id == Instance.id)
        return select(Instance.id).where(
            Instance.series_id.is_(None),
            Instance.state.in_(SETTLED_STATES),
            Instance.received_at < self._before,
            ~exists(select(Delivery.id).where(Delivery.output_id.in_(outputs), _open_delivery())),
        )

    def _describe(self, session: Session, uid: str, patient_id: str | None, study_id: int) -> Deleted:
        instances = Instance.series_id.in_(select(Series.id).where(Series.study_id == study_id))
        of_instances = select(Instance.id).where(instances)
        outputs = or_(Output.study_id == study_id, Output.instance_id.in_(of_instances))
        return _described(session, uid, patient_id, instances, outputs)


def _described(
    session: Session,
    uid: str | None,
    patient_id: str | None,
    instances: ColumnElement[bool],
    outputs: ColumnElement[bool],
) -> Deleted:
    columns = select(Instance.sop_class_uid, Instance.sop_instance_uid, Instance.content_sha256)
    rows = session.execute(columns.where(instances)).all()
    files = session.scalars(select(Output.file_name).where(outputs)).all()
    keys = tuple(f"{row.sop_instance_uid}_{row.content_sha256[:16]}" for row in rows)
    patient = Patient(patient_id) if patient_id else None
    return Deleted(StudyTouched(uid, Counter(row.sop_class_uid for row in rows), patient), tuple(files), keys)


def _open_delivery() -> ColumnElement[bool]:
    return or_(Delivery.state == DeliveryState.PENDING, Delivery.commitment_due_at.is_not(None))


def _unfinished() -> ColumnElement[bool]:
    """Whether a study has an instance to be inferred, an output to be sent or committed to, or a summary to be made."""
    instances = (
        select(Instance.id)
        .join(Series, Series.id == Instance.series_id)
        .where(Series.study_id == Study.id)
        .correlate(Study)
    )
    outputs = select(Output.id).where(or_(Output.study_id == Study.id, Output.instance_id.in_(instances)))
    return or_(
        exists(instances.where(Instance.state.not_in(SETTLED_STATES))),
        exists(select(Delivery.id).where(Delivery.output_id.in_(outputs.correlate(Study)), _open_delivery())),
        exists(
            select(StudySummary.study_id).where(
                StudySummary.study_id == Study.id, StudySummary.state == SummaryState.DUE
            )
        ),
    )


def _delete_rows(session: Session, study_ids: Sequence[int]) -> None:
    if not study_ids:
        return
    series = select(Series.id).where(Series.study_id.in_(study_ids))
    instances = select(Instance.id).where(Instance.series_id.in_(series))
    _delete_outputs(session, Output.study_id.in_(study_ids))
    _delete_of_instances(session, instances)
    session.execute(_delete_where(StudySummary, StudySummary.study_id.in_(study_ids)))
    session.execute(_delete_where(Instance, Instance.series_id.in_(series)))
    session.execute(_delete_where(Series, Series.study_id.in_(study_ids)))
    session.execute(_delete_where(Study, Study.id.in_(study_ids)))


def _delete_of_instances(session: Session, instances: Select[int]) -> None:
    inferences = select(Inference.id).where(Inference.instance_id.in_(instances))
    for kind in FINDING_KINDS:
        session.execute(_delete_where(kind, kind.inference_id.in_(inferences)))
    session.execute(_delete_where(ShadowFinding, ShadowFinding.instance_id.in_(instances)))
    _delete_outputs(session, Output.instance_id.in_(instances))
    session.execute(_delete_where(Inference, Inference.instance_id.in_(instances)))


def _delete_outputs(session: Session, chosen: ColumnElement[bool]) -> None:
    outputs = select(Output.id).where(chosen)
    session.execute(_delete_where(Delivery, Delivery.output_id.in_(outputs)))
    session.execute(_delete_where(Output, chosen))


def _delete_where(table: type[Base], chosen: ColumnElement[bool]) -> Any:
    # Nothing of these rows is loaded, so that there is nothing to keep in step.
    return delete(table).where(chosen).execution_options(synchronize_session=False)


# Rows that go by their own age


def old_rows(sessions: sessionmaker[Session], table: type[Base], chosen: ColumnElement[bool]) -> int:
    """Count rows."""
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        return int(session.scalar(select(func.count()).select_from(table).where(chosen)) or 0)


def delete_old_rows(
    sessions: sessionmaker[Session], table: type[Base], key: Any, chosen: ColumnElement[bool], at_most: int
) -> int:
    """Delete some rows in one transaction; give how many, 0 when none is left."""
    with sessions.begin() as session:
        ids = list(session.scalars(select(key).where(chosen).order_by(key).limit(at_most)))
        if ids:
            session.execute(_delete_where(table, key.in_(ids)))
        return len(ids)
