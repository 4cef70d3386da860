"""What a trace tells of an instance: from the ledger, the spool, the queue and deliveries. Nothing of the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from models.records.dicom import InstanceState
from models.records.outputs import DeliveryState
from models.records.summaries import SummaryState
from worker.queue_place import QueuePlace, Workers
from worker.spool_search import FoundFile


@dataclass(frozen=True, slots=True)
class Answer:
    """What a version answered; not what it found."""

    task: str
    version: str
    provider: str
    precision: str
    inferred_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryTrace:
    """One output on its way to one destination."""

    destination: str
    state: DeliveryState
    attempts: int
    requested_at: datetime
    last_attempt_at: datetime | None
    last_status: int | None
    last_http_status: int | None
    reason: str | None
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    commitment_attempts: int
    commitment_due_at: datetime | None
    committed_at: datetime | None


@dataclass(frozen=True, slots=True)
class OutputTrace:
    """One object that we made.

    Attributes:
        has_file: whether its file lies in the outbox.
    """

    kind: str
    task: str | None
    version: str | None
    sop_instance_uid: str
    created_at: datetime
    has_file: bool
    deliveries: tuple[DeliveryTrace, ...]


@dataclass(frozen=True, slots=True)
class SummaryNote:
    """Whether the summary of a study is made, and why not; `attempts` are those that failed."""

    state: SummaryState
    reason: str | None
    attempts: int
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the ledger says of an instance; times as they are recorded there."""

    calling_ae_title: str
    lane: str
    state: InstanceState
    reason: str | None
    reason_detail: str | None
    revision: int
    duplicates: int
    conflicts: int
    received_at: datetime
    queued_at: datetime | None
    inferred_at: datetime | None
    settled_at: datetime | None
    delivered_at: datetime | None
    committed_at: datetime | None
    spool_key: str


@dataclass(frozen=True, slots=True)
class InstanceTrace:
    """One instance, wherever it is known.

    Attributes:
        study_instance_uid: None where neither ledger nor spool file tell.
        ledger: None where the ledger does not know it, or cannot be asked.
        spool: its file, None where there is none.
        queue: its job, None where there is none, or Redis cannot be asked.
    """

    sop_instance_uid: str
    study_instance_uid: str | None
    ledger: LedgerEntry | None
    spool: FoundFile | None
    queue: QueuePlace | None
    answers: tuple[Answer, ...] = ()
    outputs: tuple[OutputTrace, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """All that is known of what was asked for.

    Attributes:
        summaries: outputs of a whole study, by its UID.
        summary_notes: of studies that are to be summarised, by their UIDs.
        workers: None where Redis cannot be asked.
        database_up: whether the ledger was asked.
        unreachable_since: when a destination was first found unreachable, of those that still are.
    """

    instances: tuple[InstanceTrace, ...]
    summaries: dict[str, tuple[OutputTrace, ...]]
    workers: Workers | None
    database_up: bool
    unreachable_since: dict[str, datetime]
    summary_notes: Mapping[str, SummaryNote] = field(default_factory=dict)
