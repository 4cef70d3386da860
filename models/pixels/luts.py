"""The grayscale pipeline of PS3.4 annex N.2 as one lookup table: stored value to grey.

Modality LUT or rescale, VOI LUT or window, then polarity. The whole chain is worked out once for each of the at most
65,536 stored values and then looked up, so that a sigmoid costs no more than a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.pixels.attributes import read_integer, read_items, read_number, read_text, read_value
from models.pixels.pixel_format import Samples, StoredPixels

WHITE: Final = 65535
"""Grey levels are uint16, 0 black to 65535 white."""

AUTO_WINDOW_PERCENTILES: Final = (0.5, 99.5)
"""Where no window is given: these percentiles of the pixels, padding left out, become black and white."""

_SAMPLE_SIDE: Final = 256
_FINE_RANGE: Final = 4096
"""A window over at least this many stored values lets means be taken before it; rounding costs 1 / 8192 at most."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GreyTable:
    """Grey level of each stored value.

    Attributes:
        grey: ``(2 ** bits,) uint16``, indexed by `StoredPixels.values`.
        commutes: whether, for the values that occur, the table is a straight line, so that means may be taken
            before it as well as after it.
    """

    grey: NDArray[np.uint16]
    commutes: bool

    def apply(self, values: Samples) -> NDArray[np.uint16]:
        """Look up ``(h, w)`` values: ``(h, w) uint16``."""
        # OpenCV wants a table as long as the index type is wide.
        full = np.zeros(256 if values.dtype == np.uint8 else 65536, np.uint16)
        full[: self.grey.size] = self.grey
        return cast(NDArray[np.uint16], cv2.LUT(values, full))


def build_table(header: Dataset, pixels: StoredPixels) -> GreyTable:
    """Work out the pipeline of `header` for `pixels`.

    A window or table that is malformed, or that would leave nothing of an image that has contrast, is ignored. Where
    there is none, images of at most 8 bits are shown in full range, others between `AUTO_WINDOW_PERCENTILES`.
    A VOI LUT is preferred to a window, and the first of several is taken (PS3.3 C.11.2.1: they are alternatives).
    """
    stored = np.arange(1 << pixels.bits, dtype=np.float64) + pixels.lowest
    padding = _padding(header, stored)
    sample = _sample(pixels.values, padding)
    modality, is_line = _modality(header, stored)
    voi = _voi_lut(header, modality) or _window(header)
    if voi is None or _is_flat(voi.map(modality)[sample], modality[sample]):
        voi = _default_voi(header, pixels, modality, sample)
    grey = voi.map(modality)
    if is_inverted(header) and not voi.is_flat:
        grey = 1 - grey
    if padding is not None:
        grey[padding] = 0
    occurring = _range(pixels.values, 1 << pixels.bits)
    commutes = is_line and padding is None and voi.is_line_over(modality[list(occurring)])
    return GreyTable(np.rint(grey * WHITE).astype(np.uint16), commutes)


@dataclass(frozen=True, slots=True)
class _Voi:
    """One way from modality values to grey in [0, 1]; `low` and `high` where it is a straight line between them."""

    map: Callable[[Values], Values]
    low: float | None = None
    high: float | None = None

    @property
    def is_flat(self) -> bool:
        return self.low is not None and self.low == self.high

    def is_line_over(self, ends: Values) -> bool:
        if self.low is None or self.high is None:
            return False
        return bool(self.low <= ends.min() and ends.max() <= self.high and self.high - self.low >= _FINE_RANGE)


def _modality(header: Dataset, stored: Values) -> tuple[Values, bool]:
    # PS3.3 C.11.1: a table or a line, never both.
    table = _read_lut(header, "ModalityLUTSequence", stored)
    if table is not None:
        return table.look_up(stored), False
    slope, intercept = read_number(header, "RescaleSlope"), read_number(header, "RescaleIntercept")
    slope = slope or 1.0  # a slope of 0 would erase the image
    # Only a slope of 1 keeps the width of a window comparable with a number of stored values.
    return stored * slope + (intercept or 0.0), abs(slope) == 1.0


def _voi_lut(header: Dataset, modality: Values) -> _Voi | None:
    table = _read_lut(header, "VOILUTSequence", modality)
    if table is None:
        return None
    # Some senders declare 16 bits and fill 12; white is what the entries need, not what the descriptor says.
    white = (1 << max(int(table.entries.max()).bit_length(), 1)) - 1
    return _Voi(lambda values: table.look_up(values) / white)


