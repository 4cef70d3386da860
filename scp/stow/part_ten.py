"""The start of a Part 10 file as it streams in: file meta information (PS3.10 7.1), and the study behind it.

Nothing here looks at pixels, and nothing reads further than its caller has buffered.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

PREAMBLE_BYTES: Final = 128
PREFIX: Final = b"DICM"
MAX_META_BYTES: Final = 65_536
"""A sender's private information may be long; it is not kept."""

LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs with a length of 32 bits (PS3.5 7.1.2)."""
SOP_CLASS: Final = 0x0002
SOP_INSTANCE: Final = 0x0003
TRANSFER_SYNTAX: Final = 0x0010
STUDY_INSTANCE_UID: Final = Tag(0x0020, 0x000D)


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the file meta information says; the UIDs are neither checked nor safe. Padding is removed.

    Attributes:
        length: where the dataset begins, bytes.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int


def read_file_meta(start: bytes | bytearray) -> FileMeta | None:
    """Read file meta information; None when `start` does not reach its end.

    Raises:
        ValueError: it is not that of a Part 10 file, or too long.
    """
    if len(start) < PREAMBLE_BYTES + len(PREFIX):
        return None
    if not start.startswith(PREFIX, PREAMBLE_BYTES):
        raise ValueError("not a Part 10 file")
    values: dict[int, bytes] = {}
    position = PREAMBLE_BYTES + len(PREFIX)
    while True:
        if position > MAX_META_BYTES:
            raise ValueError("file meta information is too long")
        if len(start) < position + 12:
            return None  # no dataset is so short that these bytes never come
        group, element, vr, length = struct.unpack_from("<HH2sH", start, position)
        if group != 2:
            return _meta(values, position)
        position += 8
        if vr in LONG_VRS:
            (length,) = struct.unpack_from("<I", start, position)
            position += 4
        if position + length > MAX_META_BYTES:
            raise ValueError("file meta information is too long")
        if len(start) < position + length:
            return None
        values[element] = bytes(start[position : position + length])
        position += length


def _meta(values: dict[int, bytes], length: int) -> FileMeta:
    def text(element: int) -> str:
        return values.get(element, b"").rstrip(b"\0 ").decode("latin-1")

    return FileMeta(text(SOP_CLASS), text(SOP_INSTANCE), text(TRANSFER_SYNTAX), length)


def study_instance_uid(head: bytes, transfer_syntax_uid: str) -> str | None:
    """Find Study Instance UID in the start of an encoded dataset; None when it is not there."""
    syntax = UID(transfer_syntax_uid)
    try:
        if syntax == DeflatedExplicitVRLittleEndian:
            head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, MAX_META_BYTES)
        dataset = read_dataset(
            BytesIO(head), syntax.is_implicit_VR, syntax.is_little_endian, stop_when=_is_behind_study_instance_uid
        )
        element = dataset.get(STUDY_INSTANCE_UID)
        return None if element is None else str(element.value)
    except Exception:  # pydicom's readers raise whatever a broken dataset leads them to
        return None


def _is_behind_study_instance_uid(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag > STUDY_INSTANCE_UID)
