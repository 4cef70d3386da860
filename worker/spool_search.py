"""Where in the spool the file of an instance lies, and which files belong to a study.

An instance is linked to its study in the database only when it is settled; until then, the header of its file is all
that tells. Headers are read for this and never shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom import dcmread

from models.any_spool import AnySpool
from models.errors import ObjectStoreUnavailable
from models.records.base import from_posix
from models.spool_places import SpoolPlace

_TAGS: Final = ("StudyInstanceUID", "AccessionNumber")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """One file of an instance.

    Attributes:
        location: path or URL, for people.
        received_at: time of its acceptance.
    """

    key: str
    place: SpoolPlace
    location: str
    received_at: datetime

    @property
    def sop_instance_uid(self) -> str:
        """The SOP Instance UID that the key starts with."""
        return self.key.partition("_")[0]


def find_file(spool: AnySpool, key: str) -> FoundFile | None:
    """Look for the file of a key; None when it is nowhere."""
    file = spool.find(key)
    return None if file is None else FoundFile(key, file.place, file.location, from_posix(file.modified_at))


def files_of_instance(spool: AnySpool, sop_instance_uid: str) -> list[FoundFile]:
    """List every file of an instance, by whatever bytes."""
    prefix = f"{sop_instance_uid}_"
    return [file for file in [*unfinished_files(spool), *_archived(spool)] if file.key.startswith(prefix)]


def unfinished_files(spool: AnySpool) -> Iterator[FoundFile]:
    """List what is pending or set aside, in no order; nothing where there is no spool yet."""
    try:
        for entry in spool.entries():
            yield _found(spool, entry.key, SpoolPlace.PENDING, entry.modified_at)
        for entry in spool.set_aside_entries():
            yield _found(spool, entry.key, SpoolPlace.SET_ASIDE, entry.modified_at)
    except FileNotFoundError:
        return


def _found(spool: AnySpool, key: str, place: SpoolPlace, modified_at: float) -> FoundFile:
    return FoundFile(key, place, spool.location_of(key, place), from_posix(modified_at))


def files_of_study(
    spool: AnySpool, asked: str, advance: Callable[[], None], passes: Callable[[FoundFile], bool] = lambda file: True
) -> Iterator[tuple[FoundFile, str]]:
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
        study, accession = _study_of(spool, file)
        if study and asked in {study, accession}:
            yield file, study


def _archived(spool: AnySpool) -> Iterator[FoundFile]:
    for file in spool.archived():
        yield FoundFile(file.key, file.place, file.location, from_posix(file.modified_at))


def _study_of(spool: AnySpool, file: FoundFile) -> tuple[str, str]:
    try:
        with warnings.catch_warnings(), spool.open(file.key, file.place) as content:
            warnings.simplefilter("ignore")  # they may quote the header
            header: Any = dcmread(content, stop_before_pixels=True, specific_tags=list(_TAGS))
        return tuple(str(header.get(tag) or "").strip() for tag in _TAGS)  # type: ignore[return-value]
    except ObjectStoreUnavailable:
        raise
    except Exception:
        # Gone meanwhile, or whatever a malformed header makes its parser raise: it belongs to no study that we know.
        return "", ""
