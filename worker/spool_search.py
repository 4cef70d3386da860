"""Where in the spool the file of an instance lies, and which files belong to a study.

An instance is linked to its study in the database only when it is settled; until then, the header of its file is all
that tells. Headers are read for this and never shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread

from models.records.base import from_posix
from models.spool import Spool
from models.spool_archive import SpoolArchive

_TAGS: Final = ("StudyInstanceUID", "AccessionNumber")


class SpoolPlace(StrEnum):
    """Which part of the spool."""

    PENDING = "pending"
    SET_ASIDE = "set_aside"
    ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """One file of an instance; `received_at` is the time of its acceptance."""

    key: str
    place: SpoolPlace
    path: Path
    received_at: datetime

    @property
    def sop_instance_uid(self) -> str:
        """The SOP Instance UID that the key starts with."""
        return self.key.partition("_")[0]


def find_file(spool: Spool, key: str) -> SpoolFile | None:
    """Look for the file of a key; None when it is nowhere."""
    archived = SpoolArchive(spool.root).find(key)
    places = (
        (SpoolPlace.PENDING, spool.path_of(key)),
        (SpoolPlace.SET_ASIDE, spool.set_aside_path_of(key)),
        (SpoolPlace.ARCHIVE, archived),
    )
    for place, path in places:
        if path is not None and (received_at := _received_at(path)) is not None:
            return SpoolFile(key, place, path, received_at)
    return None


def files_of_instance(spool: Spool, sop_instance_uid: str) -> list[SpoolFile]:
    """List every file of an instance, by whatever bytes."""
    prefix = f"{sop_instance_uid}_"
    return [file for file in [*unfinished_files(spool), *_archived(spool)] if file.key.startswith(prefix)]


def unfinished_files(spool: Spool) -> Iterator[SpoolFile]:
    """List what is pending or set aside, in no order; nothing where there is no spool yet."""
    try:
        for entry in spool.entries():
            path = spool.path_of(entry.key)
            yield SpoolFile(entry.key, SpoolPlace.PENDING, path, from_posix(entry.modified_at))
        for entry in spool.set_aside_entries():
            path = spool.set_aside_path_of(entry.key)
            yield SpoolFile(entry.key, SpoolPlace.SET_ASIDE, path, from_posix(entry.modified_at))
    except FileNotFoundError:
        return


def files_of_study(
    spool: Spool, asked: str, advance: Callable[[], None], passes: Callable[[SpoolFile], bool] = lambda file: True
) -> Iterator[tuple[SpoolFile, str]]:
    """Read the headers of unfinished files, and give those of a study, or accession number, with their study's UID.

    Args:
        spool: to look through.
        asked: a Study Instance UID or an accession number.
        advance: is called for each file.
        passes: files for which it is False are not read.
    """
    for file in unfinished_files(spool):
        advance()
        if not passes(file):
            continue
        study, accession = _study_of(file.path)
        if study and asked in {study, accession}:
            yield file, study


def _archived(spool: Spool) -> Iterator[SpoolFile]:
    for file in SpoolArchive(spool.root).files():
        yield SpoolFile(file.key, SpoolPlace.ARCHIVE, file.path, from_posix(file.received_at))


def _received_at(path: Path) -> datetime | None:
    try:
        return from_posix(path.stat().st_mtime)
    except OSError:
        return None


def _study_of(path: Path) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they may quote the header
            header: Any = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        return tuple(str(header.get(tag) or "").strip() for tag in _TAGS)  # type: ignore[return-value]
    except Exception:
        # Gone meanwhile, or whatever a malformed header makes its parser raise: it belongs to no study that we know.
        return "", ""
