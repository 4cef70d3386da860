"""What a pixel of a radiograph measures, and how far that can be trusted. Read from headers in `models.pixels.spacing`.

A radiograph is a central projection: what lies nearer to the tube is magnified, mostly by 5 to 30 %. Lengths measured
at the detector are therefore too large, and only percentages and angles are free of it. The source says which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class SpacingSource(StrEnum):
    """Where a spacing comes from (PS3.3 10.7.1.1, C.8.11.4), the most trusted first. Stored as text."""

    CALIBRATED_GEOMETRY = "calibrated_geometry"
    """Pixel Spacing, corrected for an assumed or known magnification: Pixel Spacing Calibration Type GEOMETRY."""
    CALIBRATED_FIDUCIAL = "calibrated_fiducial"
    """Pixel Spacing, corrected by an object of known size in the image: Pixel Spacing Calibration Type FIDUCIAL."""
    PIXEL_SPACING_CORRECTED = "pixel_spacing_corrected"
    """Pixel Spacing that differs from Imager Pixel Spacing, so it was calibrated, but the header does not say how."""
    IMAGER_PIXEL_SPACING_CORRECTED = "imager_pixel_spacing_corrected"
    """Imager Pixel Spacing, divided by the Estimated Radiographic Magnification Factor of the header."""
    PIXEL_SPACING = "pixel_spacing"
    """Pixel Spacing alone: whether it is one at the detector is not known."""
    IMAGER_PIXEL_SPACING = "imager_pixel_spacing"
    """At the detector: lengths are those of the projection, larger than those of the patient."""
    NOMINAL_SCANNED_PIXEL_SPACING = "nominal_scanned_pixel_spacing"
    """On the film that was digitised, which lay where a detector would."""


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distances between the centres of neighbouring pixels.

    Attributes:
        row_mm: between rows, along y.
        column_mm: between columns, along x.
        source: of both.
    """

    row_mm: float
    column_mm: float
    source: SpacingSource

    def to_mm(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give points ``(..., 2)`` of x and y in pixels in mm, from the same corner."""
        scaled: NDArray[np.float64] = points * np.array([self.column_mm, self.row_mm])
        return scaled
