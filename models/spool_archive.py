"""The spool's archive: finished spool files, kept so that a later version can see the same pixels.

::

    <spool>/archive/<yyyymmdd>/<key>.dcm      by the day (UTC) on which the instance was finished

Off unless `RADSTREAM_SPOOL_ARCHIVE_DAYS` says otherwise. Nothing depends on it: a file that cannot be kept is removed
as if there were no archive, and files go, oldest first, when they are too old, too many, or the disk is needed for
arriving instances. The files are what the sender sent, patients included.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from models.settings import Settings

ARCHIVE_NAME: Final = "archive"
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What the archive may hold.

    Attributes:
        days: since the instance was received; 0 means that nothing is kept.
        max_bytes: of all files together.
    """

    days: float
    max_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> ArchiveLimits:
        """Read them from the settings."""
        return cls(settings.spool_archive_days, int(settings.spool_archive_max_gb * 1e9))


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """One kept file; `received_at` is the POSIX time of its acceptance, seconds."""

    key: str
    path: Path
    size: int
    received_at: float


class SpoolArchive:
    """The archive of one spool directory."""

    def __init__(self, spool_root: Path) -> None:
        self.root = spool_root / ARCHIVE_NAME

    def keep(self, path: Path) -> None:
        """Take a finished file out of the spool; where that fails, remove it. One that is gone is no error."""
        directory = self.root / datetime.now(UTC).strftime("%Y%m%d")
        for _ in range(2):  # `trim` may remove an empty day between these two steps
            try:
                directory.mkdir(parents=True, exist_ok=True)
                os.rename(path, directory / path.name)
                return
            except FileNotFoundError:
                continue
            except OSError:
                break
        # A full disk, say. To end the instance matters, to keep it does not.
        path.unlink(missing_ok=True)

    def find(self, key: str) -> Path | None:
        """Give the file of a key, None when it is not kept."""
        for day in self._days():
            path = day / f"{key}.dcm"
            if path.exists():
                return path
        return None

    def give_back(self, key: str, target: Path) -> bool:
        """Move the file of a key out of the archive; False when it is not kept."""
        path = self.find(key)
        if path is None:
            return False
        try:
            os.replace(path, target)
        except FileNotFoundError:  # trimmed meanwhile
            return False
        return True

    def files(self) -> Iterator[ArchivedFile]:
        """List what is kept, in no order."""
        for day in self._days():
            with suppress(FileNotFoundError), os.scandir(day) as items:
                for item in items:
                    if not item.name.endswith(".dcm"):
                        continue
                    with suppress(FileNotFoundError):
                        told = item.stat()
                        key = item.name.removesuffix(".dcm")
                        yield ArchivedFile(key, Path(item.path), told.st_size, told.st_mtime)

    def trim(self, limits: ArchiveLimits, min_free_bytes: int) -> int:
        """Remove what the limits do not allow, oldest first, and more where the disk has less free than asked for.

        Returns:
            How many files went.
        """
        if not self.root.exists():
            return 0
        files = sorted(self.files(), key=lambda file: file.received_at)
        total = sum(file.size for file in files)
        missing = min_free_bytes - self._free_bytes()
        oldest = time.time() - limits.days * DAY_S
        removed = 0
        for file in files:
            if file.received_at >= oldest and total <= limits.max_bytes and missing <= 0:
                break
            file.path.unlink(missing_ok=True)
            total -= file.size
            missing -= file.size
            removed += 1
        self._remove_empty_days()
        return removed

    def _free_bytes(self) -> int:
        statistics = os.statvfs(self.root)
        return statistics.f_bavail * statistics.f_frsize

    def _days(self) -> list[Path]:
        try:
            with os.scandir(self.root) as items:
                days = [Path(item.path) for item in items if item.name.isdigit() and item.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(days, reverse=True)

    def _remove_empty_days(self) -> None:
        for day in self._days():
            with suppress(OSError):  # it is not empty
                day.rmdir()
