"""Numbers that the processes of one SCP share: counters of each receiver, and how full the spool is.

Shared memory instead of messages: counting costs a receiver no system call, the parent reads when it is scraped, and
a receiver that dies leaves its counts. Each slot has one writing process; reading needs no lock, because an aligned
64-bit number is stored at once.
"""

from __future__ import annotations

import bisect
import multiprocessing
import threading
from ctypes import c_int64
from typing import Any, Final, Protocol

from scp.statuses import AssociationOutcome, StoreStatus

STORE_SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets; one more bucket holds the rest."""

CONNECTIONS: Final = "connections"
ASSOCIATIONS: Final = "associations"
READY: Final = "ready"
STORED: Final = "stored"
BYTES: Final = "bytes"
STORE_MICROSECONDS: Final = "store_microseconds"
NOTICES_DROPPED: Final = "notices_dropped"
STOW_READY: Final = "stow_ready"
COMMITMENTS_ASKED: Final = "commitments_asked"
AUDIT_DROPPED: Final = "audit_dropped"

STOW_ANSWERS: Final = (200, 202, 400, 401, 404, 405, 406, 408, 409, 413, 415, 500, 503)
"""HTTP statuses that are counted one by one."""
OTHER_ANSWER: Final = "other"


def outcome_name(outcome: AssociationOutcome) -> str:
    """Name of the counter of connections that ended so."""
    return f"association:{outcome.value}"


def status_name(status: StoreStatus) -> str:
    """Name of the counter of C-STORE responses with this status."""
    return f"status:{status.label}"


def answer_name(http_status: int | str) -> str:
    """Name of the counter of STOW-RS answers with this HTTP status."""
    return f"stow:{http_status if http_status in STOW_ANSWERS else OTHER_ANSWER}"


def bucket_name(index: int) -> str:
    """Name of one bucket of the histogram of store seconds."""
    return f"bucket:{index}"


NAMES: Final = (
    CONNECTIONS,
    ASSOCIATIONS,
    READY,
    STORED,
    BYTES,
    STORE_MICROSECONDS,
    NOTICES_DROPPED,
    STOW_READY,
    COMMITMENTS_ASKED,
    AUDIT_DROPPED,
    *(answer_name(answer) for answer in (*STOW_ANSWERS, OTHER_ANSWER)),
    *(outcome_name(outcome) for outcome in AssociationOutcome),
    *(status_name(status) for status in StoreStatus),
    *(bucket_name(index) for index in range(len(STORE_SECONDS_BOUNDS) + 1)),
)
_INDEX: Final = {name: index for index, name in enumerate(NAMES)}


class _Numbers(Protocol):
    def __getitem__(self, index: int) -> int: ...
    def __setitem__(self, index: int, value: int) -> None: ...


class Scoreboard:
    """The shared numbers. Made by the parent, given to each receiver when it is started.

    Pending instances are known as `baseline + stored`: the parent counts files now and then, and all receivers
    together count what they store in between.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        # The raw array travels to a spawned process as a file descriptor.
        self._numbers: _Numbers = multiprocessing.get_context("spawn").RawArray(c_int64, 1 + slots * len(NAMES))

    def total(self, name: str) -> int:
        """Sum of one number over all receivers."""
        return sum(self.get(slot, name) for slot in range(self.slots))

    def get(self, slot: int, name: str) -> int:
        """One number of one receiver."""
        return int(self._numbers[1 + slot * len(NAMES) + _INDEX[name]])

    def put(self, slot: int, name: str, value: int) -> None:
        """Set one number of one receiver."""
        self._numbers[1 + slot * len(NAMES) + _INDEX[name]] = value

    def pending(self) -> int:
        """Instances in the spool, never fewer than there are but for those finished since the last count."""
        return max(0, int(self._numbers[0]) + self.total(STORED))

    def publish_pending(self, counted: int, stored_before_count: int) -> None:
        """Set the baseline; what was stored during the count may be counted twice, never missed."""
        self._numbers[0] = counted - stored_before_count

    def vacate(self, slot: int) -> None:
        """Forget what a dead receiver had open; its counters stay."""
        for name in (CONNECTIONS, ASSOCIATIONS, READY, STOW_READY):
            self.put(slot, name, 0)


class Slot:
    """One receiver's own numbers; safe for its threads."""

    def __init__(self, scoreboard: Scoreboard, index: int) -> None:
        self.scoreboard = scoreboard
        self.index = index
        self._lock = threading.Lock()

    def add(self, name: str, amount: int = 1) -> None:
        """Count."""
        with self._lock:
            self.scoreboard.put(self.index, name, self.scoreboard.get(self.index, name) + amount)

    def observe_store(self, status: StoreStatus, byte_count: int, seconds: float) -> None:
        """Count one C-STORE."""
        self.add(status_name(status))
        self.add(BYTES, byte_count)
        self.add(STORE_MICROSECONDS, round(seconds * 1e6))
        self.add(bucket_name(bisect.bisect_left(STORE_SECONDS_BOUNDS, seconds)))

    def __getstate__(self) -> dict[str, Any]:
        return {"scoreboard": self.scoreboard, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["scoreboard"], state["index"])  # type: ignore[misc]
