"""Reads the images of a set as the worker reads its instances: PNG, JPEG and DICOM, told apart by their first bytes.

Large sets are read by several processes: the codecs hold Python's lock, and one that crashes or hangs then takes
only its own file with it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final, TypeVar

from pebble import ProcessExpired, ProcessPool
from pydicom.dataset import Dataset

from models.errors import Reason, Unprocessable
from models.pixels.attributes import read_text
from models.pixels.image_files import IMAGE_SUFFIXES, read_image_file
from models.pixels.radiograph import Radiograph

DICOM_SUFFIXES: Final = (".dcm", ".dicom")
READABLE_SUFFIXES: Final = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)

_PREAMBLE_BYTES: Final = 128  # PS3.10 7.1: then "DICM"
_READ_TIMEOUT_S: Final = 120.0
_WORTH_PROCESSES_BYTES: Final = 150 * 1024 * 1024
"""Below this a set is read before the processes would have started."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be read; `reason` is one phrase."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of an image once it was read.

    Attributes:
        pixels_sha256: hex digest of shape, type and gray values.
        person: pseudonym of the DICOM patient, None for an image file.
    """

    pixels_sha256: str
    person: str | None


def is_dicom(path: Path) -> bool:
    """Say whether a file begins as DICOM Part 10 files do.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        file.seek(_PREAMBLE_BYTES)
        return file.read(4) == b"DICM"


def read_radiograph(path: Path, *, smallest_side: int | None = None) -> Radiograph:
    """Read a PNG, JPEG or DICOM file.

    Args:
        path: of the file.
        smallest_side: see `models.pixels.radiograph.Radiograph.read`.

    Raises:
        Unprocessable: it is broken or of a kind that is not read.
        OSError: it cannot be opened.
    """
    if is_dicom(path):
        return Radiograph.read(path, smallest_side=smallest_side)
    return read_image_file(path)


def digest_of(radiograph: Radiograph) -> str:
    """Give the hex digest of a radiograph's shape, type and gray values, read at full resolution."""
    stored = radiograph.stored
    return hashlib.sha256(f"{stored.shape} {stored.dtype}".encode() + stored.tobytes()).hexdigest()


def pixels_sha256(path: Path) -> str:
    """Give the hex digest of an image file's shape, type and gray values.

    Raises:
        Unprocessable, OSError: it cannot be read.
    """
    return digest_of(read_radiograph(path))


def identify(path: Path) -> Identity:
    """Read one file at full resolution; raises as `pixels_sha256`."""
    radiograph = read_radiograph(path)
    return Identity(digest_of(radiograph), person_of_header(radiograph.header))


def person_of_header(header: Dataset) -> str | None:
    """Give a pseudonym of the patient, else of the study; None where the header names neither, as of an image file.

    It keeps patient ids out of lists and logs. It is no protection: who knows the ids can compute it again.
    """
    for keywords in (("PatientID", "IssuerOfPatientID"), ("StudyInstanceUID",)):
        values = [read_text(header, keyword) or "" for keyword in keywords]
        if values[0]:
            digest = hashlib.sha256("\0".join((keywords[0], *values)).encode()).hexdigest()
            return f"{'patient' if keywords[0] == 'PatientID' else 'study'}-{digest[:16]}"
    return None


def read_each(
    paths: Sequence[Path], read: Callable[[Path], T], processes: int | None = None
) -> Iterator[T | Unreadable]:
    """Give what `read` makes of each file, in order, or why it could not be read.

    Args:
        paths: of the files.
        read: a function of a module, which other processes can import; raises `Unprocessable` or `OSError`.
        processes: 0 reads in this process; None takes several where the files are worth it.
    """
    if processes is None:
        processes = min(8, os.cpu_count() or 1) if _is_worth_processes(paths) else 0
    if processes > 1:
        yield from _read_in_processes(paths, read, processes)
        return
    for path in paths:
        yield _attempt(path, read)


def _is_worth_processes(paths: Sequence[Path]) -> bool:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            continue
        if total > _WORTH_PROCESSES_BYTES:
            return True
    return False


def _attempt(path: Path, read: Callable[[Path], T]) -> T | Unreadable:
    try:
        return read(path)
    except Unprocessable as error:
        return Unreadable(path, _in_words(error))
    except OSError as error:
        return Unreadable(path, f"cannot be opened: {error.strerror}")


def _in_words(error: Unprocessable) -> str:
    return error.detail or error.reason.value.replace("_", " ")


def _read_in_processes(paths: Sequence[Path], read: Callable[[Path], T], processes: int) -> Iterator[T | Unreadable]:
    # Spawned, for a fork would copy the locks of whatever threads a progress bar or torch has started.
    pool = ProcessPool(max_workers=processes, context=get_context("spawn"))
    try:
        futures = [pool.schedule(_attempt, args=(path, read), timeout=_READ_TIMEOUT_S) for path in paths]
        for path, future in zip(paths, futures, strict=True):
            try:
                yield future.result()
            except FutureTimeoutError:
                yield Unreadable(path, Reason.DECODE_TIMEOUT.value.replace("_", " "))
            except ProcessExpired:
                yield Unreadable(path, Reason.DECODER_CRASHED.value.replace("_", " "))
        pool.close()
    finally:
        pool.stop()
        pool.join()
