"""Storage commitment requests that were taken and are not yet reported on (PS3.4 annex J): one file each.

They lie beside the spool, because taking one must not need the database. A transaction belongs to the association
on which it came while that lives, which the lock of its file says: the kernel lets go of it with the association,
and with the process, and then the report is the parent's. They stay on the host of the SCP wherever the spool is: it
answered, and it reports; what is lost with its disk, the asker asks for again when no report comes.

::

    <spool>/commitments/<key>.asked.json      who asked, and for what
    <spool>/commitments/<key>.verdict.json    what the report will say, once it is known
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.store.durable import fsync, write_whole

DIRECTORY: Final = "commitments"
ASKED: Final = ".asked.json"
VERDICT: Final = ".verdict.json"
STALE_S: Final = 3600.0
"""Nobody writes one of these files for so long."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance that a request or a report names."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """One request.

    Attributes:
        asked_at: POSIX seconds.
    """

    transaction_uid: str
    calling_ae_title: str
    asked_at: float
    references: tuple[Reference, ...]

    @property
    def key(self) -> str:
        """Name of its files; the same request again is the same transaction."""
        name = f"{self.calling_ae_title}\\{self.transaction_uid}"
        return hashlib.sha256(name.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a report says.

    Attributes:
        failed: with the failure reason (0008,1197) of PS3.4 J.3.3.
    """

    committed: tuple[Reference, ...] = ()
    failed: tuple[tuple[Reference, int], ...] = ()


class HeldTransaction:
    """A transaction that is ours to report on until we let go."""

    def __init__(self, folder: TransactionFolder, transaction: Transaction, descriptor: int) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self.transaction = transaction

    def verdict(self) -> Verdict | None:
        """What to report; None while it is not known."""
        return self._folder.verdict(self.transaction.key)

    def done(self) -> None:
        """Forget it: it was reported, or given up."""
        self._folder.remove(self.transaction.key, os.fstat(self._descriptor).st_ino)
        self.release()

    def release(self) -> None:
        """Leave it to the parent. Doing it twice is no error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class TransactionFolder:
    """The directory. Safe for any number of processes and threads on one host."""

    def __init__(self, spool_root: Path) -> None:
        self._root = spool_root / DIRECTORY

    def prepare(self) -> None:
        """Create the directory, and remove what a crash left half written.

        Raises:
            OSError: it cannot be created.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        limit = time.time() - STALE_S
        for path in self._root.glob(".*"):
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)

    def ask(self, transaction: Transaction) -> HeldTransaction:
        """Keep a request, and hold it; after this returns, a crash does not lose it.

        Raises:
            OSError: the disk is full or failing.
        """
        part = self._root / f".{secrets.token_hex(8)}.part"
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it has its name, so that nobody else can ever have had it.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, _encode(transaction))
            os.fsync(descriptor)
            (self._root / f"{transaction.key}{VERDICT}").unlink(missing_ok=True)
            os.replace(part, self._root / f"{transaction.key}{ASKED}")
            fsync(self._root)
        except OSError:
            os.close(descriptor)
            part.unlink(missing_ok=True)
            raise
        return HeldTransaction(self, transaction, descriptor)

    def keys(self) -> list[str]:
        """List the transactions."""
        with os.scandir(self._root) as items:
            return sorted(item.name.removesuffix(ASKED) for item in items if item.name.endswith(ASKED))

    def read(self, key: str) -> Transaction | None:
        """Read a request; None when it is gone or unreadable."""
        try:
            return _decode((self._root / f"{key}{ASKED}").read_text(encoding="ascii"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def hold(self, key: str) -> HeldTransaction | None:
        """Hold a transaction that nobody holds; None when somebody does, or it is gone."""
        path = self._root / f"{key}{ASKED}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino and (transaction := self.read(key)) is not None:
                return HeldTransaction(self, transaction, descriptor)
        except OSError:  # held by another, or gone meanwhile
            os.close(descriptor)
            return None
        os.close(descriptor)
        return None

    def decide(self, key: str, verdict: Verdict) -> None:
        """Keep what the report will say.

        Raises:
            OSError: the disk is full or failing.
        """
        told = {
            "committed": [[item.sop_class_uid, item.sop_instance_uid] for item in verdict.committed],
            "failed": [[item.sop_class_uid, item.sop_instance_uid, reason] for item, reason in verdict.failed],
        }
        write_whole(self._root / f"{key}{VERDICT}", json.dumps(told).encode("ascii"))

    def verdict(self, key: str) -> Verdict | None:
        """Read what the report will say; None while it is not known."""
        try:
            told: dict[str, Any] = json.loads((self._root / f"{key}{VERDICT}").read_text(encoding="ascii"))
            committed = tuple(Reference(*item) for item in told["committed"])
            return Verdict(committed, tuple((Reference(*item[:2]), int(item[2])) for item in told["failed"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, key: str, inode: int) -> None:
        """Remove a transaction, unless the same was asked for again meanwhile."""
        path = self._root / f"{key}{ASKED}"
        try:
            if path.stat().st_ino != inode:
                return
        except FileNotFoundError:
            return
        path.unlink(missing_ok=True)
        (self._root / f"{key}{VERDICT}").unlink(missing_ok=True)


def _encode(transaction: Transaction) -> bytes:
    told = {
        "transaction_uid": transaction.transaction_uid,
        "calling_ae_title": transaction.calling_ae_title,
        "asked_at": transaction.asked_at,
        "references": [[item.sop_class_uid, item.sop_instance_uid] for item in transaction.references],
    }
    return json.dumps(told).encode("ascii")


def _decode(text: str) -> Transaction:
    told: dict[str, Any] = json.loads(text)
    references = tuple(Reference(*item) for item in told["references"])
    return Transaction(told["transaction_uid"], told["calling_ae_title"], float(told["asked_at"]), references)
