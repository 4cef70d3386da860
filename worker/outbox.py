"""The outbox: files of outputs from their making until they are no longer re-sendable, in a directory or a bucket.

An output is rendered into the local directory `root`, and published before it is recorded: what the records know of,
every deliverer can have, on whatever host it was made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from models.any_spool import cache_bytes
from models.object_cache import ObjectCache
from models.object_store import ObjectStore, Observe
from models.settings import Settings

DIRECTORY: Final = "outbox"
CACHE_NAME: Final = "cache"


def _checked(file_name: str) -> str:
    if os.sep in file_name or file_name.startswith("."):
        raise ValueError("not an outbox file name")
    return file_name


class Outbox:
    """Output files by name in a local directory; a name is ``<SOP Instance UID>.dcm`` and never a path."""

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
        return self.root / _checked(file_name)

    def publish(self, file_names: Iterable[str]) -> None:
        """Nothing: what is rendered is in the outbox."""

    def fetch(self, file_name: str) -> Path:
        """Give the path of an output; whether it is there, whoever opens it finds out.

        Raises:
            ValueError: the name would leave the outbox.
        """
        return self.path_of(file_name)

    def let_go(self, file_name: str) -> None:
        """Nothing: the file that `fetch` gives is the file itself."""

    def __contains__(self, file_name: str) -> bool:
        """Tell whether the file is there."""
        return self.path_of(file_name).exists()

    def file_names(self, before: float) -> list[str]:
        """List the outputs that were made before a POSIX time."""
        with os.scandir(self.root) as items:
            return [item.name for item in items if not item.name.startswith(".") and item.stat().st_mtime < before]

    def discard_unfinished(self, before: float) -> None:
        """Remove what a worker began to write before a POSIX time and died over."""
        _remove_older(self.root.glob(".*.part"), before)

    def discard(self, file_name: str) -> None:
        """Remove a file; one that is not there is no error."""
        self.path_of(file_name).unlink(missing_ok=True)


class ObjectOutbox:
    """Output files in a bucket, below ``outbox/``; has the methods of `Outbox`.

    Every method but `prepare` raises `ObjectStoreUnavailable`, an `OSError`, when the bucket is away.

    Args:
        root: local directory that is rendered into; copies lie in ``cache/`` below it.
        store: the bucket.
        cache_bytes: bound of the copies.
    """

    def __init__(self, root: Path, store: ObjectStore, *, cache_bytes: int) -> None:
        self.root = root
        self._store = store
        self._cache = ObjectCache(root / CACHE_NAME, cache_bytes)

    def prepare(self) -> None:
        """Create the local directories."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._cache.prepare()

    def publish(self, file_names: Iterable[str]) -> None:
        """Upload what was rendered; doing it twice is no error.

        Raises:
            FileNotFoundError: one was not rendered here, and is not in the bucket.
        """
        for name in file_names:
            path = self.root / _checked(name)
            try:
                self._store.put_file(_key(name), path)
            except FileNotFoundError:
                if name not in self:  # else another process here rendered the same, and was quicker
                    raise
                continue
            self._cache.take_in(path, name)  # the deliverer is mostly on the same host

    def fetch(self, file_name: str) -> Path:
        """Give a local copy of an output, to be let go; the path of nothing where the bucket has none.

        Raises:
            ValueError: the name would leave the outbox.
        """
        try:
            return self._cache.get(_checked(file_name), lambda path: self._store.get_file(_key(file_name), path))
        except FileNotFoundError:
            return self._cache.path_of(file_name)

    def let_go(self, file_name: str) -> None:
        """Say that the copy is not needed for the moment."""
        self._cache.let_go(file_name)

    def __contains__(self, file_name: str) -> bool:
        """Tell whether the object is there."""
        return self._store.exists(_key(file_name))

    def file_names(self, before: float) -> list[str]:
        """List the outputs that were made before a POSIX time."""
        return [info.key.rpartition("/")[2] for info in self._store.objects(DIRECTORY) if info.modified_at < before]

    def discard_unfinished(self, before: float) -> None:
        """Remove what workers here rendered before a POSIX time and did not come to publish; trim the copies."""
        _remove_older((path for path in self.root.iterdir() if path.is_file()), before)
        self._cache.trim()

    def discard(self, file_name: str) -> None:
        """Remove an output; one that is not there is no error."""
        self._store.delete(_key(file_name))
        self._cache.remove(file_name)


AnyOutbox: TypeAlias = Outbox | ObjectOutbox


def open_outbox(settings: Settings, observe: Observe | None = None) -> AnyOutbox:
    """Give the outbox of the settings, which `prepare` has yet to prepare; `observe` is told what a bucket takes.

    Raises:
        ConfigurationError: the bucket of the settings cannot be used.
    """
    store = ObjectStore.of(settings, observe)
    if store is None:
        return Outbox(settings.outbox_path)
    return ObjectOutbox(settings.outbox_path, store, cache_bytes=cache_bytes(settings))


def _key(file_name: str) -> str:
    return f"{DIRECTORY}/{_checked(file_name)}"


def _remove_older(paths: Iterable[Path], before: float) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
