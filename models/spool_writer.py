"""Receives one dataset into a local file on its way into a spool, whatever kind of spool that is.

What makes the file durable and gives it its key, the spool says: `Publish`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from models.errors import Reason, Transient
from models.requests import Lane
from models.spool_header import encode_private_information

_WRITE_BACK_BYTES: Final = 1 << 20
"""While a dataset arrives, the kernel is asked to write each such stretch to disk, so that fsync finds little to do."""
_SYNC_FILE_RANGE_WRITE: Final = 2
_MAX_PIECES: Final = 512
"""Half of what one writev takes on Linux (IOV_MAX)."""

Publish = Callable[[BinaryIO, Path, str], None]
"""Closes the file at a path, and makes it durable under a key; raises `OSError`, then nothing was accepted."""


class SpoolWriter:
    """Receives one dataset; `commit` makes it durable, leaving the context without that discards it.

    ``write`` takes the encoded dataset as it arrives, so that it is never whole in memory.

    Attributes:
        dataset_bytes: length of what was written.
        lane: may be changed until `commit`, for what only the dataset tells.
        content_sha256, received_at: set by `commit`, as in the request of the instance.
    """

    def __init__(self, path: Path, publish: Publish, sop_instance_uid: str, lane: Lane, header: bytes) -> None:
        self._publish = publish
        self._sop_instance_uid = sop_instance_uid
        self.lane = lane
        self._header_length = len(header)
        self._hash = hashlib.sha256()
        self._path = path
        self._written_back = 0
        self.dataset_bytes = 0
        self.content_sha256 = ""
        self.received_at = 0.0
        try:
            # Closed by commit or abort.
            self._file = cast(BinaryIO, open(self._path, "xb", buffering=0))  # noqa: SIM115
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

        After this returns, a power cut here cannot lose it, and a crash before leaves only a stale ``.part`` file.

        Raises:
            Transient: the disk is full or failing, or the bucket is away; nothing was accepted.
        """
        self.content_sha256 = self._hash.hexdigest()
        self.received_at = round(time.time(), 6)
        key = f"{self._sop_instance_uid}_{self.content_sha256[:16]}"
        information = encode_private_information(self.content_sha256, self.lane, self.received_at)
        try:
            os.pwrite(self._file.fileno(), information, self._header_length - len(information))
            self._publish(self._file, self._path, key)
        except Transient:
            self.abort()
            raise
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
