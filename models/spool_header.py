"""The file meta information of spool files (PS3.10 section 7.1), and the dataset behind it.

It holds in private information what the association told us and the dataset does not: hash of the dataset, lane and
time. Encoded and read by hand, because pydicom takes longer for it than the disk takes for a radiograph.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Final

from models.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, SPOOL_PRIVATE_INFORMATION_UID
from models.requests import Lane

PREFIX: Final = b"DICM"
PREAMBLE: Final = b"\x00" * 128 + PREFIX
MAX_HEADER_LENGTH: Final = 2048
"""Bytes: no header of ours is longer."""

_PRIVATE_INFORMATION_LENGTH: Final = 192
"""Fixed, so that it can be filled in after the dataset has streamed past."""
_LENGTH_ELEMENT: Final = struct.Struct("<HH2sHI")
"""(0002,0000), which tells the length of the rest of the group."""
_HASH_BLOCK_BYTES: Final = 1 << 20


def encode_header(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str, called_ae_title: str
) -> bytes:
    """Give preamble, prefix and file meta information, whose last element is blank private information.

    Group 0002, Explicit VR Little Endian, ascending (PS3.10 section 7.1).
    """
    body = b"".join(
        (
            _long_element(0x0001, b"OB", b"\x00\x01"),  # File Meta Information Version
            _uid_element(0x0002, sop_class_uid),
            _uid_element(0x0003, sop_instance_uid),
            _uid_element(0x0010, transfer_syntax_uid),
            _uid_element(0x0012, IMPLEMENTATION_CLASS_UID),
            _short_element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
            _short_element(0x0016, b"AE", calling_ae_title, b" "),  # Source Application Entity Title
            _short_element(0x0018, b"AE", called_ae_title, b" "),  # Receiving Application Entity Title
            _uid_element(0x0100, SPOOL_PRIVATE_INFORMATION_UID),
            # (0002,0102) has the highest tag of the group, so it is the end of the header.
            _long_element(0x0102, b"OB", b" " * _PRIVATE_INFORMATION_LENGTH),
        )
    )
    return PREAMBLE + _LENGTH_ELEMENT.pack(2, 0, b"UL", 4, len(body)) + body


def _uid_element(element: int, uid: str) -> bytes:
    return _short_element(element, b"UI", uid, b"\x00")


def _short_element(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += padding
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _long_element(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2s2xI", 2, element, vr, len(value)) + value


def decode_header(start: bytes) -> dict[str, bytes]:
    """Split our own meta information into values by element number, padding removed.

    Raises:
        ValueError, struct.error: it is not a Part 10 file with our meta information.
    """
    if not start.startswith(PREFIX, 128):
        raise ValueError("not a Part 10 file")
    position = len(PREAMBLE)
    end = position + 12 + struct.unpack_from("<I", start, position + 8)[0]
    values: dict[str, bytes] = {}
    while position < end:
        group, element, vr, length = struct.unpack_from("<HH2sH", start, position)
        position += 8
        if vr == b"OB":
            (length,) = struct.unpack_from("<I", start, position)
            position += 4
        if group != 2 or position + length > len(start):
            raise ValueError("not our meta information")
        values[f"{element:04x}"] = start[position : position + length].rstrip(b"\x00 ")
        position += length
    if values.get("0100") != SPOOL_PRIVATE_INFORMATION_UID.encode("ascii"):
        raise ValueError("not our meta information")
    return values


def encode_private_information(sha256: str, lane: Lane, received_at: float) -> bytes:
    """Give the value of (0002,0102), which ends the header: hex digest of the dataset, lane, POSIX seconds."""
    told = {"sha256": sha256, "lane": lane.value, "received_at": received_at}
    return json.dumps(told).encode().ljust(_PRIVATE_INFORMATION_LENGTH)


def dataset_sha256(path: Path) -> str:
    """Give the hex digest of the encoded dataset in a Part 10 file, without its meta information.

    It is what the ledger calls `content_sha256`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no file meta information.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(len(PREAMBLE) + _LENGTH_ELEMENT.size)
        if len(start) < len(PREAMBLE) + _LENGTH_ELEMENT.size or not start.startswith(PREFIX, 128):
            raise ValueError("not a Part 10 file")
        group, element, _, _, length = _LENGTH_ELEMENT.unpack_from(start, len(PREAMBLE))
        if (group, element) != (2, 0):
            raise ValueError("not a Part 10 file")
        file.seek(length, os.SEEK_CUR)
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
