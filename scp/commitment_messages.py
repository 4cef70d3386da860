"""Messages of the Storage Commitment Service Class (PS3.4 annex J): command sets and datasets, read and written.

As in `scp.commands`, a command set is a dict of values by element number; datasets go through pydicom, with nothing
taken from them but UIDs and failure reasons.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import decode, encode

from models.commitment_reports import CommitmentReport, report_from
from models.spool_places import is_valid_uid
from scp import commands
from scp.commitment_transactions import Reference, Verdict

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The well-known SOP Instance that every request and report names (PS3.4 J.3.5)."""

REQUESTED_SOP_CLASS_UID: Final = 0x0003
REQUESTED_SOP_INSTANCE_UID: Final = 0x1001
EVENT_TYPE_ID: Final = 0x1002
ACTION_TYPE_ID: Final = 0x1008

N_EVENT_REPORT_RQ: Final = 0x0100
N_EVENT_REPORT_RSP: Final = 0x8100
N_ACTION_RQ: Final = 0x0130
N_ACTION_RSP: Final = 0x8130
HAS_DATA_SET: Final = 0x0001

REQUEST_COMMITMENT: Final = 1
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2

MAX_DATASET_BYTES: Final = 16 << 20
"""Of a request or report: some hundred thousand references."""


class ServiceStatus(IntEnum):
    """Status of an N-ACTION or N-EVENT-REPORT response (PS3.7 annex C)."""

    SUCCESS = 0x0000
    """Durable: the request will be reported on, or the report is taken."""
    PROCESSING_FAILURE = 0x0110
    """An error of ours."""
    NO_SUCH_INSTANCE = 0x0112
    """The request does not name the well-known instance."""
    NO_SUCH_EVENT = 0x0113
    """The event type is not one of the two, or reports are not taken."""
    INVALID_ARGUMENT = 0x0115
    """The dataset has no transaction, names nothing, or has UIDs that are none."""
    NO_SUCH_ACTION = 0x0123
    """The action type is not 1, or commitment is not offered."""
    RESOURCE_LIMITATION = 0x0213
    """It cannot be kept: send it again later."""


class FailureReason(IntEnum):
    """Failure Reason (0008,1197) of an instance that is not committed (PS3.4 J.3.3.1)."""

    PROCESSING_FAILURE = 0x0110
    """An error of ours."""
    NO_SUCH_INSTANCE = 0x0112
    """Neither spool nor ledger know it."""
    CLASS_CONFLICT = 0x0119
    """It is known with another SOP class."""


class MalformedMessage(Exception):
    """The dataset of a request or report is not one."""


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """An N-ACTION-RQ or N-EVENT-REPORT-RQ as it came.

    Attributes:
        type_id: action or event type.
    """

    message_id: int
    sop_instance_uid: str
    type_id: int
    has_dataset: bool


