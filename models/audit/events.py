"""Which audit messages there are and what each says: the tables of DICOM PS3.15 A.5.3, filled.

UserID (A.5.2.1) of our processes is the process id, of an application entity its AE title, of an origin server its
URL, of a person ``login@host``. AlternativeUserID (A.5.2.2) of an application entity is ``AETITLES=<title>``.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from models.audit.messages import (
    Action,
    AuditMessage,
    Code,
    ObjectRole,
    ObjectType,
    Outcome,
    Participant,
    ParticipantObject,
)

# PS3.16 CID 400 to 405.
APPLICATION_ACTIVITY: Final = Code("110100", "DCM", "Application Activity")
BEGIN_TRANSFERRING: Final = Code("110102", "DCM", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED: Final = Code("110103", "DCM", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = Code("110104", "DCM", "DICOM Instances Transferred")
STUDY_DELETED: Final = Code("110105", "DCM", "DICOM Study Deleted")
EXPORT: Final = Code("110106", "DCM", "Export")
SECURITY_ALERT: Final = Code("110113", "DCM", "Security Alert")
APPLICATION_START: Final = Code("110120", "DCM", "Application Start")
APPLICATION_STOP: Final = Code("110121", "DCM", "Application Stop")
NODE_AUTHENTICATION: Final = Code("110126", "DCM", "Node Authentication")
APPLICATION: Final = Code("110150", "DCM", "Application")
DESTINATION: Final = Code("110152", "DCM", "Destination Role ID")
SOURCE: Final = Code("110153", "DCM", "Source Role ID")
DESTINATION_MEDIA: Final = Code("110154", "DCM", "Destination Media")
URI_MEDIA: Final = Code("110037", "DCM", "URI")

STUDY_UID: Final = Code("110180", "DCM", "Study Instance UID")
SOP_CLASS_UID: Final = Code("110181", "DCM", "SOP Class UID")
NODE_ID: Final = Code("110182", "DCM", "Node ID")
PATIENT_NUMBER: Final = Code("2", "RFC-3881", "Patient Number")
SEARCH_CRITERIA: Final = Code("10", "RFC-3881", "Search Criteria")


@dataclass(frozen=True, slots=True)
class Process:
    """One of our processes.

    Attributes:
        name: as in our logs, after ``radstream``.
        ae_title: that it answers to or calls by; None for a command that speaks no DICOM.
    """

    name: str
    ae_title: str | None
    pid: int
    host: str

    @classmethod
    def this(cls, name: str, ae_title: str | None) -> Process:
        """Describe the calling process."""
        return cls(name, ae_title, os.getpid(), socket.gethostname())

    def participant(self, *roles: Code, is_requestor: bool = False) -> Participant:
        """Give it as a participant."""
        return Participant(
            user_id=str(self.pid),
            is_requestor=is_requestor,
            roles=roles,
            alternative_id=ae_titles(self.ae_title),
            name=f"radstream {self.name}",
            network=self.host,
        )


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as `RADSTREAM_PHI` allows: the identifier that was sent, or its pseudonym."""

    identifier: str


@dataclass(frozen=True, slots=True)
class StudyTouched:
    """One study in an event.

    Attributes:
        uid: None where a dataset names no study.
        sop_classes: how many instances of it, by SOP Class UID.
        patient: None where none is known, or may be told.
    """

    uid: str | None
    sop_classes: Mapping[str, int]
    patient: Patient | None


def ae_titles(title: str | None) -> str | None:
    """Give AlternativeUserID of an application entity (A.5.2.2)."""
    return None if title is None else f"AETITLES={title}"


def application_entity(title: str, host: str | None, *roles: Code, is_requestor: bool) -> Participant:
    """Give a peer as a participant."""
    return Participant(title, is_requestor, roles, ae_titles(title), network=host or None)


