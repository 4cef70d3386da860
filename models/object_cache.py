"""Copies of objects in a local directory, for readers that take a path: bounded in size, never the only copy.

Several processes may share the directory; a copy appears whole under its name. What this process got and has not
given up stays, whatever its size; of the rest, the copies that were used longest ago go first.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

IN_USE_S: Final = 120.0
"""A copy that another process asked for so lately may be about to be read."""
TRIM_AFTER: Final = 8
"""How many parts of the whole may be added before it is measured again."""


class ObjectCache:
    """Copies by name; a name is one of ours, and never a path.

    Args:
        directory: of the copies.
        max_bytes: of all of them together.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._held: set[str] = set()
        self._added = 0
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Create the directory and trim what earlier processes left in it.

        Raises:
            OSError: it cannot be created.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.trim()

    def path_of(self, name: str) -> Path:
        """Say where the copy lies, if there is one."""
        return self.directory / name

    def get(self, name: str, download: Callable[[Path], None]) -> Path:
        """Give a copy, made by `download` where there is none; it stays until `remove` or `let_go`.

        Raises:
            OSError: as `download` does.
        """
        path = self.path_of(name)
        with self._lock:
            self._held.add(name)
        try:
            os.utime(path)
        except FileNotFoundError:
            try:
                download(path)
                self._note_added(path.stat().st_size)
            except BaseException:
                self.let_go(name)
                raise
        return path

    def take_in(self, source: Path, name: str) -> None:
        """Make a local file the copy of what was uploaded from it; where that fails it is removed."""
        try:
            size = source.stat().st_size
            os.replace(source, self.path_of(name))
            self._note_added(size)
        except OSError:
            source.unlink(missing_ok=True)

    def let_go(self, name: str) -> None:
        """Say that this process does not need the copy any more."""
        with self._lock:
            self._held.discard(name)

    def remove(self, name: str) -> None:
        """Remove a copy; one that is not there is no error."""
        self.let_go(name)
        with suppress(OSError):
            self.path_of(name).unlink(missing_ok=True)

    def trim(self) -> int:
        """Remove unfinished downloads, and copies beyond the bound; give how many."""
        now, found = time.time(), []
        with suppress(FileNotFoundError), os.scandir(self.directory) as items:
            for item in items:
                with suppress(FileNotFoundError):
                    told = item.stat()
                    found.append((told.st_mtime, told.st_size, item.name))
        with self._lock:
            held = set(self._held)
            self._added = 0
        total, removed = sum(size for _, size, _ in found), 0
        for used_at, size, name in sorted(found):
            unfinished = name.startswith(".")
            if name in held or now - used_at < IN_USE_S or not (unfinished or total > self._max_bytes):
                continue
            with suppress(OSError):
                self.path_of(name).unlink(missing_ok=True)
            total -= size
            removed += 1
        return removed

    def _note_added(self, size: int) -> None:
        with self._lock:
            self._added += size
            due = self._added > self._max_bytes // TRIM_AFTER
        if due:
            self.trim()
