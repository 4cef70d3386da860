"""Bodies of STOW-RS requests, worked out from RFC 2046 by hand."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset

BOUNDARY = "a-boundary"
TOKEN = "0123456789abcdef-portal"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def part_ten(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def multipart(*files: bytes, media_type: str = "application/dicom", end: bytes = b"--\r\n") -> bytes:
    parts = b"".join(f"\r\n--{BOUNDARY}\r\nContent-Type: {media_type}\r\n\r\n".encode() + content for content in files)
    return parts + f"\r\n--{BOUNDARY}".encode() + end
