"""Syslog messages that wait on disk for the audit record repository: one file each, in the order in which they came.

::

    <data_dir>/audit/<time>-<process>-<number>.syslog
    <data_dir>/audit/lock      held by the one process of this host that sends

Every process of a host puts its messages here; one of them sends. They hold patient identifiers as `RADSTREAM_PHI`
allows, so that only their owner can read them. They survive the end of every process; a power cut may cost the last
seconds.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

DIRECTORY: Final = "audit"
SUFFIX: Final = ".syslog"
LOCK_NAME: Final = "lock"
RECOUNT_S: Final = 5.0
"""Other processes put and take as well, so that our own count grows wrong."""


class AuditSpool:
    """The waiting messages of one data directory. Safe for any number of processes and threads.

    Args:
        data_dir: of the settings.
        max_waiting: more are not taken.
    """

    def __init__(self, data_dir: Path, max_waiting: int) -> None:
        self.root = data_dir / DIRECTORY
        self._max_waiting = max_waiting
        self._mutex = threading.Lock()
        self._number = 0
        self._count = 0
        self._counted_at = -RECOUNT_S
        self._lock: int | None = None

    def prepare(self) -> None:
        """Create the directory.

        Raises:
            OSError: it cannot be created.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, message: bytes) -> bool:
        """Keep a message; False when too many wait.

        Raises:
            OSError: the disk is full or failing.
        """
        with self._mutex:
            if not self._has_room():
                return False
            self._number += 1
            name = f"{time.time_ns():020d}-{os.getpid()}-{self._number:06d}{SUFFIX}"
            part = self.root / f".{name}.part"
            try:
                with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(message)
                os.rename(part, self.root / name)
            except OSError:
                part.unlink(missing_ok=True)
                raise
            self._count += 1
            return True

    def _has_room(self) -> bool:
        now = time.monotonic()
        if self._count >= self._max_waiting or now - self._counted_at >= RECOUNT_S:
            self._count, self._counted_at = len(self.names()), now
        return self._count < self._max_waiting

    def names(self) -> list[str]:
        """List what waits, oldest first."""
        with suppress(FileNotFoundError), os.scandir(self.root) as items:
            return sorted(item.name for item in items if item.name.endswith(SUFFIX) and item.name[0] != ".")
        return []

    def read(self, name: str) -> bytes | None:
        """Give a message; None when it is gone."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Take a message out; one that is gone is no error."""
        (self.root / name).unlink(missing_ok=True)

    def take_lead(self) -> bool:
        """Become the one that sends, or still be it; the kernel lets go of it with the process."""
        if self._lock is not None:
            return True
        descriptor = os.open(self.root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def leave_lead(self) -> None:
        """Let another process send."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
