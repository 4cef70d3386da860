"""What the worker's processes and commands tell the audit trail: what was sent, exported, read again and deleted.

Studies and patients are those of the results database, where patients are already stored as `RADSTREAM_PHI` allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.audit.events import (
    APPLICATION,
    DESTINATION,
    SOURCE,
    Patient,
    StudyTouched,
    application_entity,
    begin_transferring,
    data_export,
    instances_accessed,
    instances_transferred,
    study_deleted,
    this_person,
)
from models.audit.messages import Outcome, Participant
from models.audit.settings import AuditSettings
from models.audit.trail import AuditTrail
from models.queues import chunks
from models.records.dicom import Instance, Series, Study
from models.records.outputs import Output
from models.settings import Settings
from models.telemetry import get_logger
from worker.settings import AnyDestination, StowDestination

STUDIES_TOGETHER: Final = 50
"""In one message of an export: so many, with their patients, stay below the 32 KiB that every repository takes
(PS3.15 A.6)."""
GROUP: Final = 500
PATIENCE_S: Final = 10.0
"""Of a command, which may have more to tell at once than is held in memory."""

log = get_logger("worker.audit")


@contextmanager
def command_trail(settings: Settings, audit: AuditSettings | None, name: str) -> Iterator[AuditTrail]:
    """Give the trail of a command; what it told is on disk when it ends."""
    trail = AuditTrail(settings, audit, name).start()
    try:
        yield trail
    finally:
        trail.stop()


class DeliveryAudit:
    """Tells what is sent to one destination."""

    def __init__(self, trail: AuditTrail, to: AnyDestination, sessions: sessionmaker[Session]) -> None:
        self._trail = trail
        self._sessions = sessions
        self._receiver = _receiver(to)

    def begun(self, output_ids: Sequence[int], at: datetime) -> None:
        """Tell that the sending of outputs has begun for the first time, a message for each study.

        Told when it is known which were tried: those that a dead destination leaves untried begin another time.
        """
        for study in self._studies(output_ids):
            self._trail.tell(replace(begin_transferring(self._sender(), self._receiver, study), at=at))

    def arrived(self, output_ids: Sequence[int]) -> None:
        """Tell that they have arrived, likewise."""
        for study in self._studies(output_ids):
            self._trail.tell(instances_transferred(self._sender(), self._receiver, study))

    def given_up(self, output_ids: Sequence[int]) -> None:
        """Tell that they never will, likewise."""
        for study in self._studies(output_ids):
            told = instances_transferred(self._sender(), self._receiver, study, Outcome.SERIOUS_FAILURE)
            self._trail.tell(told)

    def _sender(self) -> Participant:
        return self._trail.process.participant(SOURCE, is_requestor=True)

    def _studies(self, output_ids: Sequence[int]) -> list[StudyTouched]:
        if not output_ids or not self._trail.is_on:
            return []
        try:
            with self._sessions() as session:
                session.connection(execution_options={"read_only": True})
                return studies_of_outputs(session, output_ids)
        except SQLAlchemyError as error:
            # The transfer is recorded by now; that nobody is told of it is the lesser evil.
            log.error("transfer_not_audited", outputs=len(output_ids), exc_info=error)
            return []


def _receiver(to: AnyDestination) -> Participant:
    if isinstance(to, StowDestination):
        return Participant(to.url, False, (DESTINATION,), network=urlsplit(to.url).hostname)
    return application_entity(to.ae_title, to.host, DESTINATION, is_requestor=False)


def studies_of_outputs(session: Session, output_ids: Sequence[int]) -> list[StudyTouched]:
    """Count outputs by study and SOP class."""
    statement = (
        select(Study.study_instance_uid, Study.patient_id, Output.sop_class_uid)
        .select_from(Output)
        .outerjoin(Instance, Instance.id == Output.instance_id)
        .outerjoin(Series, Series.id == Instance.series_id)
        .outerjoin(Study, Study.id == func.coalesce(Output.study_id, Series.study_id))
        .where(Output.id.in_(output_ids))
    )
    counts: dict[tuple[str | None, str | None], Counter[str]] = {}
    for uid, patient_id, sop_class_uid in session.execute(statement):
        counts.setdefault((uid, patient_id), Counter())[sop_class_uid] += 1
    return [StudyTouched(uid, classes, _patient(patient_id)) for (uid, patient_id), classes in counts.items()]


def studies_of_instances(session: Session, sop_instance_uids: Sequence[str]) -> list[StudyTouched]:
    """Count source instances by study and SOP class."""
    counts: dict[tuple[str | None, str | None], Counter[str]] = {}
    for group in chunks(sop_instance_uids, GROUP):
        statement = (
            select(Study.study_instance_uid, Study.patient_id, Instance.sop_class_uid)
            .select_from(Instance)
            .outerjoin(Series, Series.id == Instance.series_id)
            .outerjoin(Study, Study.id == Series.study_id)
            .where(Instance.sop_instance_uid.in_(group))
        )
        for uid, patient_id, sop_class_uid in session.execute(statement):
            counts.setdefault((uid, patient_id), Counter())[sop_class_uid] += 1
    return [StudyTouched(uid, classes, _patient(patient_id)) for (uid, patient_id), classes in counts.items()]


def tell_read_again(trail: AuditTrail, sessions: sessionmaker[Session], sop_instance_uids: Sequence[str]) -> None:
    """Tell that somebody lets a version look at instances again, a message for each study."""
    if not trail.is_on or not sop_instance_uids:
        return
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        studies = studies_of_instances(session, sop_instance_uids)
    for study in studies:
        trail.tell(instances_accessed(trail.process, this_person(APPLICATION), study), patience_s=PATIENCE_S)


def tell_deleted(trail: AuditTrail, study: StudyTouched) -> None:
    """Tell that a study was deleted from the records."""
    trail.tell(study_deleted(trail.process, this_person(APPLICATION), study), patience_s=PATIENCE_S)


def tell_exported(
    trail: AuditTrail, target: str, criteria: str, rows: int, studies: Sequence[tuple[str, str | None]]
) -> None:
    """Tell that findings were exported.

    Args:
        trail: of the command.
        target: URI of what was written.
        criteria: what was asked for.
        rows: that were written so far.
        studies: Study Instance UID and patient identifier of each; the identifier None where it was not exported.
    """
    touched = [StudyTouched(uid, {}, _patient(patient_id)) for uid, patient_id in studies]
    told = data_export(trail.process, this_person(SOURCE), target, criteria, rows, touched)
    trail.tell(told, patience_s=PATIENCE_S)


def _patient(identifier: str | None) -> Patient | None:
    return Patient(identifier) if identifier else None
