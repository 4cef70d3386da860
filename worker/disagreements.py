"""How two places that tell of one instance or output can disagree, and the checks that looking and mending share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import AnySpool
from models.queues import JobState, Queues
from models.records.base import utc_now
from models.records.dicom import Instance
from models.spool_places import SpoolPlace

GROUP: Final = 500
"""Rows or files that are looked at together; no more are ever in memory."""

Advance = Callable[[int], None]
"""Is told how many more things were looked at."""
T = TypeVar("T")


class Disagreement(StrEnum):
    """How two places disagree."""

    NOT_IN_LEDGER = "not_in_ledger"
    """In the spool, and the ledger does not know these bytes."""
    IN_NO_QUEUE = "in_no_queue"
    """In the spool, not settled, and in no queue."""
    BYTES_LOST = "bytes_lost"
    """Not settled, and there is no file: only the sender can mend it."""
    NOT_TAKEN_BACK = "not_taken_back"
    """To be done (again), and the file is still set aside or in the archive."""
    SPOOL_FILE_LEFT = "spool_file_left"
    """Settled, and the file is still pending."""
    UNREADABLE = "unreadable"
    """Set aside, and the ledger does not know it: not a file that the SCP wrote."""
    JOB_WITHOUT_INSTANCE = "job_without_instance"
    """Queued, and neither spool nor ledger know it."""
    OUTPUTS_MISSING = "outputs_missing"
    """Done, and an output that a destination wants was not made."""
    DELIVERY_MISSING = "delivery_missing"
    """An output was made, and is not on its way to a destination that wants it."""
    OUTPUT_FILE_MISSING = "output_file_missing"
    """An output waits for a destination, and its file is gone."""
    DELIVERY_DEAD = "delivery_dead"
    """Given up."""
    DESTINATION_UNKNOWN = "destination_unknown"
    """An output waits for a destination that is not set any more."""
    NOT_AT_PACS = "not_at_pacs"
    """Delivered according to us, and the PACS does not have it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One disagreement.

    Attributes:
        subject: SOP Instance UID of the instance or output; the job id of a job that is not ours.
        spool_key: of the (source) instance, where there is one.
        study_instance_uid, sender: for whoever must ask the sender; None where not known.
        destination: to which the output is not on its way.
        output_id, delivery_id: keys of the records.
        detail: in our own words.
    """

    disagreement: Disagreement
    subject: str
    spool_key: str | None = None
    study_instance_uid: str | None = None
    sender: str | None = None
    destination: str | None = None
    output_id: int | None = None
    delivery_id: int | None = None
    detail: str = ""


def key_of(row: Instance) -> str:
    """Give the spool key of the bytes whose result counts."""
    return f"{row.sop_instance_uid}_{row.content_sha256[:16]}"


def kept_place(spool: AnySpool, key: str) -> SpoolPlace | None:
    """Tell where the file of a key is kept that is not pending; None when it is nowhere."""
    file = spool.find(key)
    return None if file is None or file.place is SpoolPlace.PENDING else file.place


def unqueued(queues: Queues, job_ids: Sequence[str]) -> set[str]:
    """Give the jobs that are over, or are none, or say that they are queued and lie in no list.

    A job on its way from its list into a worker's hands says `queued` for a moment, so its state is read before and
    after the lists are.

    Raises:
        RedisError: Redis is away.
    """
    before = queues.states(job_ids)
    gone = {job_id for job_id, state in before.items() if state is JobState.GONE}
    waiting = [job_id for job_id, state in before.items() if state is JobState.WAITING]
    if waiting:
        listed = queues.listed()
        after = queues.states(unlisted := [job_id for job_id in waiting if job_id not in listed])
        gone |= {job_id for job_id in unlisted if after[job_id] is not JobState.IN_HAND}
    return gone


def is_older(moment: datetime | None, age: timedelta) -> bool:
    """Tell whether a time is longer ago than `age`; one that is not known is."""
    return moment is None or utc_now() - moment > age


def read_only(sessions: sessionmaker[Session]) -> Session:
    """Open a session that takes no write lock, so that the feed never waits for it."""
    session = sessions()
    session.connection(execution_options={"read_only": True})
    return session


def groups_of(items: Iterable[T]) -> Iterator[list[T]]:
    """Split whatever is listed into groups."""
    iterator = iter(items)
    while group := list(islice(iterator, GROUP)):
        yield group
