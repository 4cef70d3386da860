"""Opens a DICOM Part 10 file or stream: its header without pixel data, and the encoded pixel data on demand.

Every byte may come from a hostile sender. Lengths are believed only as far as the file reaches, a deflated dataset
is inflated up to a limit, and whatever the parser raises becomes `Unprocessable`.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from models.errors import Reason, Unprocessable
from models.pixels.attributes import read_text
from models.pixels.limits import DEFAULT_LIMITS, PixelLimits

UNDEFINED_LENGTH: Final = 0xFFFFFFFF
PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXEL_DATA: Final = 0x7FE00008
DOUBLE_FLOAT_PIXEL_DATA: Final = 0x7FE00009
ITEM: Final = 0xFFFEE000
SEQUENCE_DELIMITER: Final = 0xFFFEE0DD

MAX_ELEMENT_BYTES: Final = 256 * 1024
"""Longer elements are left out of the header; the longest that we need, a lookup table, has 128 KiB."""

_INFLATE_CHUNK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data of an instance stands: tag, VR, value length and position of the value, bytes."""

    tag: int
    vr: str | None
    length: int
    position: int


class _BoundedReader:
    """A file that never allocates more than it has, and ends the reading of a header that takes too much."""

    def __init__(self, file: BinaryIO, limits: PixelLimits) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._bytes_left = limits.max_header_bytes
        self._reads_left = limits.max_header_reads
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        remaining = max(0, self._size - self._file.tell())
        count = remaining if count < 0 else min(count, remaining)
        self._bytes_left -= count
        self._reads_left -= 1
        if self._bytes_left < 0 or self._reads_left < 0:
            raise Unprocessable(Reason.TOO_LARGE, "header is longer than the limit")
        return self._file.read(count)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class OpenInstance:
    """An instance whose header is read and whose pixel data can be.

    Attributes:
        header: the dataset before the pixel data, with `file_meta`; without elements over `MAX_ELEMENT_BYTES`.
        transfer_syntax: of the dataset, from the meta information.
        pixel_element: None when there is no pixel data.
    """

    def __init__(self, file: BinaryIO, limits: PixelLimits) -> None:
        self._limits = limits
        self._file = file
        self.header, self.pixel_element = self._parse(file)
        self.transfer_syntax = _transfer_syntax(self.header)

    def _parse(self, file: BinaryIO) -> tuple[Dataset, PixelElement | None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they quote values
                return self._read_header(file)
        except Unprocessable:
            raise
        except InvalidDicomError as error:
            raise Unprocessable(Reason.MALFORMED_DATASET, "not a DICOM Part 10 file") from error
        except Exception as error:  # the parser fails in whatever way the bytes lead it to, RecursionError included
            raise Unprocessable(Reason.MALFORMED_DATASET, "header cannot be parsed") from error

    def _read_header(self, file: BinaryIO) -> tuple[Dataset, PixelElement | None]:
        reader = _as_file(_BoundedReader(file, self._limits))
        read_preamble(reader, force=False)
        meta = FileMetaDataset(read_dataset(reader, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
        dataset = Dataset()
        dataset.file_meta = meta
        syntax = _transfer_syntax(dataset)
        if syntax == DeflatedExplicitVRLittleEndian:
            self._file = self._inflate(file)
            reader = _as_file(_BoundedReader(self._file, self._limits))
        header, element = _read_until_pixels(reader, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
        header.file_meta = meta
        return header, element

    def _inflate(self, file: BinaryIO) -> BinaryIO:
        # PS3.5 A.5: everything after the meta information is one raw deflate stream.
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        limit = self._limits.max_decoded_bytes + self._limits.max_header_bytes
        inflated = io.BytesIO()
        piece = file.read(_INFLATE_CHUNK)
        while piece and not inflater.eof:
            inflated.write(inflater.decompress(piece, limit + 1 - inflated.tell()))
            if inflated.tell() > limit:
                raise Unprocessable(Reason.TOO_LARGE, "deflated dataset is larger than the limit")
            piece = inflater.unconsumed_tail or file.read(_INFLATE_CHUNK)
        if not inflater.eof:
            raise Unprocessable(Reason.MALFORMED_DATASET, "deflated dataset ends early")
        return inflated

    def read_native(self, count: int) -> bytearray:
        """Read the first `count` bytes of native pixel data; what follows is padding.

        Raises:
            Unprocessable: the value has fewer bytes, or is encapsulated.
        """
        element = self._pixel_data()
        if element.length == UNDEFINED_LENGTH:
            raise Unprocessable(Reason.UNDECODABLE_PIXELS, "encapsulated pixel data in a native transfer syntax")
        if element.length < count:
            raise Unprocessable(Reason.UNDECODABLE_PIXELS, "pixel data is shorter than rows x columns")
        self._file.seek(element.position)
        # The claimed size was checked against the limits; the file may still be shorter than that.
        if self._remaining() < count:
            raise Unprocessable(Reason.UNDECODABLE_PIXELS, "file ends inside the pixel data")
        data = bytearray(count)
        filled = 0
        while filled < count:
            got = self._file.readinto(memoryview(data)[filled:])  # type: ignore[attr-defined]  # BinaryIO lacks it
            if not got:
                raise Unprocessable(Reason.UNDECODABLE_PIXELS, "file ends inside the pixel data")
            filled += got
        return data

    def read_frame(self) -> bytes:
        """Read the one frame of encapsulated pixel data, its fragments joined (PS3.5 A.4).

        Raises:
            Unprocessable: the value is not encapsulated, is cut off or is larger than the limit.
        """
        element = self._pixel_data()
        if element.length != UNDEFINED_LENGTH:
            raise Unprocessable(Reason.UNDECODABLE_PIXELS, "native pixel data in an encapsulated transfer syntax")
        self._file.seek(element.position)
        if self._remaining() > self._limits.max_decoded_bytes:
            raise Unprocessable(Reason.TOO_LARGE, "encoded frame is larger than the limit")
        fragments = list(self._fragments())
        if len(fragments) < 2:  # the first is the Basic Offset Table
            raise Unprocessable(Reason.NO_PIXEL_DATA, "no fragment in the pixel data")
        return b"".join(fragments[1:])

    def _fragments(self) -> Iterator[bytes]:
        while len(head := self._file.read(8)) == 8:
            group, number, length = struct.unpack("<HHL", head)
            tag = group << 16 | number
            if tag == SEQUENCE_DELIMITER:
                return
            if tag != ITEM or length > self._remaining():
                raise Unprocessable(Reason.UNDECODABLE_PIXELS, "pixel data has a broken fragment")
            yield self._file.read(length)

    def _pixel_data(self) -> PixelElement:
        element = self.pixel_element
        if element is None or element.length == 0:
            raise Unprocessable(Reason.NO_PIXEL_DATA)
        if element.tag != PIXEL_DATA:
            raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "floating-point pixel data")
        return element

    def _remaining(self) -> int:
        position = self._file.tell()
        size = self._file.seek(0, io.SEEK_END)
        self._file.seek(position)
        return size - position


@contextmanager
def open_instance(source: Path | BinaryIO, limits: PixelLimits = DEFAULT_LIMITS) -> Iterator[OpenInstance]:
    """Open a Part 10 file or a seekable stream of one.

    Raises:
        Unprocessable: it is not DICOM, its header is malformed or too large.
        OSError: the file cannot be opened or read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield OpenInstance(file, limits)
    else:
        source.seek(0)
        yield OpenInstance(source, limits)


def read_header(source: Path | BinaryIO, limits: PixelLimits = DEFAULT_LIMITS) -> Dataset:
    """Give the dataset before the pixel data, with `file_meta`; values are decoded when touched.

    Elements over `MAX_ELEMENT_BYTES` are left out. Touching a malformed value raises; `models.pixels.attributes`
    reads values without that.

    Raises:
        Unprocessable: it is not DICOM, its header is malformed or too large.
        OSError: the file cannot be opened or read.
    """
    with open_instance(source, limits) as instance:
        return instance.header


def _read_until_pixels(reader: BinaryIO, implicit_vr: bool, little_endian: bool) -> tuple[Dataset, PixelElement | None]:
    found: list[PixelElement] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA):
            found.append(PixelElement(int(tag), vr, length, reader.tell()))
            return True
        return int(tag) > PIXEL_DATA

    header = read_dataset(reader, implicit_vr, little_endian, stop_when=at_pixels, defer_size=MAX_ELEMENT_BYTES)
    skipped = [
        tag
        for tag, element in header.items()
        if isinstance(element, RawDataElement) and element.value is None and element.length
    ]
    for tag in skipped:
        del header[tag]
    return header, found[-1] if found else None


def _transfer_syntax(dataset: Dataset) -> UID:
    text = read_text(dataset.file_meta, "TransferSyntaxUID")
    if text is None:
        raise Unprocessable(Reason.MALFORMED_DATASET, "meta information names no transfer syntax")
    return UID(text, validation_mode=config.IGNORE)  # an invalid one is simply none of ours


def _as_file(reader: _BoundedReader) -> BinaryIO:
    # pydicom asks for a BinaryIO and uses read, seek and tell.
    return cast(BinaryIO, reader)
