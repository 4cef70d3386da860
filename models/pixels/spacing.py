"""What a pixel of a radiograph measures, read from its header.

Three attributes may say it, and mean different planes: Pixel Spacing in the patient once the image was calibrated,
Imager Pixel Spacing at the detector, Nominal Scanned Pixel Spacing on a film that was digitised. Values that no
radiograph has are not believed, and the next attribute is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from models.pixels.attributes import read_number, read_text, read_value
from models.spine.spacing import Spacing, SpacingSource

_SMALLEST_MM: Final = 0.01
_LARGEST_MM: Final = 5.0
_LARGEST_ASPECT: Final = 4.0
"""Of a pixel's longer to its shorter side."""
_LARGEST_MAGNIFICATION: Final = 3.0
_SAME: Final = 1e-3
"""Share by which two spacings may differ and still be the same, rounded otherwise. No magnification is so small."""

# PS3.3 10.7.1.2
_CALIBRATED: Final = {
    "GEOMETRY": SpacingSource.CALIBRATED_GEOMETRY,
    "FIDUCIAL": SpacingSource.CALIBRATED_FIDUCIAL,
}

_Pair = tuple[float, float]


def read_spacing(header: Dataset) -> Spacing | None:
    """Give the distances between pixels that come nearest to those in the patient; None when the header says none."""
    in_patient = _read_pair(header, "PixelSpacing")
    at_detector = _read_pair(header, "ImagerPixelSpacing")
    on_film = _read_pair(header, "NominalScannedPixelSpacing")
    uncalibrated = at_detector or on_film
    # PS3.3 10.7.1.1: equal to that of the detector or of the film, it is not calibrated, whatever its type says.
    if in_patient is not None and not _is_same(in_patient, uncalibrated):
        return Spacing(*in_patient, _source_in_patient(header, uncalibrated))
    if at_detector is not None:
        return _at_detector(header, at_detector)
    return None if on_film is None else Spacing(*on_film, SpacingSource.NOMINAL_SCANNED_PIXEL_SPACING)


def _source_in_patient(header: Dataset, uncalibrated: _Pair | None) -> SpacingSource:
    kind = (read_text(header, "PixelSpacingCalibrationType") or "").upper()
    if kind in _CALIBRATED:
        return _CALIBRATED[kind]
    # PS3.3 10.7.1.1: alone and without a type, "it cannot be determined whether or not" it was calibrated.
    return SpacingSource.PIXEL_SPACING if uncalibrated is None else SpacingSource.PIXEL_SPACING_CORRECTED


def _at_detector(header: Dataset, spacing: _Pair) -> Spacing:
    # PS3.3 C.8.11.5: distance of the tube to the detector over that to the patient. 1 is what senders write who do not
    # know it, and nothing less can be.
    factor = read_number(header, "EstimatedRadiographicMagnificationFactor")
    if factor is None or not 1 < factor <= _LARGEST_MAGNIFICATION:
        return Spacing(*spacing, SpacingSource.IMAGER_PIXEL_SPACING)
    row, column = spacing
    return Spacing(row / factor, column / factor, SpacingSource.IMAGER_PIXEL_SPACING_CORRECTED)


def _is_same(one: _Pair, other: _Pair | None) -> bool:
    return other is not None and all(math.isclose(a, b, rel_tol=_SAME) for a, b in zip(one, other, strict=True))


def _read_pair(header: Dataset, keyword: str) -> _Pair | None:
    """Read distances between rows and between columns (PS3.3 10.7.1.3: in this order, positive, in mm)."""
    values = read_value(header, keyword)
    if not isinstance(values, MultiValue | Sequence) or isinstance(values, str | bytes) or len(values) != 2:
        return None
    try:
        row, column = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None
    sound = all(_SMALLEST_MM <= value <= _LARGEST_MM for value in (row, column))
    return (row, column) if sound and max(row, column) <= _LARGEST_ASPECT * min(row, column) else None
