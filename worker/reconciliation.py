"""Compares ledger, spool and queues, and says where they disagree; it changes nothing.

Everything is read in groups and given out one by one, so that a million instances need no more memory than a
thousand. What is only seconds old is left alone: the feed is at it. Each disagreement is looked at twice before it is
told, because while a feed runs, two places are never read at the same moment; `worker.mending` reads it again under a
lock before it changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from redis.exceptions import RedisError
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import AnySpool
from models.queues import Queues, chunks
from models.records.base import from_posix
from models.records.dicom import SETTLED_STATES, Instance, Series, Study
from models.requests import job_id_for, spool_key_of
from models.spool_places import SpoolEntry, SpoolPlace
from worker.disagreements import (
    GROUP,
    Advance,
    Case,
    Disagreement,
    groups_of,
    is_older,
    kept_place,
    key_of,
    read_only,
    unqueued,
)


class FeedReconciliation:
    """Looks for disagreements up to the result. All unfinished work is looked at, however old it is.

    Args:
        young: what is not older is left alone.

    Attributes:
        redis_up: False when Redis did not answer, so that the queues were not compared.
    """

    def __init__(self, sessions: sessionmaker[Session], spool: AnySpool, queues: Queues, young: timedelta) -> None:
        self._sessions = sessions
        self._spool = spool
        self._queues = queues
        self._young = young
        self.redis_up = True

    def count(self) -> int:
        """Count what there is to look at, about."""
        unsettled = select(func.count()).select_from(Instance).where(Instance.state.not_in(SETTLED_STATES))
        with read_only(self._sessions) as session:
            return self._spool.usage().pending + (session.scalar(unsettled) or 0)

    def run(self, advance: Advance) -> Iterator[Case]:
        """Look from every side."""
        yield from self._spool_side(advance)
        yield from self._ledger_side(advance)
        yield from self._set_aside_side()
        yield from self._queue_side()

    # Pending files

    def _spool_side(self, advance: Advance) -> Iterator[Case]:
        for group in groups_of(self._spool.entries()):
            old = [entry for entry in group if is_older(from_posix(entry.modified_at), self._young)]
            rows = self._rows_of(old)
            waiting: list[SpoolEntry] = []
            for entry in old:
                row = rows.get(entry.sop_instance_uid)
                if row is None or key_of(row) != entry.key:
                    detail = "" if row is None else "the ledger knows other bytes under this UID"
                    if entry.key in self._spool:
                        yield Case(Disagreement.NOT_IN_LEDGER, entry.sop_instance_uid, entry.key, detail=detail)
                elif row.state not in SETTLED_STATES:
                    waiting.append(entry)
                elif is_older(row.settled_at, self._young) and entry.key in self._spool:
                    yield self._case(Disagreement.SPOOL_FILE_LEFT, row, row.state.value)
            yield from self._in_no_queue(waiting)
            advance(len(group))

    def _in_no_queue(self, waiting: Sequence[SpoolEntry]) -> Iterator[Case]:
        gone = self._unqueued([job_id_for(entry.key) for entry in waiting])
        suspects = [entry for entry in waiting if job_id_for(entry.key) in gone]
        # A worker may have settled them since they were read: then their jobs are over, and so are their files.
        rows = self._rows_of(suspects)
        for entry in suspects:
            row = rows.get(entry.sop_instance_uid)
            if row is not None and row.state not in SETTLED_STATES and entry.key in self._spool:
                yield self._case(Disagreement.IN_NO_QUEUE, row, row.state.value)

    def _unqueued(self, job_ids: Sequence[str]) -> set[str]:
        if not self.redis_up or not job_ids:
            return set()
        try:
            return unqueued(self._queues, job_ids)
        except (RedisError, OSError):
            self.redis_up = False
            return set()

    # Files that were set aside

    def _set_aside_side(self) -> Iterator[Case]:
        for group in groups_of(self._spool.set_aside_entries()):
            rows = self._rows_of(group)
            for entry in group:
                if entry.sop_instance_uid not in rows:
                    location = self._spool.location_of(entry.key, SpoolPlace.SET_ASIDE)
                    yield Case(Disagreement.UNREADABLE, entry.sop_instance_uid, entry.key, detail=location)

    # What is not settled

    def _ledger_side(self, advance: Advance) -> Iterator[Case]:
        last = 0
        while rows := self._unsettled(last):
            last = rows[-1].id
            for row in rows:
                if is_older(row.received_at, self._young) and key_of(row) not in self._spool:
                    yield from self._without_file(row)
            advance(len(rows))

    def _unsettled(self, after: int) -> Sequence[Instance]:
        statement: Select[Instance] = (
            select(Instance)
            .where(Instance.state.not_in(SETTLED_STATES), Instance.id > after)
            .order_by(Instance.id)
            .limit(GROUP)
        )
        with read_only(self._sessions) as session:
            return session.scalars(statement).all()

    def _without_file(self, row: Instance) -> Iterator[Case]:
        key = key_of(row)
        with read_only(self._sessions) as session:
            now = session.get(Instance, row.id)
        # A file goes only after its outcome is committed: settled meanwhile, or pending again, is no disagreement.
        if now is None or now.state in SETTLED_STATES or key_of(now) != key or key in self._spool:
            return
        place = kept_place(self._spool, key)
        if place is not None:
            yield self._case(Disagreement.NOT_TAKEN_BACK, row, f"its file lies in {place}")
        else:
            received = row.received_at.isoformat(sep=" ", timespec="seconds")
            yield self._case(Disagreement.BYTES_LOST, row, f"{row.state.value}, received {received}")

    # Jobs that wait

    def _queue_side(self) -> Iterator[Case]:
        if not self.redis_up:
            return
        try:
            listed = sorted(self._queues.listed())
        except (RedisError, OSError):
            self.redis_up = False
            return
        for job_ids in chunks(listed, GROUP):
            keys = {job_id: spool_key_of(job_id) for job_id in job_ids}
            uids = [key.partition("_")[0] for key in keys.values() if key is not None]
            with read_only(self._sessions) as session:
                known = set(
                    session.scalars(select(Instance.sop_instance_uid).where(Instance.sop_instance_uid.in_(uids)))
                )
            for job_id, key in keys.items():
                if key is None:
                    yield Case(Disagreement.JOB_WITHOUT_INSTANCE, job_id, detail="not a job of radstream")
                elif key.partition("_")[0] not in known and key not in self._spool:
                    yield Case(Disagreement.JOB_WITHOUT_INSTANCE, key.partition("_")[0], key)

    def _rows_of(self, entries: Sequence[SpoolEntry]) -> dict[str, Instance]:
        uids = [entry.sop_instance_uid for entry in entries]
        with read_only(self._sessions) as session:
            rows = session.scalars(select(Instance).where(Instance.sop_instance_uid.in_(uids)))
            return {row.sop_instance_uid: row for row in rows}

    def _case(self, disagreement: Disagreement, row: Instance, detail: str) -> Case:
        with read_only(self._sessions) as session:
            study = session.scalar(
                select(Study.study_instance_uid)
                .join(Series, Series.study_id == Study.id)
                .where(Series.id == row.series_id)
            )
        return Case(disagreement, row.sop_instance_uid, key_of(row), study, row.calling_ae_title, detail=detail)
