"""What a spool tells of its files, in whatever kind of storage they lie: keys, places, ages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

KEY_PATTERN: Final = re.compile(r"(?P<uid>[0-9]+(\.[0-9]+)*)_(?P<digest>[0-9a-f]{16})")
UID_PATTERN: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
MAX_UID_LENGTH: Final = 64
"""Characters, PS3.5 section 9.1."""


def is_valid_uid(uid: str) -> bool:
    """Tell whether `uid` may become part of a path: digits and dots, at most 64 characters (PS3.5 section 9.1).

    Leading zeros in a component, which the standard forbids and real senders use, are let through.
    """
    return len(uid) <= MAX_UID_LENGTH and UID_PATTERN.fullmatch(uid) is not None


def shard_of(key: str) -> str:
    """Give the directory of a pending file: the first two digits of its content hash.

    Raises:
        ValueError: the key is not one of ours (it may come from Redis, so it is never trusted as a path).
    """
    match = KEY_PATTERN.fullmatch(key)
    if match is None:
        raise ValueError("not a spool key")
    return match["digest"][:2]


class SpoolPlace(StrEnum):
    """Which part of the spool."""

    PENDING = "pending"
    SET_ASIDE = "set_aside"
    ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One unfinished file: its key and the POSIX time of its acceptance, seconds."""

    key: str
    modified_at: float

    @property
    def sop_instance_uid(self) -> str:
        """The SOP Instance UID that the key starts with."""
        return self.key.partition("_")[0]


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """One file, wherever in the spool it lies.

    Attributes:
        location: path or URL, for people.
        modified_at: POSIX time of its acceptance; in a bucket, of its coming to this place.
        size: bytes.
    """

    key: str
    place: SpoolPlace
    location: str
    modified_at: float
    size: int


@dataclass(frozen=True, slots=True)
class SpoolUsage:
    """How full the spool is: files pending, and bytes free on its file system."""

    pending: int
    free_bytes: int
