"""The transfer syntaxes (PS3.6 table A-1) whose pixel data we decode: the SCP offers these and no other.

Imports nothing but UIDs, because the SCP must not load image libraries.
"""

from __future__ import annotations

from typing import Final

from pydicom import uid

NATIVE_TRANSFER_SYNTAXES: Final[tuple[uid.UID, ...]] = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
"""Pixel data stands in the dataset as it is."""

JPEG_TRANSFER_SYNTAXES: Final[tuple[uid.UID, ...]] = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
)
JPEG_LS_TRANSFER_SYNTAXES: Final[tuple[uid.UID, ...]] = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
JPEG_2000_TRANSFER_SYNTAXES: Final[tuple[uid.UID, ...]] = (
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)

DECODABLE_TRANSFER_SYNTAXES: Final[tuple[uid.UID, ...]] = (
    *NATIVE_TRANSFER_SYNTAXES,
    uid.RLELossless,
    *JPEG_TRANSFER_SYNTAXES,
    *JPEG_LS_TRANSFER_SYNTAXES,
    *JPEG_2000_TRANSFER_SYNTAXES,
)
"""Every transfer syntax that `models.pixels.radiograph` decodes, cheapest to decode first."""

LOSSY_TRANSFER_SYNTAXES: Final[tuple[uid.UID, ...]] = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
)
"""Those that may have changed the samples."""