def this_person(*roles: Code) -> Participant:
    """Give whoever runs a command, who is its requestor."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        login = f"uid{os.getuid()}"
    return Participant(f"{login}@{socket.gethostname()}", True, roles)


def application_activity(process: Process, *, starts: bool) -> AuditMessage:
    """A.5.3.1: a process of ours starts or stops."""
    kind = APPLICATION_START if starts else APPLICATION_STOP
    return AuditMessage(
        APPLICATION_ACTIVITY, Action.EXECUTE, Outcome.SUCCESS, (process.participant(APPLICATION),), (kind,)
    )


def begin_transferring(source: Participant, destination: Participant, study: StudyTouched) -> AuditMessage:
    """A.5.3.3: we are about to send instances of one study."""
    return AuditMessage(
        BEGIN_TRANSFERRING, Action.EXECUTE, Outcome.SUCCESS, (source, destination), objects=_objects([study])
    )


def instances_transferred(
    source: Participant, destination: Participant, study: StudyTouched, outcome: Outcome = Outcome.SUCCESS
) -> AuditMessage:
    """A.5.3.7: instances of one study were received or sent, or could not be sent.

    The action is always Read: whether the receiver held them before is not known where this is told.
    """
    return AuditMessage(INSTANCES_TRANSFERRED, Action.READ, outcome, (source, destination), objects=_objects([study]))


def instances_accessed(process: Process, person: Participant, study: StudyTouched) -> AuditMessage:
    """A.5.3.6: somebody lets us read the instances of a study again."""
    return AuditMessage(
        INSTANCES_ACCESSED,
        Action.READ,
        Outcome.SUCCESS,
        (person, process.participant(APPLICATION)),
        objects=_objects([study]),
    )


def study_deleted(process: Process, person: Participant, study: StudyTouched) -> AuditMessage:
    """A.5.3.8: all that we knew of a study is deleted."""
    return AuditMessage(
        STUDY_DELETED,
        Action.DELETE,
        Outcome.SUCCESS,
        (person, process.participant(APPLICATION)),
        objects=_objects([study]),
    )


def data_export(
    process: Process, person: Participant, target: str, criteria: str, rows: int, studies: Sequence[StudyTouched]
) -> AuditMessage:
    """A.5.3.4: findings leave by a command; beside the studies an object says what was asked for and how much came.

    Args:
        process, person: that export; the person is named with the process.
        target: URI of what is written.
        criteria: what was asked for, in words of the command line.
        rows: that were written in all.
        studies: some or all of them.
    """
    asked = ParticipantObject(
        object_id="results",
        id_type=SEARCH_CRITERIA,
        type=ObjectType.SYSTEM,
        role=ObjectRole.QUERY,
        query=criteria,
        details=(("rows", str(rows)),),
    )
    media = Participant(target, False, (DESTINATION_MEDIA,), network=process.host, media=URI_MEDIA)
    return AuditMessage(
        EXPORT,
        Action.READ,
        Outcome.SUCCESS,
        (person, process.participant(SOURCE), media),
        objects=(asked, *_objects(studies)),
    )


def security_alert(process: Process, peer: Participant, description: str, times: int = 1) -> AuditMessage:
    """A.5.3.11: a peer was turned away because of who it is, or says it is.

    A minor failure: what keeps it out was effective. The table wants a performing peer not to be the requestor.
    """
    told = description if times == 1 else f"{description}; {times} times since the last alert of this kind"
    subject = ParticipantObject(
        object_id=peer.network or "unknown",
        id_type=NODE_ID,
        type=ObjectType.SYSTEM,
        role=ObjectRole.SECURITY_RESOURCE,
        name="peer",
        details=(("Alert Description", told),),
    )
    return AuditMessage(
        SECURITY_ALERT,
        Action.EXECUTE,
        Outcome.MINOR_FAILURE,
        (process.participant(APPLICATION), peer),
        (NODE_AUTHENTICATION,),
        (subject,),
    )


def _objects(studies: Sequence[StudyTouched]) -> tuple[ParticipantObject, ...]:
    patients = dict.fromkeys(study.patient for study in studies if study.patient is not None)
    return (*map(_study, studies), *map(_patient, patients))


def _study(study: StudyTouched) -> ParticipantObject:
    if study.uid is not None:
        return ParticipantObject(
            study.uid, STUDY_UID, ObjectType.SYSTEM, ObjectRole.REPORT, "study", sop_classes=study.sop_classes
        )
    first = min(study.sop_classes, default="unknown")
    return ParticipantObject(
        first, SOP_CLASS_UID, ObjectType.SYSTEM, ObjectRole.REPORT, "no study", sop_classes=study.sop_classes
    )


def _patient(patient: Patient) -> ParticipantObject:
    # The schema asks for a name; that of the patient is told to nobody.
    return ParticipantObject(
        patient.identifier, PATIENT_NUMBER, ObjectType.PERSON, ObjectRole.PATIENT, "name not recorded"
    )
