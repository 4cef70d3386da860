"""Writes an output durably: complete under its name, or not there."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True)
class WrittenOutput:
    """An output on disk."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    file_name: str


def write_output(dataset: Dataset, directory: Path, pixels: NDArray[np.uint8] | None = None) -> WrittenOutput:
    """Write ``<directory>/<SOP Instance UID>.dcm`` as a Part 10 file.

    Data first (fsync), then the name (rename, fsync of the directory); a file of that name is replaced, which for
    our derived UIDs is the same object again.

    Args:
        dataset: with file meta information, explicit VR little endian.
        directory: of the file.
        pixels: written as Pixel Data straight from the array; the dataset then has none, and no later element.

    Raises:
        OSError: the directory cannot be written.
    """
    file_name = f"{dataset.SOPInstanceUID}.dcm"
    part = directory / f".{file_name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            dataset.save_as(file, enforce_file_format=True)
            if pixels is not None:
                _write_pixel_data(file, pixels)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, directory / file_name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return WrittenOutput(
        str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID), file_name
    )


def _write_pixel_data(file: BufferedWriter, pixels: NDArray[np.uint8]) -> None:
    # PS3.5 section 7.1.2: tag, VR OB, two reserved bytes, length; section 8.1.1: even length.
    padding = pixels.nbytes % 2
    file.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, pixels.nbytes + padding))
    file.write(np.ascontiguousarray(pixels).data)
    file.write(bytes(padding))
