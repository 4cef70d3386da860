"""Collects where each instance of a study is: in the ledger, the spool, the queues, and on the way to destinations.

Only looks. The database or Redis may be away; then the rest is told, and that they are. Nothing of the patient is
given out: UIDs, times and states only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import AnySpool
from models.errors import Reason
from models.queues import chunks
from models.records.dicom import Instance, Series, Study
from models.records.inference import Inference, ModelVersion
from models.records.outputs import Delivery, DeliveryState, Output
from models.records.summaries import StudySummary
from worker.outbox import AnyOutbox
from worker.queue_place import QueuePlace, Workers, find_place, find_workers, keys_of
from worker.spool_search import FoundFile, files_of_instance, files_of_study, find_file
from worker.trace_facts import Answer, DeliveryTrace, InstanceTrace, LedgerEntry, OutputTrace, SummaryNote, Trace

CHUNK: Final = 500
"""Instances asked about in one statement."""


class Tracer:
    """Looks in every place. `sessions` is None when the database does not answer."""

    def __init__(
        self, sessions: sessionmaker[Session] | None, spool: AnySpool, redis: Redis, outbox: AnyOutbox
    ) -> None:
        self._sessions = sessions
        self._spool = spool
        self._redis: Redis | None = redis
        self._outbox = outbox

    def trace(self, asked: str, stored_accession: str | None, advance: Callable[[], None] = lambda: None) -> Trace:
        """Find what was asked for.

        Args:
            asked: an accession number, a Study or SOP Instance UID (ours, too).
            stored_accession: as the records store `asked` if it is an accession number, None if they store none.
            advance: is called for each spool file that is looked at.
        """
        workers = self._workers()
        found: dict[str, InstanceTrace] = {}
        summaries: dict[str, tuple[OutputTrace, ...]] = {}
        notes: dict[str, SummaryNote] = {}
        since: dict[str, datetime] = {}
        if self._sessions is not None:
            try:
                with self._sessions() as session:
                    session.connection(execution_options={"read_only": True})
                    found = {each.sop_instance_uid: each for each in self._recorded(session, asked, stored_accession)}
                    summaries = self._summaries(session, asked, found)
                    notes = _summary_notes(session, _studies(asked, found))
                    since = _unreachable_since(session)
            except SQLAlchemyError:
                self._sessions = None
        for each in self._unrecorded(asked, found, advance):
            found[each.sop_instance_uid] = each
        order = sorted(found.values(), key=lambda each: (each.study_instance_uid or "", each.sop_instance_uid))
        return Trace(tuple(order), summaries, workers, self._sessions is not None, since, notes)

    # Redis

    def _workers(self) -> Workers | None:
        try:
            return find_workers(self._redis) if self._redis else None
        except (RedisError, OSError):
            self._redis = None
            return None

    def _place(self, key: str) -> QueuePlace | None:
        try:
            return find_place(self._redis, key) if self._redis else None
        except (RedisError, OSError):
            self._redis = None
            return None

    # The database

    def _recorded(self, session: Session, asked: str, stored_accession: str | None) -> Iterator[InstanceTrace]:
        wanted: list[ColumnElement[bool]] = [
            Study.study_instance_uid == asked,
            Instance.sop_instance_uid == asked,
            Instance.id.in_(select(Output.instance_id).where(Output.sop_instance_uid == asked)),
        ]
        if stored_accession:
            wanted.append(Study.accession_number == stored_accession)
        ids = session.scalars(
            select(Instance.id)
            .outerjoin(Series, Series.id == Instance.series_id)
            .outerjoin(Study, Study.id == Series.study_id)
            .where(or_(*wanted))
        ).all()
        for group in chunks(ids, CHUNK):
            yield from self._of_instances(session, Instance.id.in_(group))

    def _of_instances(self, session: Session, chosen: ColumnElement[bool]) -> Iterator[InstanceTrace]:
        rows = session.execute(
            select(Instance, Study.study_instance_uid)
            .outerjoin(Series, Series.id == Instance.series_id)
            .outerjoin(Study, Study.id == Series.study_id)
            .where(chosen)
        ).all()
        ids = [row.id for row, _ in rows]
        answers = _answers(session, ids)
        outputs = self._outputs(session, Output.instance_id.in_(ids))
        for row, study in rows:
            entry = _ledger_entry(row)
            yield InstanceTrace(
                row.sop_instance_uid,
                study,
                entry,
                find_file(self._spool, entry.spool_key),
                self._place(entry.spool_key),
                tuple(answers[row.id]),
                tuple(outputs[row.id]),
            )

    def _outputs(self, session: Session, chosen: ColumnElement[bool]) -> defaultdict[int, list[OutputTrace]]:
        """Give outputs by the key of their instance, or study where they are of a whole one."""
        rows = session.execute(
            select(Output, ModelVersion.task, ModelVersion.version)
            .outerjoin(ModelVersion, ModelVersion.id == Output.model_version_id)
            .where(chosen)
            .order_by(Output.id)
        ).all()
        deliveries: defaultdict[int, list[DeliveryTrace]] = defaultdict(list)
        statement = select(Delivery).join(Output, Output.id == Delivery.output_id).where(chosen).order_by(Delivery.id)
        for delivery in session.scalars(statement):
            deliveries[delivery.output_id].append(_delivery_trace(delivery))
        outputs: defaultdict[int, list[OutputTrace]] = defaultdict(list)
        for row, task, version in rows:
            outputs[row.instance_id or row.study_id or 0].append(
                OutputTrace(
                    row.kind.value,
                    task,
                    version,
                    row.sop_instance_uid,
                    row.created_at,
                    row.file_name in self._outbox,
                    tuple(deliveries[row.id]),
                )
            )
        return outputs

    def _summaries(
        self, session: Session, asked: str, found: dict[str, InstanceTrace]
    ) -> dict[str, tuple[OutputTrace, ...]]:
        """Give outputs of whole studies, where no single instance was asked for."""
        if asked in found:
            return {}
        known = {
            key: uid
            for group in chunks(_studies(asked, found), CHUNK)
            for key, uid in session.execute(
                select(Study.id, Study.study_instance_uid)
                .join(Output, Output.study_id == Study.id)
                .where(or_(Study.study_instance_uid.in_(group), Output.sop_instance_uid == asked))
            )
        }
        outputs = self._outputs(session, Output.study_id.in_(list(known)))
        return {known[key]: tuple(of_study) for key, of_study in outputs.items()}

    # Spool and queues alone

    def _unrecorded(
        self, asked: str, found: dict[str, InstanceTrace], advance: Callable[[], None]
    ) -> Iterator[InstanceTrace]:
        """Give instances that are not settled yet, or that the ledger does not know."""
        if asked in found:
            return
        known = {each.spool.key for each in found.values() if each.spool is not None}
        files = [(file, None) for file in files_of_instance(self._spool, asked)]
        of_study = files or files_of_study(self._spool, asked, advance, lambda file: file.key not in known)
        seen: set[str] = set()
        for file, study in of_study:
            if file.sop_instance_uid not in found and file.sop_instance_uid not in seen:
                seen.add(file.sop_instance_uid)
                yield self._of_file(file, study)
        if not found and not seen:
            yield from self._of_jobs(asked)

    def _of_file(self, file: FoundFile, study: str | None) -> InstanceTrace:
        for each in self._recorded_as(file.sop_instance_uid):
            return replace(each, study_instance_uid=each.study_instance_uid or study)
        return InstanceTrace(file.sop_instance_uid, study, None, file, self._place(file.key))

    def _recorded_as(self, sop_instance_uid: str) -> list[InstanceTrace]:
        if self._sessions is None:
            return []
        try:
            with self._sessions() as session:
                session.connection(execution_options={"read_only": True})
                return list(self._of_instances(session, Instance.sop_instance_uid == sop_instance_uid))
        except SQLAlchemyError:
            self._sessions = None
            return []

    def _of_jobs(self, asked: str) -> Iterator[InstanceTrace]:
        try:
            keys = keys_of(self._redis, asked) if self._redis else []
        except (RedisError, OSError):
            self._redis = None
            return
        for key in keys[:1]:
            yield InstanceTrace(asked, None, None, None, self._place(key))


def _ledger_entry(row: Instance) -> LedgerEntry:
    return LedgerEntry(
        row.calling_ae_title,
        row.lane.value,
        row.state,
        row.reason,
        row.reason_detail,
        row.revision,
        row.duplicates,
        row.conflicts,
        row.received_at,
        row.queued_at,
        row.inferred_at,
        row.settled_at,
        row.delivered_at,
        row.committed_at,
        f"{row.sop_instance_uid}_{row.content_sha256[:16]}",
    )


def _delivery_trace(row: Delivery) -> DeliveryTrace:
    return DeliveryTrace(
        row.destination,
        row.state,
        row.attempts,
        row.requested_at,
        row.last_attempt_at,
        row.last_status,
        row.last_http_status,
        row.reason,
        row.next_attempt_at if row.state is DeliveryState.PENDING else None,
        row.delivered_at,
        row.commitment_attempts,
        row.commitment_due_at,
        row.committed_at,
    )


def _answers(session: Session, instance_ids: Sequence[int]) -> defaultdict[int, list[Answer]]:
    rows = session.execute(
        select(Inference, ModelVersion.task, ModelVersion.version)
        .join(ModelVersion, ModelVersion.id == Inference.model_version_id)
        .where(Inference.instance_id.in_(instance_ids))
        .order_by(Inference.id)
    )
    answers: defaultdict[int, list[Answer]] = defaultdict(list)
    for row, task, version in rows:
        answers[row.instance_id].append(Answer(task, version, row.provider, row.precision, row.inferred_at))
    return answers


def _studies(asked: str, found: dict[str, InstanceTrace]) -> list[str]:
    """Give the studies that were asked for, and what may be one; none where a single instance was."""
    if asked in found:
        return []
    return sorted({each.study_instance_uid for each in found.values() if each.study_instance_uid} | {asked})


def _summary_notes(session: Session, studies: Sequence[str]) -> dict[str, SummaryNote]:
    return {
        uid: SummaryNote(row.state, row.reason, row.attempts, row.next_attempt_at)
        for group in chunks(list(studies), CHUNK)
        for uid, row in session.execute(
            select(Study.study_instance_uid, StudySummary)
            .join(StudySummary, StudySummary.study_id == Study.id)
            .where(Study.study_instance_uid.in_(group))
        )
    }


def _unreachable_since(session: Session) -> dict[str, datetime]:
    """When each destination that is unreachable now was first found so.

    An output is tried at once when it is made, so the oldest that is still in vain tells it.
    """
    rows = session.execute(
        select(Delivery.destination, func.min(Delivery.requested_at))
        .where(Delivery.state == DeliveryState.PENDING, Delivery.reason == Reason.DESTINATION_UNREACHABLE.value)
        .group_by(Delivery.destination)
    )
    return {destination: since for destination, since in rows}
