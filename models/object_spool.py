"""The spool in a bucket: what one host's SCP accepted, another host's workers take.

Keys are as in `models.spool`, below the prefix of `RADSTREAM_OBJECT_STORE`::

    pending/<hh>/<key>.dcm    set_aside/<key>.dcm    archive/<day>/<key>.dcm

An instance is accepted when the bucket has its object. On the host lie only ``incoming/``, where a dataset is received
because its hash is known at its end, and ``cache/``, copies for readers that take a path; after a crash nothing of
either is needed. Objects have no rename: what moves is copied, then removed, and whoever is killed in between leaves
both, which the next to look at it puts right, because settling and finishing twice do no harm.

Every method raises `ObjectStoreUnavailable`, an `OSError`, when the bucket is away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from models.errors import ConfigurationError, Reason, Unprocessable
from models.object_cache import ObjectCache
from models.object_store import ObjectInfo, ObjectStore
from models.requests import InferenceRequest, Lane
from models.spool import discard_older, fresh_incoming_path, header_for, request_from
from models.spool_archive import ARCHIVE_NAME, DAY_S, ArchiveLimits
from models.spool_header import MAX_HEADER_LENGTH
from models.spool_places import KEY_PATTERN, SpoolEntry, SpoolFile, SpoolPlace, SpoolUsage, shard_of
from models.spool_writer import SpoolWriter

CACHE_NAME: Final = "cache"


class ObjectSpool:
    """A spool in a bucket. Safe for any number of processes, threads and hosts; has the methods of `Spool`.

    Args:
        root: local directory for what is being received and for copies.
        store: the bucket.
        cache_bytes: bound of the copies.
        archives: whether finished files may be kept, see `finish`.
    """

    def __init__(self, root: Path, store: ObjectStore, *, cache_bytes: int, archives: bool = False) -> None:
        self.root = root
        self.store = store
        self._archives = archives
        self._incoming = root / "incoming"
        self._cache = ObjectCache(root / CACHE_NAME, cache_bytes)

    def prepare(self) -> None:
        """Create the local directories.

        Raises:
            OSError: they cannot be created or written.
            ConfigurationError: a local spool lies there, with instances that would be forgotten.
        """
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._cache.prepare()
        left = next((self.root / "pending").glob("??/*.dcm"), None)
        if left is not None:
            raise ConfigurationError(
                f"RADSTREAM_OBJECT_STORE: {self.root}/pending holds unfinished instances of a local spool; "
                "unset it until the workers have finished them, then set it"
            )

    # Storing

    def begin(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        called_ae_title: str,
        lane: Lane,
    ) -> SpoolWriter:
        """Open a file for one arriving dataset.

        Raises:
            Unprocessable: a UID is not one.
            Transient: the local file cannot be created (out of space, permissions).
        """
        header = header_for(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title, called_ae_title)
        return SpoolWriter(self.incoming_path(), self._publish, sop_instance_uid, lane, header)

    def _publish(self, file: BinaryIO, path: Path, key: str) -> None:
        # No fsync here: what counts is the object, and that is there when the upload returns.
        file.close()
        self.store.put_file(_pending(key), path)
        path.unlink(missing_ok=True)

    def incoming_path(self) -> Path:
        """Give a fresh local path for a file being received."""
        return fresh_incoming_path(self._incoming)

    def discard_stale_incoming(self, older_than_s: float) -> int:
        """Remove local files whose reception never ended, and say how many; trim the copies, too."""
        self._cache.trim()
        return discard_older(self._incoming, older_than_s)

    # Listing and reading

    def location_of(self, key: str, place: SpoolPlace = SpoolPlace.PENDING) -> str:
        """Give the URL of an object that is pending or set aside, for people."""
        return self.store.url_of(_object_key(key, place))

    def local_path(self, key: str) -> Path:
        """Say where a pending file lies here once it was fetched."""
        shard_of(key)
        return self._cache.path_of(f"{key}.dcm")

    def fetch(self, key: str) -> Path:
        """Give a local copy of a pending file; it stays until the file is finished, set aside, or `drop_copy`.

        Raises:
            Unprocessable: it is not there (finished meanwhile, or removed by hand).
        """
        return self._copy(key, _pending(key))

    def fetch_file(self, file: SpoolFile) -> Path:
        """Give a local copy of a file that was found.

        Raises:
            Unprocessable: it is not there any more.
        """
        path = self._copy(file.key, file.location.removeprefix(f"{self.store.url}/"))
        self._cache.let_go(path.name)
        return path

    def drop_copy(self, key: str) -> None:
        """Say that this process does not need the local copy of a file any more."""
        self._cache.let_go(self.local_path(key).name)

    def _copy(self, key: str, object_key: str) -> Path:
        try:
            return self._cache.get(self.local_path(key).name, lambda path: self.store.get_file(object_key, path))
        except FileNotFoundError as error:
            raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error

    def entries(self) -> Iterator[SpoolEntry]:
        """List pending files, in no order; files finished meanwhile may be among them."""
        yield from self._entries(SpoolPlace.PENDING)

    def set_aside_entries(self) -> Iterator[SpoolEntry]:
        """List the files that could not be processed."""
        yield from self._entries(SpoolPlace.SET_ASIDE)

    def _entries(self, place: SpoolPlace) -> Iterator[SpoolEntry]:
        for info in self.store.objects(place.value):
            key = _key_of(info)
            if key is not None:
                yield SpoolEntry(key, info.modified_at)

    def __contains__(self, key: str) -> bool:
        """Tell whether the file is still pending."""
        return self.store.exists(_pending(key))

    def open(self, key: str, place: SpoolPlace = SpoolPlace.PENDING) -> BinaryIO:
        """Open a Part 10 file that is pending or set aside; only what is read is transferred.

        Raises:
            Unprocessable: it is not there (finished meanwhile, or removed by hand).
        """
        try:
            return self.store.open(_object_key(key, place))
        except FileNotFoundError as error:
            raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error

    def find(self, key: str) -> SpoolFile | None:
        """Look for the file of a key; None when it is nowhere."""
        for place in (SpoolPlace.PENDING, SpoolPlace.SET_ASIDE):
            try:
                return self._file(key, place, self.store.stat(_object_key(key, place)))
            except FileNotFoundError:
                continue
        archived = self._find_archived(key)
        return None if archived is None else self._file(key, SpoolPlace.ARCHIVE, archived)

    def archived(self) -> Iterator[SpoolFile]:
        """List the finished files that are kept, in no order."""
        for info in self.store.objects(ARCHIVE_NAME):
            key = _key_of(info)
            if key is not None:
                yield self._file(key, SpoolPlace.ARCHIVE, info)

    def find_archived(self, key: str) -> Path | None:
        """Give a local copy of a finished file that is kept; None when it is not."""
        found = self._find_archived(key)
        if found is None:
            return None
        try:
            path = self._copy(key, found.key)
        except Unprocessable:  # trimmed meanwhile
            return None
        self._cache.let_go(path.name)
        return path

    def _find_archived(self, key: str) -> ObjectInfo | None:
        shard_of(key)
        for day in sorted(self.store.directories(ARCHIVE_NAME), reverse=True):
            try:
                return self.store.stat(f"{ARCHIVE_NAME}/{day}/{key}.dcm")
            except FileNotFoundError:
                continue
        return None

    def _file(self, key: str, place: SpoolPlace, info: ObjectInfo) -> SpoolFile:
        return SpoolFile(key, place, self.store.url_of(info.key), info.modified_at, info.size)

    def request_for(self, key: str) -> InferenceRequest:
        """Rebuild the request of a pending file from its meta information alone.

        Raises:
            Unprocessable: the file is gone or its meta information is not ours.
        """
        try:
            start = self.store.get_range(_pending(key), 0, MAX_HEADER_LENGTH)
        except FileNotFoundError as error:
            raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error
        return request_from(key, start)

    def exists(self) -> bool:
        """Tell that it does: a bucket without objects is an empty spool."""
        return True

    def check(self) -> None:
        """Ask the bucket for anything at all."""
        self.store.check()

    def usage(self) -> SpoolUsage:
        """Count pending files of every host, and measure free space on this one."""
        return SpoolUsage(sum(1 for _ in self.entries()), self.free_bytes())

    def free_bytes(self) -> int:
        """Bytes free for us on the local file system, where instances are received."""
        statistics = os.statvfs(self.root)
        return statistics.f_bavail * statistics.f_frsize

    # Ending

    def finish(self, key: str, *, keep: bool = False) -> None:
        """Remove a file whose outcome is committed, or move it to the archive. Doing it twice is no error.

        Args:
            key: of the file.
            keep: whether it goes to the archive, where there is one.
        """
        if keep and self._archives:
            day = datetime.now(UTC).strftime("%Y%m%d")
            self.store.move(_pending(key), f"{ARCHIVE_NAME}/{day}/{key}.dcm")
        else:
            self.store.delete(_pending(key))
        self._cache.remove(f"{key}.dcm")

    def set_aside(self, key: str) -> None:
        """Keep a file that could not be processed out of the way. Doing it twice is no error."""
        self.store.move(_pending(key), _object_key(key, SpoolPlace.SET_ASIDE))
        self._cache.remove(f"{key}.dcm")

    def restore(self, key: str) -> bool:
        """Make a file that was set aside, or is kept in the archive, pending again; False when there is none."""
        if self.store.move(_object_key(key, SpoolPlace.SET_ASIDE), _pending(key)):
            return True
        archived = self._find_archived(key)
        return archived is not None and self.store.move(archived.key, _pending(key))

    def discard_set_aside(self, key: str) -> None:
        """Remove an object that was set aside; one that is not there is no error."""
        self.store.delete(_object_key(key, SpoolPlace.SET_ASIDE))

    def trim_archive(self, limits: ArchiveLimits, min_free_bytes: int) -> int:
        """Remove from the archive what the limits do not allow, oldest first; give how many files went.

        How full a bucket is nobody knows, so `min_free_bytes` means nothing here. Several SCPs may do this at once.
        """
        files = sorted(self.store.objects(ARCHIVE_NAME), key=lambda info: info.modified_at)
        total = sum(info.size for info in files)
        oldest = time.time() - limits.days * DAY_S
        going: list[str] = []
        for info in files:
            if info.modified_at >= oldest and total <= limits.max_bytes:
                break
            going.append(info.key)
            total -= info.size
        for start in range(0, len(going), 1000):
            self.store.delete(*going[start : start + 1000])
        return len(going)


def _pending(key: str) -> str:
    return f"{SpoolPlace.PENDING.value}/{shard_of(key)}/{key}.dcm"


def _object_key(key: str, place: SpoolPlace) -> str:
    shard_of(key)  # refuses what is no key
    return f"{place.value}/{key}.dcm" if place is SpoolPlace.SET_ASIDE else _pending(key)


def _key_of(info: ObjectInfo) -> str | None:
    """Give the spool key of an object; None for one that is not ours."""
    name = info.key.rpartition("/")[2]
    key = name.removesuffix(".dcm")
    return key if name != key and KEY_PATTERN.fullmatch(key) else None