def _window(header: Dataset) -> _Voi | None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    centre, width = read_number(header, "WindowCenter"), read_number(header, "WindowWidth")
    function = read_text(header, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        return _Voi(lambda values: 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return _line(centre - width / 2, centre + width / 2)
    return _line(centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _line(low: float, high: float) -> _Voi:
    if low == high:  # LINEAR of width 1: a step
        return _Voi(lambda values: (values > low).astype(np.float64))
    return _Voi(lambda values: np.clip((values - low) / (high - low), 0, 1), low, high)


def _default_voi(header: Dataset, pixels: StoredPixels, modality: Values, sample: NDArray[np.intp]) -> _Voi:
    bits = read_integer(header, "BitsStored") or pixels.bits
    if bits <= 8:
        low, high = modality[: 1 << bits].min(), modality[: 1 << bits].max()
    elif sample.size:
        low, high = np.percentile(modality[sample], AUTO_WINDOW_PERCENTILES)
    else:
        low = high = 0.0
    if low == high:
        # Nothing but one value (or outliers): no contrast to show.
        return _Voi(np.zeros_like, 0.0, 0.0)
    return _line(float(low), float(high))


def is_inverted(header: Dataset) -> bool:
    """Whether the lowest value of the image, after modality and VOI, is meant to be white."""
    # PS3.3 C.8.11.3.1.2 lets Presentation LUT Shape only repeat what MONOCHROME1 and 2 say. Where a sender
    # contradicts itself, DCMTK and dcm4che believe the shape, and so do we.
    shape = (read_text(header, "PresentationLUTShape") or "").upper()
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return (read_text(header, "PhotometricInterpretation") or "").upper() == "MONOCHROME1"


def _padding(header: Dataset, stored: Values) -> NDArray[np.bool_] | None:
    """PS3.3 C.7.5.1.1.2: stored values from Pixel Padding Value to the Range Limit, whichever is smaller first."""
    value = read_integer(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = read_integer(header, "PixelPaddingRangeLimit")
    ends = [_as_stored(end, stored) for end in (value, value if limit is None else limit)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _as_stored(value: int, stored: Values) -> int:
    # Its VR is US or SS after Pixel Representation, and senders mix them up: -2000 comes as 63536 and back.
    if stored[0] < 0 and value > 32767:
        return value - 65536
    if stored[0] == 0 and value < 0:
        return value + 65536
    return value


def _sample(values: Samples, padding: NDArray[np.bool_] | None) -> NDArray[np.intp]:
    step = max(1, min(values.shape) // _SAMPLE_SIDE)
    sample = values[::step, ::step].ravel().astype(np.intp)
    return sample if padding is None else sample[~padding[sample]]


def _range(values: Samples, count: int) -> tuple[int, int]:
    low, high, _, _ = cv2.minMaxLoc(values)
    return int(low), min(int(high), count - 1)


def _is_flat(greys: Values, values: Values) -> bool:
    """Whether a VOI makes one grey of pixels that are not one value."""
    return bool(values.size and np.ptp(greys) == 0 and np.ptp(values) > 0)


@dataclass(frozen=True, slots=True)
class _Lut:
    first: int
    entries: Values

    def look_up(self, values: Values) -> Values:
        index = np.clip(np.rint(values) - self.first, 0, self.entries.size - 1)
        return np.asarray(self.entries[index.astype(np.intp)])


def _read_lut(header: Dataset, sequence: str, inputs: Values) -> _Lut | None:
    """Read the first item of a Modality or VOI LUT Sequence (PS3.3 C.11.1.1, C.11.2.1.1); None if unusable."""
    items = read_items(header, sequence)
    if not items:
        return None
    descriptor, data = read_value(items[0], "LUTDescriptor"), read_value(items[0], "LUTData")
    try:
        count, first, bits = (int(part) for part in descriptor or ())
    except (TypeError, ValueError):
        return None
    count = (count & 0xFFFF) or 65536  # 0 means 65536
    if first > 32767 and inputs.min() < 0:
        first -= 65536  # the descriptor is US or SS after its input, and its writer took US
    entries = lut_entries(data, count, bits, items[0])
    return None if entries is None else _Lut(first, entries)


def lut_entries(data: Any, count: int, bits: int, item: Dataset) -> Values | None:
    """Give the `count` entries of LUT Data in a sequence's item, in [0, 65535]; None if there are fewer."""
    if isinstance(data, bytes):
        wide = len(data) >= 2 * count
        little_endian = item.original_encoding[1] is not False
        entries = np.frombuffer(data, ("<u2" if little_endian else ">u2") if wide else np.uint8)
        # PS3.3 C.11.1.1.1: 8-bit entries may be packed two to a word.
        usable = wide or bits <= 8
    else:
        entries = np.asarray(data if isinstance(data, list) else [] if data is None else [data]).astype(np.int64)
        entries = entries & 0xFFFF
        usable = True
    if not usable or entries.size < count or count < 2:
        return None
    return entries[:count].astype(np.float64)
