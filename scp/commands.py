"""The command sets of C-STORE: reading requests, writing responses.

A command set is Implicit VR Little Endian, always (PS3.7 6.3.1), with a dozen short elements. A codec of its own
takes some ten microseconds where a general dataset takes near a millisecond, and there are two for each instance.
Command sets of other services go to pynetdicom.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from scp.statuses import ERROR_COMMENTS, StoreStatus

AFFECTED_SOP_CLASS_UID: Final = 0x0002
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
PRIORITY: Final = 0x0700
COMMAND_DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
ERROR_COMMENT: Final = 0x0902
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000

C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
NO_DATA_SET: Final = 0x0101
MAX_COMMAND_BYTES: Final = 65_536


class Priority(IntEnum):
    """Priority (0000,0700) of a C-STORE request, PS3.7 9.3.1.1."""

    MEDIUM = 0
    HIGH = 1
    LOW = 2


class MalformedCommand(Exception):
    """A command set that cannot be read; the association is aborted."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ as it came; the UIDs are neither checked nor safe.

    Attributes:
        message_id: echoed in the response.
        sop_class_uid, sop_instance_uid: as sent, padding removed; empty when missing.
        high_priority: DIMSE priority HIGH.
        has_dataset: whether a dataset follows.
    """

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    high_priority: bool
    has_dataset: bool


def elements(command_set: bytes) -> dict[int, bytes]:
    """Split a command set into values by element number (group 0000).

    Raises:
        MalformedCommand: it is cut short or has elements of another group.
    """
    found: dict[int, bytes] = {}
    position, end = 0, len(command_set)
    while position < end:
        if end - position < 8:
            raise MalformedCommand("cut short")
        group, element, length = struct.unpack_from("<HHI", command_set, position)
        position += 8
        if group != 0 or length > end - position:
            raise MalformedCommand("not a command set")
        found[element] = command_set[position : position + length]
        position += length
    return found


def store_request(values: dict[int, bytes]) -> StoreRequest | None:
    """Read a C-STORE request; None when the command is another one."""
    if _number(values, COMMAND_FIELD) != C_STORE_RQ:
        return None
    return StoreRequest(
        message_id=_number(values, MESSAGE_ID),
        sop_class_uid=_uid(values, AFFECTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(values, AFFECTED_SOP_INSTANCE_UID),
        high_priority=_number(values, PRIORITY, Priority.MEDIUM) == Priority.HIGH,
        has_dataset=_number(values, COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
    )


def has_dataset(values: dict[int, bytes]) -> bool:
    """Tell whether a dataset follows this command."""
    return _number(values, COMMAND_DATA_SET_TYPE) != NO_DATA_SET


def store_response(request: StoreRequest, status: StoreStatus) -> bytes:
    """Encode the C-STORE-RSP (PS3.7 9.3.1.2), elements in ascending order."""
    values = [
        (AFFECTED_SOP_CLASS_UID, _padded(request.sop_class_uid, b"\0")),
        (COMMAND_FIELD, struct.pack("<H", C_STORE_RSP)),
        (MESSAGE_ID_BEING_RESPONDED_TO, struct.pack("<H", request.message_id)),
        (COMMAND_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        (STATUS, struct.pack("<H", status)),
        (AFFECTED_SOP_INSTANCE_UID, _padded(request.sop_instance_uid, b"\0")),
    ]
    if status in ERROR_COMMENTS:
        values.insert(5, (ERROR_COMMENT, _padded(ERROR_COMMENTS[status], b" ")))
    body = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in values)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _number(values: dict[int, bytes], element: int, default: int | None = None) -> int:
    value = values.get(element, b"")
    if len(value) != 2:
        if default is not None:
            return default
        raise MalformedCommand("a number is missing or not two bytes")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], element: int) -> str:
    # Latin-1 keeps every byte, so that the response echoes what was sent; validity is judged later. Trailing NUL is
    # the padding of the standard, trailing space that of some senders.
    return values.get(element, b"").rstrip(b"\0 ").decode("latin-1")


def _padded(text: str, padding: bytes) -> bytes:
    value = text.encode("latin-1")
    return value + padding if len(value) % 2 else value