def command_field(values: dict[int, bytes]) -> int:
    """Which command it is; -1 when it does not say."""
    value = values.get(commands.COMMAND_FIELD, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else -1


def action_request(values: dict[int, bytes]) -> ServiceRequest:
    """Read an N-ACTION-RQ (PS3.7 10.3.5)."""
    return _request(values, REQUESTED_SOP_INSTANCE_UID, ACTION_TYPE_ID)


def event_report(values: dict[int, bytes]) -> ServiceRequest:
    """Read an N-EVENT-REPORT-RQ (PS3.7 10.3.1)."""
    return _request(values, commands.AFFECTED_SOP_INSTANCE_UID, EVENT_TYPE_ID)


def response_to(values: dict[int, bytes]) -> tuple[int, int]:
    """Give message ID being responded to and status of a response."""
    return _number(values, commands.MESSAGE_ID_BEING_RESPONDED_TO), _number(values, commands.STATUS)


def action_response(request: ServiceRequest, status: ServiceStatus) -> bytes:
    """Encode the N-ACTION-RSP."""
    return _response(N_ACTION_RSP, request, status, ACTION_TYPE_ID)


def event_report_response(request: ServiceRequest, status: ServiceStatus) -> bytes:
    """Encode the N-EVENT-REPORT-RSP."""
    return _response(N_EVENT_REPORT_RSP, request, status, EVENT_TYPE_ID)


def event_report_command(message_id: int, verdict: Verdict) -> bytes:
    """Encode the N-EVENT-REPORT-RQ of a report that follows."""
    return _encoded(
        (commands.AFFECTED_SOP_CLASS_UID, _uid(PUSH_MODEL)),
        (commands.COMMAND_FIELD, _us(N_EVENT_REPORT_RQ)),
        (commands.MESSAGE_ID, _us(message_id)),
        (commands.COMMAND_DATA_SET_TYPE, _us(HAS_DATA_SET)),
        (commands.AFFECTED_SOP_INSTANCE_UID, _uid(PUSH_MODEL_INSTANCE)),
        (EVENT_TYPE_ID, _us(event_type(verdict))),
    )


def event_type(verdict: Verdict) -> int:
    """Give the event type of a report (PS3.4 table J.3-2)."""
    return FAILURES_EXIST if verdict.failed else ALL_COMMITTED


def read_request(encoded: bytes, transfer_syntax: UID) -> tuple[str, tuple[Reference, ...]]:
    """Read the dataset of a request: transaction UID and references.

    Raises:
        MalformedMessage: it has none, or UIDs that are not.
    """
    dataset = _decoded(encoded, transfer_syntax)
    try:
        transaction_uid = str(dataset.TransactionUID)
        references = tuple(_reference(item) for item in dataset.ReferencedSOPSequence)
    except (AttributeError, TypeError) as error:
        raise MalformedMessage("no transaction or nothing referenced") from error
    if not is_valid_uid(transaction_uid) or not references:
        raise MalformedMessage("no transaction or nothing referenced")
    return transaction_uid, references


def report_dataset(transaction_uid: str, verdict: Verdict) -> Dataset:
    """Make the dataset of a report (PS3.4 table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    if verdict.failed:
        dataset.FailedSOPSequence = [_item(reference, reason) for reference, reason in verdict.failed]
    if verdict.committed:
        dataset.ReferencedSOPSequence = [_item(reference) for reference in verdict.committed]
    return dataset


def encode_report(transaction_uid: str, verdict: Verdict, transfer_syntax: UID) -> bytes:
    """Encode the dataset of a report."""
    encoded = encode(
        report_dataset(transaction_uid, verdict), transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian
    )
    if encoded is None:
        raise MalformedMessage("a report cannot be encoded")
    return encoded


def read_report(encoded: bytes, transfer_syntax: UID) -> CommitmentReport:
    """Read the dataset of a report on our outputs.

    Raises:
        MalformedMessage: it has no transaction UID, or UIDs that are not.
    """
    try:
        return report_from(_decoded(encoded, transfer_syntax))
    except ValueError as error:
        raise MalformedMessage("not a report") from error


def _decoded(encoded: bytes, transfer_syntax: UID) -> Dataset:
    try:
        return decode(BytesIO(encoded), transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian)
    except Exception as error:  # pydicom's readers raise whatever a broken dataset leads them to
        raise MalformedMessage("not a dataset") from error


def _reference(item: Dataset) -> Reference:
    reference = Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
    if not is_valid_uid(reference.sop_class_uid) or not is_valid_uid(reference.sop_instance_uid):
        raise MalformedMessage("a reference is not a UID")
    return reference


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _request(values: dict[int, bytes], instance: int, type_id: int) -> ServiceRequest:
    return ServiceRequest(
        message_id=_number(values, commands.MESSAGE_ID),
        sop_instance_uid=values.get(instance, b"").rstrip(b"\0 ").decode("latin-1"),
        type_id=_number(values, type_id),
        has_dataset=commands.has_dataset(values),
    )


def _response(command: int, request: ServiceRequest, status: ServiceStatus, type_id: int) -> bytes:
    return _encoded(
        (commands.AFFECTED_SOP_CLASS_UID, _uid(PUSH_MODEL)),
        (commands.COMMAND_FIELD, _us(command)),
        (commands.MESSAGE_ID_BEING_RESPONDED_TO, _us(request.message_id)),
        (commands.COMMAND_DATA_SET_TYPE, _us(commands.NO_DATA_SET)),
        (commands.STATUS, _us(status)),
        (commands.AFFECTED_SOP_INSTANCE_UID, _uid(PUSH_MODEL_INSTANCE)),
        (type_id, _us(request.type_id)),
    )


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != 2:
        raise commands.MalformedCommand("a number is missing or not two bytes")
    return int.from_bytes(value, "little")


def _us(number: int) -> bytes:
    return struct.pack("<H", number)


def _uid(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def _encoded(*values: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in values)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body
