"""What the status page knows: counts, times and reason codes. No patient, no UID, no accession number is among it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

MOST_COUNTED: Final = 10_000
"""Counts beyond this are shown as "10,000+": finding the exact number would cost more than it tells."""


@dataclass(frozen=True, slots=True)
class LaneFacts:
    """One queue: jobs that wait, and jobs in hand of any worker."""

    name: str
    waiting: int
    in_hand: int


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker as its heartbeat in Redis tells.

    Attributes:
        state: RQ's word, `busy` or `idle`.
        ended: instances that it brought to an end since it started.
    """

    name: str
    state: str
    started_at: datetime | None
    heartbeat_at: datetime | None
    ended: int


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What Redis tells; `suspended` is `rq suspend`."""

    lanes: tuple[LaneFacts, ...]
    workers: tuple[WorkerFacts, ...]
    suspended: bool


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """One of the latest studies, as far as it was settled.

    Attributes:
        number: the primary key of its row, by which `trace study:NUMBER` finds it; None where it has no row yet.
        modalities, body_parts: as received, each once.
        tasks: that answered any of its instances.
        outcomes: instances by state, and by reason where there is one.
        seconds: the longest that one of its instances took from received to settled; None while none is settled.
        outputs: deliveries of its outputs by state.
    """

    number: int | None
    received_at: datetime
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    instances: int
    tasks: tuple[str, ...]
    outcomes: Mapping[tuple[str, str], int]
    seconds: float | None
    outputs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DestinationFacts:
    """What waits for one destination.

    Attributes:
        is_set: whether RADSTREAM_WORKER_DESTINATIONS names it.
        oldest_at: when the oldest waiting output was asked for.
        due_at: when the next attempt is due.
        reason: of the last failed attempt of a waiting output, a `models.errors.Reason`.
    """

    name: str
    is_set: bool
    waiting: int
    dead: int
    oldest_at: datetime | None
    due_at: datetime | None
    delivered_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What the database tells of now.

    Attributes:
        unfinished: accepted instances without a final state.
        oldest_at: when the oldest of them was received.
        failed: failed instances, at most `MOST_COUNTED` + 1.
        failed_of_day: those received within a day, by reason.
    """

    unfinished: int
    oldest_at: datetime | None
    failed: int
    failed_of_day: Mapping[str, int]
    studies: tuple[StudyFacts, ...]
    destinations: tuple[DestinationFacts, ...]


@dataclass(frozen=True, slots=True)
class PaceFacts:
    """How much was settled and how quickly.

    Attributes:
        until: the minute after the last counted one, as minutes since 1970.
        by_minute: settled instances of the last day by minute since 1970, then by state.
        latencies_s: from received to settled, of the newest answered ones of the last hour; ascending.
    """

    until: int
    by_minute: Mapping[int, Mapping[str, int]]
    latencies_s: tuple[float, ...]

    def quantile_s(self, part: float) -> float | None:
        """Give the latency that `part` of the instances do not exceed (nearest rank); None without any."""
        if not self.latencies_s:
            return None
        rank = -int(-part * len(self.latencies_s) // 1)  # rounded up
        return self.latencies_s[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine of this worker, or a version that cannot be loaded (role `refused`)."""

    task: str
    version: str
    role: str
    provider: str = ""
    precision: str = ""
    device: str = ""
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class HereFacts:
    """This worker.

    Attributes:
        failing: reason codes of readiness checks that fail, by check.
        free_bytes: on the disk of the spool; None where it does not answer.
    """

    name: str
    started_at: datetime
    failing: Mapping[str, str]
    in_hand: int
    engines: tuple[EngineFacts, ...]
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """Whether what is shown of a source is of now.

    Attributes:
        as_of: when it last answered; None when it never did.
        answers: whether it did last time, and in time.
    """

    as_of: datetime | None
    answers: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that one page shows; None where a source never answered."""

    at: datetime
    here: HereFacts
    queues: QueueFacts | None
    ledger: LedgerFacts | None
    pace: PaceFacts | None
    sources: Mapping[str, Source] = field(default_factory=dict)
