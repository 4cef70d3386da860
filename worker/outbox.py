"""The outbox directory: files of outputs from their making until they are no longer re-sendable."""

from __future__ import annotations

import os
from pathlib import Path


class Outbox:
    """Output files by name; a name is ``<SOP Instance UID>.dcm`` and never a path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the directory."""
        self.root.mkdir(parents=True, exist_ok=True)

    def path_of(self, file_name: str) -> Path:
        """Give the path of an output.

        Raises:
            ValueError: the name would leave the outbox.
        """
        if os.sep in file_name or file_name.startswith("."):
            raise ValueError("not an outbox file name")
        return self.root / file_name

    def file_names(self, before: float) -> list[str]:
        """List the outputs that were made before a POSIX time."""
        with os.scandir(self.root) as items:
            return [item.name for item in items if not item.name.startswith(".") and item.stat().st_mtime < before]

    def discard_unfinished(self, before: float) -> None:
        """Remove what a worker began to write before a POSIX time and died over."""
        for part in self.root.glob(".*.part"):
            if part.stat().st_mtime < before:
                part.unlink(missing_ok=True)

    def discard(self, file_name: str) -> None:
        """Remove a file; one that is not there is no error."""
        self.path_of(file_name).unlink(missing_ok=True)
