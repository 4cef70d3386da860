"""The spool: the directory of accepted, not yet finished instances.

A file under ``pending/`` *is* unfinished work; nothing else (Redis, the database) is needed to know that it exists
and what it is. Each file is a DICOM Part 10 file (PS3.10, 7.1) whose private meta information carries what the wire
told us and the dataset does not: lane, time and content hash.

::

    <root>/incoming/<random>.part      being received; garbage after a crash, the sender got no Success for it
    <root>/pending/<hh>/<key>.dcm      accepted; removed by `finish`
    <root>/set_aside/<key>.dcm         could not be processed; kept for `python -m worker requeue`
    <root>/archive/<day>/<key>.dcm     finished and kept for a while, see `models.spool_archive`; counted nowhere here
    <root>/commitments/                storage commitment asked of us, see `scp.commitment_transactions`
    <root>/commitment_reports/         reports on our outputs, see `models.commitment_reports`

The key is ``<SOP Instance UID>_<first 16 hex digits of the content hash>``: the same bytes sent twice meet in one
file, other bytes under the same UID get a file of their own, and finishing one can never remove the other.

This module refuses to interpret the dataset: it neither parses nor changes it.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from models.errors import Reason, Unprocessable
from models.requests import REQUEST_VERSION, InferenceRequest, Lane
from models.spool_archive import ArchiveLimits, SpoolArchive
from models.spool_header import MAX_HEADER_LENGTH, decode_header, encode_header
from models.spool_places import KEY_PATTERN, SpoolEntry, SpoolFile, SpoolPlace, SpoolUsage, is_valid_uid, shard_of
from models.spool_writer import SpoolWriter


def header_for(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str, called_ae_title: str
) -> bytes:
    """Give the start of the file of an arriving dataset, see `models.spool_header`.

    Raises:
        Unprocessable: a UID is not one.
    """
    for uid in (sop_class_uid, sop_instance_uid, transfer_syntax_uid):
        if not is_valid_uid(uid):
            raise Unprocessable(Reason.MALFORMED_DATASET, "a UID of the C-STORE request is not valid")
    return encode_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title, called_ae_title)


def request_from(key: str, start: bytes) -> InferenceRequest:
    """Rebuild the request of a file from its key and the first `MAX_HEADER_LENGTH` bytes of it.

    Raises:
        Unprocessable: its meta information is not ours.
    """
    try:
        meta = decode_header(start)
        told = json.loads(meta["0102"])
        return InferenceRequest.from_payload(
            {
                "version": REQUEST_VERSION,
                "spool_key": key,
                "sop_instance_uid": meta["0003"].decode("ascii"),
                "sop_class_uid": meta["0002"].decode("ascii"),
                "transfer_syntax_uid": meta["0010"].decode("ascii"),
                "content_sha256": told["sha256"],
                "calling_ae_title": meta["0016"].decode("ascii"),
                "lane": told["lane"],
                "received_at": told["received_at"],
            }
        )
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise Unprocessable(Reason.MALFORMED_DATASET, "spool file has no radstream meta information") from error


def fresh_incoming_path(incoming: Path) -> Path:
    """Give a path in a directory for a file being received."""
    return incoming / f"{os.getpid()}-{secrets.token_hex(8)}.part"


def discard_older(incoming: Path, older_than_s: float) -> int:
    """Remove files whose reception never ended, and say how many. Their senders got no Success."""
    removed = 0
    limit = time.time() - older_than_s
    for item in os.scandir(incoming):
        try:
            if item.stat().st_mtime < limit:
                os.unlink(item.path)
                removed += 1
        except FileNotFoundError:
            continue
    return removed


class Spool:
    """A spool in a local directory. Safe for any number of processes and threads on one host.

    Args:
        root: the directory.
        archives: whether finished files may be kept, see `finish`.
    """

    def __init__(self, root: Path, *, archives: bool = False) -> None:
        self.root = root
        self._archive = SpoolArchive(root) if archives else None
        self._incoming = root / "incoming"
        self._pending = root / "pending"
        self._set_aside = root / "set_aside"

    def prepare(self) -> None:
        """Create the directories.

        Raises:
            OSError: the directory cannot be created or written.
        """
        for directory in (self._incoming, self._set_aside):
            directory.mkdir(parents=True, exist_ok=True)
        for shard in range(256):
            (self._pending / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
        _fsync_directory(self._pending)
        _fsync_directory(self.root)

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
            Transient: the file cannot be created (out of space, permissions).
        """
        header = header_for(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title, called_ae_title)
        return SpoolWriter(self.incoming_path(), self._publish, sop_instance_uid, lane, header)

    def _publish(self, file: BinaryIO, path: Path, key: str) -> None:
        # Data first (fsync), then the name (rename, fsync of the directory).
        target = self.path_of(key)
        os.fsync(file.fileno())
        file.close()
        # The same bytes already pending are the same file: replacing it changes nothing but the time.
        os.replace(path, target)
        _fsync_directory(target.parent)

    def incoming_path(self) -> Path:
        """Give a fresh path for a file being received."""
        return fresh_incoming_path(self._incoming)

    def discard_stale_incoming(self, older_than_s: float) -> int:
        """Remove files whose reception never ended, and say how many. Their senders got no Success."""
        return discard_older(self._incoming, older_than_s)

    # Listing and reading

    def path_of(self, key: str) -> Path:
        """Give the path of a pending file.

        Raises:
            ValueError: the key is not one of ours (it may come from Redis, so it is never trusted as a path).
        """
        return self._pending / shard_of(key) / f"{key}.dcm"

    def set_aside_path_of(self, key: str) -> Path:
        """Give the path of a file that was set aside.

        Raises:
            ValueError: the key is not one of ours.
        """
        return self._set_aside / self.path_of(key).name

    def location_of(self, key: str, place: SpoolPlace = SpoolPlace.PENDING) -> str:
        """Say where a file that is pending or set aside lies, for people."""
        return str(self.set_aside_path_of(key) if place is SpoolPlace.SET_ASIDE else self.path_of(key))

    def local_path(self, key: str) -> Path:
        """Say where a pending file lies here once it was fetched."""
        return self.path_of(key)

    def fetch(self, key: str) -> Path:
        """Give the path of a pending file; whether it is there, whoever opens it finds out."""
        return self.path_of(key)

    def fetch_file(self, file: SpoolFile) -> Path:
        """Give the path of a file that was found."""
        return Path(file.location)

    def drop_copy(self, key: str) -> None:
        """Nothing: the file that `fetch` gives is the file itself."""

    def entries(self) -> Iterator[SpoolEntry]:
        """List pending files, in no order; files finished meanwhile are left out."""
        with os.scandir(self._pending) as shards:
            for shard in shards:
                yield from _entries_of(shard.path)

    def set_aside_entries(self) -> Iterator[SpoolEntry]:
        """List the files that could not be processed."""
        yield from _entries_of(self._set_aside)

    def __contains__(self, key: str) -> bool:
        """Tell whether the file is still pending."""
        return self.path_of(key).exists()

    def open(self, key: str, place: SpoolPlace = SpoolPlace.PENDING) -> BinaryIO:
        """Open a Part 10 file that is pending or set aside for reading.

        Raises:
            Unprocessable: it is not there (finished meanwhile, or removed by hand).
        """
        try:
            return Path(self.location_of(key, place)).open("rb")
        except FileNotFoundError as error:
            raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error

    def find(self, key: str) -> SpoolFile | None:
        """Look for the file of a key; None when it is nowhere."""
        for place, path in (
            (SpoolPlace.PENDING, self.path_of(key)),
            (SpoolPlace.SET_ASIDE, self.set_aside_path_of(key)),
            (SpoolPlace.ARCHIVE, SpoolArchive(self.root).find(key)),
        ):
            if path is not None:
                with suppress(OSError):
                    told = path.stat()
                    return SpoolFile(key, place, str(path), told.st_mtime, told.st_size)
        return None

    def archived(self) -> Iterator[SpoolFile]:
        """List the finished files that are kept, in no order."""
        for file in SpoolArchive(self.root).files():
            yield SpoolFile(file.key, SpoolPlace.ARCHIVE, str(file.path), file.received_at, file.size)

    def find_archived(self, key: str) -> Path | None:
        """Give the path of a finished file that is kept; None when it is not."""
        shard_of(key)  # refuses what is no key
        return SpoolArchive(self.root).find(key)

    def request_for(self, key: str) -> InferenceRequest:
        """Rebuild the request of a pending file from its meta information alone.

        Raises:
            Unprocessable: the file is gone or its meta information is not ours.
        """
        try:
            with self.path_of(key).open("rb") as file:
                start = file.read(MAX_HEADER_LENGTH)
        except FileNotFoundError as error:
            raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error
        return request_from(key, start)

    def exists(self) -> bool:
        """Tell whether anybody has prepared it yet."""
        return self.root.exists()

    def check(self) -> None:
        """Nothing: a failing disk shows at the next file."""

    def usage(self) -> SpoolUsage:
        """Count pending files and measure free space."""
        pending = sum(len(os.listdir(shard.path)) for shard in os.scandir(self._pending))
        return SpoolUsage(pending, self.free_bytes())

    def free_bytes(self) -> int:
        """Bytes free for us on the file system of the spool."""
        statistics = os.statvfs(self.root)
        return statistics.f_bavail * statistics.f_frsize

    # Ending

    def finish(self, key: str, *, keep: bool = False) -> None:
        """Remove a file whose outcome is committed, or move it to the archive. Doing it twice is no error.

        Args:
            key: of the file.
            keep: whether it goes to the archive, where there is one.
        """
        if keep and self._archive is not None:
            self._archive.keep(self.path_of(key))
        else:
            self.path_of(key).unlink(missing_ok=True)

    def set_aside(self, key: str) -> None:
        """Keep a file that could not be processed out of the way. Doing it twice is no error."""
        try:
            os.replace(self.path_of(key), self._set_aside / f"{key}.dcm")
        except FileNotFoundError:
            return
        _fsync_directory(self._set_aside)

    def restore(self, key: str) -> bool:
        """Make a file that was set aside, or is kept in the archive, pending again; False when there is none."""
        target = self.path_of(key)
        try:
            os.replace(self.set_aside_path_of(key), target)
        except FileNotFoundError:
            if not SpoolArchive(self.root).give_back(key, target):
                return False
        _fsync_directory(target.parent)
        return True

    def discard_set_aside(self, key: str) -> None:
        """Remove a file that was set aside; one that is not there is no error."""
        self.set_aside_path_of(key).unlink(missing_ok=True)

    def trim_archive(self, limits: ArchiveLimits, min_free_bytes: int) -> int:
        """Remove from the archive what the limits, or the disk, do not allow; give how many files went."""
        return SpoolArchive(self.root).trim(limits, min_free_bytes)


def _entries_of(directory: Path | str) -> Iterator[SpoolEntry]:
    with os.scandir(directory) as items:
        for item in items:
            key = item.name.removesuffix(".dcm")
            if KEY_PATTERN.fullmatch(key) is None:
                continue
            try:
                modified_at = item.stat().st_mtime
            except FileNotFoundError:
                continue
            yield SpoolEntry(key, modified_at)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
