"""Storage commitment reports on our outputs, on their way from the SCP, whose port they may come to, to the deliverer.

An archive reports on a new association to the address that it knows us by (PS3.4 J.3.3), which is mostly that of the
SCP; the deliverer asked. Between them lies a directory beside the spool, or in the bucket that holds it, so that a
report which was answered is not lost, whichever of the two is down and on whatever host it is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydicom.dataset import Dataset

from models.object_store import ObjectStore
from models.settings import Settings
from models.spool_places import is_valid_uid
from models.store.durable import write_whole

DIRECTORY = "commitment_reports"
PROCESSING_FAILURE = 0x0110
"""Where a report names no failure reason."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What an archive says to one of our requests.

    Attributes:
        committed: SOP Instance UIDs that it keeps.
        failed: those that it does not, with the failure reason (0008,1197).
    """

    transaction_uid: str
    committed: tuple[str, ...] = ()
    failed: tuple[tuple[str, int], ...] = ()


def report_from(dataset: Dataset) -> CommitmentReport:
    """Read the dataset of a report (PS3.4 table J.3-2).

    Raises:
        ValueError: it has no transaction, or UIDs that are not.
    """
    try:
        uid = str(dataset.TransactionUID)
        committed = tuple(_uid(item) for item in dataset.get("ReferencedSOPSequence") or ())
        failed = tuple(
            (_uid(item), int(item.get("FailureReason", PROCESSING_FAILURE)))
            for item in dataset.get("FailedSOPSequence") or ()
        )
    except (AttributeError, TypeError) as error:
        raise ValueError("not a commitment report") from error
    if not is_valid_uid(uid):
        raise ValueError("not a commitment report")
    return CommitmentReport(uid, committed, failed)


def _uid(item: Dataset) -> str:
    uid = str(item.ReferencedSOPInstanceUID)
    if not is_valid_uid(uid):
        raise ValueError("a reference is not a UID")
    return uid


class ReportFolder:
    """Reports that were answered and not yet recorded.

    Attributes:
        poll_s: how often to look for new ones.
    """

    poll_s: Final = 0.2

    def __init__(self, spool_root: Path) -> None:
        self._root = spool_root / DIRECTORY

    def prepare(self) -> None:
        """Create the directory.

        Raises:
            OSError: it cannot be created.
        """
        self._root.mkdir(parents=True, exist_ok=True)

    def put(self, report: CommitmentReport) -> None:
        """Keep a report; after this returns, a crash does not lose it.

        Raises:
            OSError: the disk is full or failing.
        """
        write_whole(self._root / _fresh_name(), _encode(report))

    def waiting(self) -> Iterator[tuple[str, CommitmentReport | None]]:
        """List the reports with the names to `discard` when they are recorded; None for what is not one."""
        try:
            paths = sorted(self._root.glob("*.json"))
        except OSError:
            return
        for path in paths:
            try:
                content = path.read_bytes()
            except OSError:
                content = b""
            yield path.name, _decode(content)

    def discard(self, name: str) -> None:
        """Remove what is recorded."""
        (self._root / name).unlink(missing_ok=True)


class ReportObjects:
    """Reports in a bucket; has the methods of `ReportFolder`, and raises `ObjectStoreUnavailable`, an `OSError`."""

    poll_s: Final = 2.0

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def prepare(self) -> None:
        """Nothing: a bucket has no directories."""

    def put(self, report: CommitmentReport) -> None:
        """Keep a report; it is in the bucket when this returns."""
        self._store.put_bytes(f"{DIRECTORY}/{_fresh_name()}", _encode(report))

    def waiting(self) -> Iterator[tuple[str, CommitmentReport | None]]:
        """List the reports with the names to `discard` when they are recorded; None for what is not one."""
        for info in list(self._store.objects(DIRECTORY)):
            try:
                content = self._store.get_bytes(info.key)
            except FileNotFoundError:  # another deliverer recorded it
                continue
            yield info.key.rpartition("/")[2], _decode(content)

    def discard(self, name: str) -> None:
        """Remove what is recorded."""
        self._store.delete(f"{DIRECTORY}/{name}")


Reports: TypeAlias = ReportFolder | ReportObjects


def open_reports(settings: Settings) -> Reports:
    """Give the place of the reports by the settings.

    Raises:
        ConfigurationError: the bucket of the settings cannot be used.
    """
    store = ObjectStore.of(settings)
    return ReportFolder(settings.spool_path) if store is None else ReportObjects(store)


def _fresh_name() -> str:
    return f"{secrets.token_hex(16)}.json"


def _encode(report: CommitmentReport) -> bytes:
    told = {"transaction_uid": report.transaction_uid, "committed": report.committed, "failed": report.failed}
    return json.dumps(told).encode("ascii")


def _decode(content: bytes) -> CommitmentReport | None:
    try:
        told: dict[str, Any] = json.loads(content)
        failed = tuple((str(uid), int(reason)) for uid, reason in told["failed"])
        return CommitmentReport(str(told["transaction_uid"]), tuple(map(str, told["committed"])), failed)
    except (ValueError, KeyError, TypeError):
        return None
