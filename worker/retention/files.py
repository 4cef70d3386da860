"""Old files that `retain` removes: instances that were set aside, outputs, the archive beyond its limits, leftovers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import AnySpool
from models.spool_archive import DAY_S, ArchiveLimits
from models.spool_places import SpoolFile, SpoolPlace
from worker.outbox import AnyOutbox, Outbox
from worker.outbox_cleaning import clean_outbox, removable_outputs

STALE_INCOMING_S: Final = 3600.0
"""A file being received for so long is not: its process died."""


@dataclass(frozen=True, slots=True)
class Files:
    """How many, and their bytes; None where nobody knows."""

    count: int
    size: int | None


class FileRetention:
    """Counts and removes files of spool and outbox."""

    def __init__(self, spool: AnySpool, outbox: AnyOutbox, sessions: sessionmaker[Session]) -> None:
        self._spool = spool
        self._outbox = outbox
        self._sessions = sessions

    # Set aside

    def set_aside(self, before: datetime) -> list[SpoolFile]:
        """List the instances that were set aside before a moment."""
        limit = before.timestamp()
        old = [entry.key for entry in self._spool.set_aside_entries() if entry.modified_at < limit]
        return self._found(old)

    def set_aside_of(self, keys: Iterable[str]) -> list[SpoolFile]:
        """List those of some keys that are set aside."""
        return self._found(keys)

    def _found(self, keys: Iterable[str]) -> list[SpoolFile]:
        found = (self._spool.find(key) for key in keys)
        return [file for file in found if file is not None and file.place is SpoolPlace.SET_ASIDE]

    def remove_set_aside(self, files: Sequence[SpoolFile]) -> Files:
        """Remove them."""
        for file in files:
            self._spool.discard_set_aside(file.key)
        return Files(len(files), sum(file.size for file in files))

    # Outbox

    def outputs(self, keep_days: float) -> Files:
        """Count the outputs that are no longer to be re-sendable."""
        return self._sized(removable_outputs(self._sessions, self._outbox, keep_days))

    def clean_outputs(self, keep_days: float) -> Files:
        """Remove them, and what was begun and never finished."""
        size = self.outputs(keep_days).size
        return Files(clean_outbox(self._sessions, self._outbox, keep_days), size)

    def remove_outputs(self, names: Sequence[str]) -> Files:
        """Remove outputs that no record knows any more."""
        known = [name for name in names if name in self._outbox]
        told = self._sized(known)
        for name in known:
            self._outbox.discard(name)
        return told

    def _sized(self, names: Sequence[str]) -> Files:
        if not isinstance(self._outbox, Outbox):
            return Files(len(names), None)
        size = 0
        for name in names:
            with suppress(FileNotFoundError):
                size += self._outbox.path_of(name).stat().st_size
        return Files(len(names), size)

    # Archive and leftovers

    def archive(self, limits: ArchiveLimits) -> Files:
        """Count what the archive holds beyond its limits."""
        going = beyond(list(self._spool.archived()), limits)
        return Files(len(going), sum(file.size for file in going))

    def trim_archive(self, limits: ArchiveLimits) -> Files:
        """Remove it."""
        size = self.archive(limits).size
        return Files(self._spool.trim_archive(limits, 0), size)

    def stale_incoming(self) -> Files:
        """Count files whose reception never ended."""
        limit, found = time.time() - STALE_INCOMING_S, []
        for path in (self._spool.root / "incoming").glob("*"):
            with suppress(FileNotFoundError):
                found.append(path.stat())
        sizes = [told.st_size for told in found if told.st_mtime < limit]
        return Files(len(sizes), sum(sizes))

    def remove_stale_incoming(self) -> Files:
        """Remove them."""
        size = self.stale_incoming().size
        return Files(self._spool.discard_stale_incoming(STALE_INCOMING_S), size)


def beyond(files: Sequence[SpoolFile], limits: ArchiveLimits) -> list[SpoolFile]:
    """Say which files of an archive `trim_archive` removes while the disk has room: the oldest."""
    total, oldest = sum(file.size for file in files), time.time() - limits.days * DAY_S
    going: list[SpoolFile] = []
    for file in sorted(files, key=lambda each: each.modified_at):
        if file.modified_at >= oldest and total <= limits.max_bytes:
            break
        going.append(file)
        total -= file.size
    return going
