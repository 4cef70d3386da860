"""What the Image Pixel module (PS3.3 C.7.6.3) says of the samples, with the gaps of real senders filled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.errors import Reason, Unprocessable
from models.pixels.attributes import read_integer, read_text
from models.pixels.limits import PixelLimits

Samples = NDArray[Any]
"""uint8 or uint16; numpy's types do not follow shifts of the union of both."""

GREYSCALE = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Layout of one frame.

    Attributes:
        rows, columns: pixels.
        samples_per_pixel: 1, or 3 for a radiograph wrapped in a colour image.
        photometric: Photometric Interpretation.
        bits_allocated: 8 or 16; bits_stored: 2 to `bits_allocated`; high_bit: of native data, its topmost used bit.
        signed: whether the samples are two's complement.
        planar: whether colour is stored plane by plane.
    """

    rows: int
    columns: int
    samples_per_pixel: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool

    @property
    def samples(self) -> int:
        """Samples of the frame, all channels."""
        return self.rows * self.columns * self.samples_per_pixel

    @property
    def sample_bytes(self) -> int:
        """Bytes of the decoded frame."""
        return self.samples * self.bits_allocated // 8

    @classmethod
    def from_header(cls, header: Dataset, limits: PixelLimits) -> PixelFormat:
        """Read and check group 0028.

        Raises:
            Unprocessable: the size is missing or over the limits, or the kind of pixels is none that we read.
        """
        rows, columns = read_integer(header, "Rows"), read_integer(header, "Columns")
        allocated = read_integer(header, "BitsAllocated")
        if not rows or not columns or allocated is None:
            raise Unprocessable(Reason.MALFORMED_DATASET, "Rows, Columns or Bits Allocated is missing or zero")
        if (read_integer(header, "NumberOfFrames") or 1) > 1:
            raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "more than one frame")
        samples = read_integer(header, "SamplesPerPixel") or 1
        photometric = (read_text(header, "PhotometricInterpretation") or GREYSCALE[1]).upper()
        if photometric not in (GREYSCALE if samples == 1 else COLOUR) or samples not in (1, 3):
            raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "neither greyscale nor a three-channel image")
        stored, high_bit = _bits(header, allocated)
        if samples == 3 and stored != 8:
            raise Unprocessable(Reason.UNSUPPORTED_PIXELS, "colour with other than 8 bits")
        form = cls(
            rows=rows,
            columns=columns,
            samples_per_pixel=samples,
            photometric=photometric,
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=high_bit,
            signed=read_integer(header, "PixelRepresentation") == 1,
            planar=read_integer(header, "PlanarConfiguration") == 1,
        )
        if rows * columns > limits.max_rows_columns or form.sample_bytes > limits.max_decoded_bytes:
            raise Unprocessable(Reason.TOO_LARGE, f"{rows} x {columns} pixels")
        return form


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """The decoded frame.

    Attributes:
        values: ``(h, w) uint8 or uint16``: the stored value minus `lowest`, so that it can index a table.
        bits: `values` are below ``2 ** bits``.
        lowest: stored value that 0 stands for: 0, or ``-2 ** (bits - 1)`` for signed samples.
        halvings: how often rows and columns were halved while decoding.
    """

    values: Samples
    bits: int
    lowest: int = 0
    halvings: int = 0


def _bits(header: Dataset, allocated: int) -> tuple[int, int]:
    stored = read_integer(header, "BitsStored") or allocated
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise Unprocessable(Reason.UNSUPPORTED_PIXELS, f"{stored} bits stored in {allocated}")
    high_bit = read_integer(header, "HighBit")
    # A High Bit that cannot hold the samples is a sender's slip; PS3.5 8.1.1 leaves one value nowadays.
    if high_bit is None or not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    return stored, high_bit
