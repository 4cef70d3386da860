"""How much one instance may cost us, checked on what a header claims before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PixelLimits:
    """Upper bounds for one instance or image file; beyond one of them it is refused as `too_large`.

    The defaults pass every radiograph that detectors make (a stitched long-leg image has about 40 million pixels).

    Attributes:
        max_rows_columns: rows times columns, pixels.
        max_decoded_bytes: of the decoded pixel data, of an inflated (deflated) dataset and of the encoded frame.
        max_header_bytes: of everything before the pixel data that is read into memory.
        max_header_reads: pieces in which the header is read, about three per element; bounds the time and memory
            that millions of tiny elements would take.
    """

    max_rows_columns: int = 100_000_000
    max_decoded_bytes: int = 512 * 1024 * 1024
    max_header_bytes: int = 32 * 1024 * 1024
    max_header_reads: int = 100_000


DEFAULT_LIMITS = PixelLimits()
