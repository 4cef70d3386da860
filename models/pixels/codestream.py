"""Reads the headers of JPEG, JPEG-LS and JPEG 2000 codestreams, without decoding.

The size that a codestream declares is compared with the dataset before a codec sees it: a codec allocates what the
codestream says, whatever Rows and Columns promised.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from models.errors import Reason, Unprocessable

# ITU-T T.81 table B.1, T.87 annex C: start-of-frame markers. C4, C8 and CC are no frames.
_FRAMES: Final = frozenset({0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL_DCT: Final = (0xC0, 0xC1)
_PROGRESSIVE_DCT: Final = 0xC2
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN: Final = 0xDA

# ITU-T T.800 table A.2.
_J2K_START: Final = b"\xff\x4f\xff\x51"
_J2K_CODING_STYLE: Final = 0x52
_J2K_COMPONENT_CODING_STYLE: Final = 0x53
_J2K_START_OF_TILE: Final = 0x90
_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"


@dataclass(frozen=True, slots=True)
class Codestream:
    """What a codestream says of its image.

    Attributes:
        rows, columns: pixels; components: channels; precision: bits per sample.
        signed: JPEG 2000 only.
        is_dct: whether a JPEG is of the lossy kind (sequential or progressive).
        halvings: how often a JPEG 2000 decoder may leave out the finest resolution level.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    is_dct: bool = False
    halvings: int = 0


def read_jpeg(frame: bytes) -> tuple[Codestream, bytes]:
    """Read a JPEG or JPEG-LS header and repair a known slip; give the header and the codestream to decode.

    Some encoders write the scan parameters of lossless JPEG (Ss 0, Se 0) into sequential DCT scans, where only 0 to
    63 is possible (T.81 table B.3). libjpeg-turbo and DCMTK read on with a warning, libjpeg refuses.

    Raises:
        Unprocessable: there is no frame header before the first scan.
    """
    try:
        return _read_jpeg(frame)
    except (IndexError, struct.error) as error:
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "JPEG header is cut off") from error


def _read_jpeg(frame: bytes) -> tuple[Codestream, bytes]:
    if frame[:2] != b"\xff\xd8":
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "no JPEG codestream")
    found: tuple[int, Codestream] | None = None
    position = 2
    while True:
        if frame[position] != 0xFF:
            raise Unprocessable(Reason.UNDECODABLE_PIXELS, "JPEG header is broken")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack_from(">H", frame, position)
        if marker in _FRAMES:
            if found is not None:
                raise Unprocessable(Reason.UNDECODABLE_PIXELS, "JPEG with two frame headers")
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 2)
            is_dct = marker in (*_SEQUENTIAL_DCT, _PROGRESSIVE_DCT)
            found = marker, Codestream(rows, columns, components, precision, is_dct=is_dct)
        elif marker == _START_OF_SCAN:
            if found is None:
                raise Unprocessable(Reason.UNDECODABLE_PIXELS, "JPEG without frame header")
            marker, codestream = found
            return codestream, _repair_scan(frame, position) if marker in _SEQUENTIAL_DCT else frame
        position += length


def _repair_scan(frame: bytes, position: int) -> bytes:
    selection = position + 3 + 2 * frame[position + 2]
    if frame[selection : selection + 3] != b"\x00\x00\x00":
        return frame
    return frame[:selection] + b"\x00\x3f\x00" + frame[selection + 3 :]


def read_jpeg_2000(frame: bytes) -> tuple[Codestream, bytes]:
    """Read a JPEG 2000 or HTJ2K header; give it and the bare codestream.

    A JP2 file around the codestream is against PS3.5 A.4.4, but some senders write one.

    Raises:
        Unprocessable: there is no codestream, or it is of a kind that radiographs do not have.
    """
    try:
        frame = _unwrap_jp2(frame)
        return _read_jpeg_2000(frame), frame
    except (IndexError, struct.error) as error:
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "JPEG 2000 header is cut off") from error


def _unwrap_jp2(frame: bytes) -> bytes:
    if not frame.startswith(_JP2_SIGNATURE):
        return frame
    position = 0
    while True:  # T.800 annex I.4: boxes of length, type, content; ends by struct.error
        length, kind = struct.unpack_from(">L4s", frame, position)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame, position + 8)
            header = 16
        if kind == b"jp2c":
            return frame[position + header : None if length == 0 else position + length]
        if length < header:
            raise Unprocessable(Reason.UNDECODABLE_PIXELS, "JP2 file without codestream")
        position += length


def _read_jpeg_2000(frame: bytes) -> Codestream:
    if not frame.startswith(_J2K_START):
        raise Unprocessable(Reason.UNDECODABLE_PIXELS, "no JPEG 2000 codestream")
    # SIZ, T.800 A.5.1: sizes and offsets of image and tiles, then depth and subsampling of each component.
    right, bottom, left, top = struct.unpack_from(">4L", frame, 8)
    (components,) = struct.unpack_from(">H", frame, 40)
    depths = {frame[42 + 3 * index] for index in range(min(components, 4))}
    steps = {frame[43 + 3 * index + axis] for index in range(min(components, 4)) for axis in (0, 1)}
    if len(depths) != 1 or steps != {1}:
        raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "JPEG 2000 components differ in depth or size")
    depth = depths.pop()
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        # With an offset the coarser levels lie on another grid; leave those at full resolution.
        halvings=0 if left or top else _resolution_levels(frame),
    )


def _resolution_levels(frame: bytes) -> int:
    position = 2
    levels: list[int] = []
    while True:
        marker = frame[position + 1]
        if frame[position] != 0xFF or marker == _J2K_START_OF_TILE:
            return min(levels, default=0)
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker == _J2K_CODING_STYLE:  # T.800 A.6.1: Scod, then progression, layers, transform, then levels
            levels.append(frame[position + 9])
        elif marker == _J2K_COMPONENT_CODING_STYLE:
            # Of a single component only; more than 256 components were refused long before. T.800 A.6.2
            levels.append(frame[position + 6])
        position += 2 + length
