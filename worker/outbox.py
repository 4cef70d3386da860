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

    def discard(self, file_name: str) -> None:
        """Remove a file; one that is not there is no error."""
        self.path_of(file_name).unlink(missing_ok=True)
