"""Writes an output durably: complete under its name, or not there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True)
class WrittenOutput:
    """An output on disk."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    file_name: str


def write_output(dataset: Dataset, directory: Path) -> WrittenOutput:
    """Write ``<directory>/<SOP Instance UID>.dcm`` as a Part 10 file.

    Data first (fsync), then the name (rename, fsync of the directory); a file of that name is replaced, which for
    our derived UIDs is the same object again.

    Raises:
        OSError: the directory cannot be written.
    """
    file_name = f"{dataset.SOPInstanceUID}.dcm"
    part = directory / f".{file_name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            dataset.save_as(file, enforce_file_format=True)
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
