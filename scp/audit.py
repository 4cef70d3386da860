"""What a receiving process tells the audit trail: which studies were received from whom, and who was turned away.

One message per association (or STOW-RS request) and study, as PS3.15 A.5.3.7 allows, and not one per instance. Study
and patient are read from the first bytes of a dataset after its sender has the answer, so that no store waits for it.
"""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from models.audit.events import (
    DESTINATION,
    SOURCE,
    Patient,
    StudyTouched,
    application_entity,
    instances_transferred,
    security_alert,
)
from models.audit.messages import Participant
from models.audit.trail import AuditTrail
from models.records.identity import IdentityPolicy, stored_patient_id, value_of
from models.spool_places import is_valid_uid
from scp.statuses import AssociationOutcome

STUDY_INSTANCE_UID: Final = Tag("StudyInstanceUID")
IDENTITY_TAGS: Final = frozenset(
    map(Tag, ("SpecificCharacterSet", "PatientID", "IssuerOfPatientID", "StudyInstanceUID"))
)
LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs with a length of 32 bits (PS3.5 7.1.2)."""
UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_SHORT_HEADER: Final = struct.Struct("<HH2sH")
_LONG_LENGTH: Final = struct.Struct("<I")
INFLATED_BYTES: Final = 65_536
OPEN_STUDIES: Final = 64
"""Of one association; with more, the oldest is told at once."""
OPEN_S: Final = 600.0
"""A study that an association has been sending for so long is told, and counted anew."""
ALERT_S: Final = 60.0
"""Alerts of one kind about one address come no more often; those between are counted, whatever AE title they had."""
ALERT_KINDS: Final = 1000
"""That are remembered."""

ALERTS: Final = {
    AssociationOutcome.REJECTED_CALLING_AE_TITLE: "association rejected: calling AE title not recognised",
    AssociationOutcome.REJECTED_CALLED_AE_TITLE: "association rejected: called AE title not recognised",
    AssociationOutcome.TLS_FAILED: "connection closed: TLS handshake failed",
}
"""Of the ways in which a connection ends, those that are about who the peer is."""
UNKNOWN_TOKEN: Final = "STOW-RS request refused: no bearer token, or one that is not known"


@dataclass(slots=True)
class _Open:
    began: float
    patient: Patient | None
    sop_classes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Untold:
    title: str
    times: int


class ScpAudit:
    """The audit of one receiving process. Safe for its threads.

    Args:
        trail: takes the messages; None where there is none.
        policy: what of a patient is told.
    """

    def __init__(self, trail: AuditTrail | None = None, policy: IdentityPolicy | None = None) -> None:
        self._trail = trail if trail is not None and trail.is_on else None
        self._policy = policy
        self._lock = threading.Lock()
        self._told_at: dict[tuple[str, str], float] = {}
        self._untold: dict[tuple[str, str], _Untold] = {}

    def transfers(self) -> Transfers:
        """Begin to count what one association or request brings."""
        return Transfers(self._trail, self._policy)

    def connection_ended(self, outcome: AssociationOutcome, address: str, calling_ae_title: str) -> None:
        """Tell of a peer that was turned away; of any other end nothing."""
        if outcome in ALERTS:
            self._alert(ALERTS[outcome], address, calling_ae_title)

    def token_refused(self, address: str) -> None:
        """Tell of a STOW-RS client that nobody knows."""
        self._alert(UNKNOWN_TOKEN, address, "")

    def stop(self) -> None:
        """Tell the alerts that were only counted, and end the trail."""
        with self._lock:
            self._tell_all()
        if self._trail is not None:
            self._trail.stop()

    def _alert(self, description: str, address: str, title: str) -> None:
        if self._trail is None:
            return
        key, now = (description, address), time.monotonic()
        with self._lock:
            before = self._untold.get(key)
            self._untold[key] = _Untold(title, 1 if before is None else before.times + 1)
            if now - self._told_at.get(key, -ALERT_S) < ALERT_S:
                return
            if len(self._told_at) >= ALERT_KINDS:
                self._tell_all()
                self._told_at.clear()
            else:
                self._tell(key)
            self._told_at[key] = now

    def _tell_all(self) -> None:
        for key in list(self._untold):
            self._tell(key)

    def _tell(self, key: tuple[str, str]) -> None:
        untold = self._untold.pop(key)
        if self._trail is None:
            return
        (description, address), title, times = key, untold.title, untold.times
        host = address or None
        if title:
            peer = application_entity(title, host, is_requestor=False)
        else:
            peer = Participant(address or "unknown", False, network=host)
        self._trail.tell(security_alert(self._trail.process, peer, description, times))


class Transfers:
    """What one association or request has brought so far, by study. For one thread at a time."""

    def __init__(self, trail: AuditTrail | None, policy: IdentityPolicy | None) -> None:
        self._trail = trail
        self._policy = policy
        self._open: dict[str | None, _Open] = {}
        self._sender: Participant | None = None
        self._last: tuple[tuple[bytes, ...], tuple[str | None, Patient | None]] | None = None

    def add(self, head: bytes | bytearray, sop_class_uid: str, transfer_syntax_uid: str, sender: Participant) -> None:
        """Count one instance that was accepted; `head` are the first bytes of its dataset."""
        if self._trail is None:
            return
        self._sender = sender
        study_uid, patient = self._facts(head, transfer_syntax_uid)
        now = time.monotonic()
        known = self._open.get(study_uid)
        if known is not None and (now - known.began > OPEN_S or known.patient != patient):
            self._tell(study_uid)  # of one patient each
            known = None
        if known is None:
            if len(self._open) >= OPEN_STUDIES:
                self._tell(next(iter(self._open)))
            known = self._open[study_uid] = _Open(now, patient)
        known.sop_classes[sop_class_uid] += 1

    def _facts(self, head: bytes | bytearray, transfer_syntax_uid: str) -> tuple[str | None, Patient | None]:
        # Instances of one study come in a row: what tells them apart is found without decoding the dataset again.
        told = _raw_identity(head) if transfer_syntax_uid == ExplicitVRLittleEndian else None
        if told is not None and self._last is not None and self._last[0] == told:
            return self._last[1]
        facts = _facts(head, transfer_syntax_uid, self._policy)
        self._last = (told, facts) if told is not None else None
        return facts

    def end(self) -> None:
        """Tell what was counted. Doing it twice is no error."""
        for study_uid in list(self._open):
            self._tell(study_uid)

    def _tell(self, study_uid: str | None) -> None:
        of = self._open.pop(study_uid)
        if self._trail is None or self._sender is None:
            return
        study = StudyTouched(study_uid, of.sop_classes, of.patient)
        receiver = self._trail.process.participant(DESTINATION)
        self._trail.tell(instances_transferred(self._sender, receiver, study))


def sending_entity(ae_title: str, address: str) -> Participant:
    """Give a sender as a participant; it is the requestor of what it sends."""
    return application_entity(ae_title, address, SOURCE, is_requestor=True)


def _facts(
    head: bytes | bytearray, transfer_syntax_uid: str, policy: IdentityPolicy | None
) -> tuple[str | None, Patient | None]:
    """Read study and patient from the start of a dataset; None for what cannot be read."""
    syntax = UID(transfer_syntax_uid)
    try:
        data = bytes(head)
        if syntax == DeflatedExplicitVRLittleEndian:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, INFLATED_BYTES)
        header = read_dataset(BytesIO(data), syntax.is_implicit_VR, syntax.is_little_endian, stop_when=_is_behind)
        study_uid = str(value_of(header, "StudyInstanceUID") or "")
        identifier = stored_patient_id(header, policy) if policy is not None else None
    except Exception:  # pydicom's readers raise whatever a broken dataset leads them to
        study_uid, identifier = "", None
    return study_uid if study_uid and is_valid_uid(study_uid) else None, Patient(identifier) if identifier else None


def _raw_identity(head: bytes | bytearray) -> tuple[bytes, ...] | None:
    """Give the undecoded values that study and patient are read from; None where that is not simple."""
    found: list[bytes] = []
    position, end = 0, len(head) - 12
    while position <= end:
        group, number, vr, length = _SHORT_HEADER.unpack_from(head, position)
        tag = group << 16 | number
        if tag > STUDY_INSTANCE_UID:
            return tuple(found)
        begin = position + 8
        if vr in LONG_VRS:
            (length,) = _LONG_LENGTH.unpack_from(head, begin)
            begin += 4
            if length == UNDEFINED_LENGTH:
                return None
        if tag in IDENTITY_TAGS:
            found.append(b"%08x" % tag + head[begin : begin + length])
        position = begin + length
    return None


def _is_behind(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag > STUDY_INSTANCE_UID)
