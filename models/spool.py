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

import ctypes
import hashlib
import json
import os
import re
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from models.errors import Reason, Transient, Unprocessable
from models.requests import REQUEST_VERSION, InferenceRequest, Lane
from models.spool_archive import SpoolArchive
from models.spool_header import MAX_HEADER_LENGTH, decode_header, encode_header, encode_private_information

KEY_PATTERN: Final = re.compile(r"(?P<uid>[0-9]+(\.[0-9]+)*)_(?P<digest>[0-9a-f]{16})")
UID_PATTERN: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
MAX_UID_LENGTH: Final = 64
"""Characters, PS3.5 section 9.1."""

_WRITE_BACK_BYTES: Final = 1 << 20
"""While a dataset arrives, the kernel is asked to write each such stretch to disk, so that fsync finds little to do."""
_SYNC_FILE_RANGE_WRITE: Final = 2
_MAX_PIECES: Final = 512
"""Half of what one writev takes on Linux (IOV_MAX)."""


def is_valid_uid(uid: str) -> bool:
    """Tell whether `uid` may become part of a path: digits and dots, at most 64 characters (PS3.5 section 9.1).

    Leading zeros in a component, which the standard forbids and real senders use, are let through.
    """
    return len(uid) <= MAX_UID_LENGTH and UID_PATTERN.fullmatch(uid) is not None


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One pending file: its key and the POSIX time of its acceptance, seconds."""

    key: str
    modified_at: float

    @property
    def sop_instance_uid(self) -> str:
        """The SOP Instance UID that the key starts with."""
        return self.key.partition("_")[0]


@dataclass(frozen=True, slots=True)
class SpoolUsage:
    """How full the spool is: files pending, and bytes free on its file system."""

    pending: int
    free_bytes: int


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
        for uid in (sop_class_uid, sop_instance_uid, transfer_syntax_uid):
            if not is_valid_uid(uid):
                raise Unprocessable(Reason.MALFORMED_DATASET, "a UID of the C-STORE request is not valid")
        header = encode_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title, called_ae_title)
        return SpoolWriter(self, sop_instance_uid, lane, header)

    def incoming_path(self) -> Path:
        """Give a fresh path for a file being received."""
        return self._incoming / f"{os.getpid()}-{secrets.token_hex(8)}.part"

    def discard_stale_incoming(self, older_than_s: float) -> int:
        """Remove files whose reception never ended, and say how many. Their senders got no Success."""
        removed = 0
        limit = time.time() - older_than_s
        for item in os.scandir(self._incoming):
            try:
                if item.stat().st_mtime < limit:
                    os.unlink(item.path)
                    removed += 1
            except FileNotFoundError:
                continue
        return removed

    # Listing and reading

    def path_of(self, key: str) -> Path:
        """Give the path of a pending file.

        Raises:
            ValueError: the key is not one of ours (it may come from Redis, so it is never trusted as a path).
        """
        match = KEY_PATTERN.fullmatch(key)
        if match is None:
            raise ValueError("not a spool key")
        return self._pending / match["digest"][:2] / f"{key}.dcm"

    def set_aside_path_of(self, key: str) -> Path:
        """Give the path of a file that was set aside.

        Raises:
            ValueError: the key is not one of ours.
        """
        return self._set_aside / self.path_of(key).name

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

    def open(self, key: str) -> BinaryIO:
        """Open a pending Part 10 file for reading.

        Raises:
            Unprocessable: it is not there (finished meanwhile, or removed by hand).
        """
        try:
            return self.path_of(key).open("rb")
        except FileNotFoundError as error:
            raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error

    def request_for(self, key: str) -> InferenceRequest:
        """Rebuild the request of a pending file from its meta information alone.

        Raises:
            Unprocessable: the file is gone or its meta information is not ours.
        """
        try:
            with self.path_of(key).open("rb") as file:
                meta = decode_header(file.read(MAX_HEADER_LENGTH))
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
        except FileNotFoundError as error:
            raise Unprocessable(Reason.SPOOL_FILE_MISSING) from error
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise Unprocessable(Reason.MALFORMED_DATASET, "spool file has no radstream meta information") from error

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


class SpoolWriter:
    """Receives one dataset; `commit` makes it durable, leaving the context without that discards it.

    ``write`` takes the encoded dataset as it arrives, so that it is never whole in memory.

    Attributes:
        dataset_bytes: length of what was written.
        lane: may be changed until `commit`, for what only the dataset tells.
        content_sha256, received_at: set by `commit`, as in the request of the instance.
    """

    def __init__(self, spool: Spool, sop_instance_uid: str, lane: Lane, header: bytes) -> None:
        self._spool = spool
        self._sop_instance_uid = sop_instance_uid
        self.lane = lane
        self._header_length = len(header)
        self._hash = hashlib.sha256()
        self._path = spool.incoming_path()
        self._written_back = 0
        self.dataset_bytes = 0
        self.content_sha256 = ""
        self.received_at = 0.0
        try:
            self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115 - closed by commit or abort
            _write_all(self._file.fileno(), [header])
        except OSError as error:
            self.abort()
            raise Transient(Reason.OUT_OF_SPACE, "cannot create a spool file") from error

    def write(self, data: bytes | memoryview) -> int:
        """Append a piece of the encoded dataset.

        Raises:
            Transient: the disk is full or failing.
        """
        return self.write_pieces([data])

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Append several pieces with one system call; the caller may reuse their memory afterwards.

        Raises:
            Transient: the disk is full or failing.
        """
        try:
            count = _write_all(self._file.fileno(), pieces)
        except OSError as error:
            raise Transient(Reason.OUT_OF_SPACE, "cannot write to the spool") from error
        for piece in pieces:
            self._hash.update(piece)
        self.dataset_bytes += count
        if self.dataset_bytes - self._written_back >= _WRITE_BACK_BYTES:
            _start_write_back(self._file.fileno(), self._written_back, self.dataset_bytes - self._written_back)
            self._written_back = self.dataset_bytes
        return count

    def commit(self) -> str:
        """Make the instance durable under its key, and give the key.

        Data first (fsync), then the name (rename, fsync of the directory): after this returns, a power cut cannot
        lose it, and a crash before leaves only a stale ``.part`` file.

        Raises:
            Transient: the disk is full or failing; nothing was accepted.
        """
        self.content_sha256 = self._hash.hexdigest()
        self.received_at = round(time.time(), 6)
        key = f"{self._sop_instance_uid}_{self.content_sha256[:16]}"
        target = self._spool.path_of(key)
        information = encode_private_information(self.content_sha256, self.lane, self.received_at)
        try:
            descriptor = self._file.fileno()
            os.pwrite(descriptor, information, self._header_length - len(information))
            os.fsync(descriptor)
            self._file.close()
            # The same bytes already pending are the same file: replacing it changes nothing but the time.
            os.replace(self._path, target)
            _fsync_directory(target.parent)
        except OSError as error:
            self.abort()
            raise Transient(Reason.OUT_OF_SPACE, "cannot make a spool file durable") from error
        return key

    def abort(self) -> None:
        """Discard what was received. Doing it after `commit` is no error."""
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self.abort()


def _write_all(descriptor: int, pieces: Sequence[bytes | memoryview]) -> int:
    if len(pieces) > _MAX_PIECES:
        pieces = [b"".join(pieces)]
    total = sum(map(len, pieces))
    written = os.writev(descriptor, pieces)
    if written < total:  # the disk is about full; the next call says so, or goes on
        view = memoryview(b"".join(pieces))[written:]
        while view:
            view = view[os.write(descriptor, view) :]
    return total


def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    function: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int]", function)


_SYNC_FILE_RANGE: Final = _sync_file_range()


def _start_write_back(descriptor: int, offset: int, count: int) -> None:
    # Linux only, and only a hint: fsync remains the promise, so a failure here means nothing.
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
