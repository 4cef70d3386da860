"""Makes the summary of each study after a quiet time, in the process that delivers.

What is due stands in the table `study_summary` (see `models.records.summaries`), so a restart forgets nothing. A study
is due when none of its instances was settled for `study_quiet_s` and none waits, or, whatever comes, when it has been
waiting for `study_longest_wait_s`. The study of an instance that was never settled is not known, so one counts as
waiting for any study of the same sender that arrived about then. What comes late makes another summary.

A claim moves `next_attempt_at` ahead, as with deliveries. Whoever made a summary writes it only if the study has not
changed meanwhile, and under a UID that the content gives: two processes that make the same write it once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason, Transient
from models.records.base import utc_now
from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.outputs import Output, OutputKind
from models.records.summaries import StudySummary, SummaryState
from models.telemetry import get_logger
from worker.metrics import DeliveryMetrics
from worker.output_records import record_output
from worker.outputs.files import WrittenOutput
from worker.rendering import MadeOutput
from worker.settings import Recipient, WorkerSettings
from worker.study_summary import Reference, StudyFacts, read_study
from worker.summary_source import Source, SummarySource

log = get_logger("worker.summaries")

CLAIM_SIZE: Final = 8
LEASE: Final = timedelta(seconds=120)
"""For all that are claimed together; a summary takes a tenth of a second."""
LONGEST_POLL_S: Final = 5.0
DATABASE_RETRY_S: Final = 2.0
WAITING: Final = (InstanceState.RECEIVED, InstanceState.QUEUED)


@dataclass(frozen=True, slots=True)
class _Task:
    """One claimed study, and all that its summary is made of."""

    study: Study
    changes: int
    attempts: int
    facts: StudyFacts
    sources: tuple[Source, ...]
    earlier: tuple[Reference, ...]


class SummaryQueue:
    """Works off the studies that are due; `worker.delivery` runs it in a thread of its own."""

    name = "summaries"

    def __init__(
        self,
        sessions: sessionmaker[Session],
        source: SummarySource,
        recipients: Sequence[Recipient],
        settings: WorkerSettings,
        metrics: DeliveryMetrics,
    ) -> None:
        self._sessions = sessions
        self._source = source
        self._recipients = [to.name for to in recipients if OutputKind.STUDY_SUMMARY in to.outputs]
        self._settings = settings
        self._metrics = metrics

    def run(self, stopping: threading.Event) -> None:
        """Make summaries until told to stop."""
        poll_s = max(self._settings.delivery_poll_interval_s, min(LONGEST_POLL_S, self._settings.study_quiet_s / 4))
        while not stopping.is_set():
            try:
                if not self.turn(stopping):
                    stopping.wait(poll_s)
            except SQLAlchemyError as error:
                log.warning("summaries_wait", exc_info=error)
                stopping.wait(DATABASE_RETRY_S)
            except Exception as error:
                # The thread must live on: nobody else makes summaries here.
                log.error("summaries_failed", exc_info=error)
                stopping.wait(DATABASE_RETRY_S)

    def turn(self, stopping: threading.Event) -> int:
        """Look at a few studies that may be due; say how many of them were."""
        done = 0
        for study_id in self._claim():
            if stopping.is_set():
                break  # the claim runs out
            done += self._work_on(study_id)
        return done

    # What is due

    def _claim(self) -> Sequence[int]:
        now = utc_now()
        quiet = StudySummary.changed_at <= now - timedelta(seconds=self._settings.study_quiet_s)
        with self._sessions.begin() as session:
            rows = session.scalars(
                select(StudySummary)
                .where(
                    StudySummary.state == SummaryState.DUE,
                    StudySummary.next_attempt_at <= now,
                    or_(quiet, StudySummary.waiting_since <= now - self._longest_wait),
                )
                .order_by(StudySummary.next_attempt_at, StudySummary.study_id)
                .limit(CLAIM_SIZE)
                .with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                row.next_attempt_at = now + LEASE
            return [row.study_id for row in rows]

    @property
    def _longest_wait(self) -> timedelta:
        return timedelta(seconds=self._settings.study_longest_wait_s)

    def _work_on(self, study_id: int) -> bool:
        task = self._read(study_id)
        if task is None:
            return False
        started = time.perf_counter()
        try:
            written = self._make(task)
        except Exception as error:
            # One study must not stop the others; what went wrong is tried again, later and later.
            self._put_off(task, error)
            return True
        self._metrics.summary_seconds.observe(time.perf_counter() - started)
        outcome = self._finish(task, written)
        self._metrics.summaries.labels(outcome=outcome).inc()
        level = log.warning if outcome == SummaryState.SKIPPED else log.info
        level(
            "study_summary",
            outcome=outcome,
            study_instance_uid=task.study.study_instance_uid,
            sop_instance_uid=written.sop_instance_uid if written else None,
            instances=len(task.facts.instances),
        )
        return True

    def _read(self, study_id: int) -> _Task | None:
        """Read a claimed study; None when it is put off, because some of it has yet to be settled."""
        now = utc_now()
        with self._sessions.begin() as session:
            session.connection(execution_options={"read_only": True})
            # Before all else: what is settled while this reads is then seen as a change.
            row = session.get_one(StudySummary, study_id)
            overdue = row.waiting_since <= now - self._longest_wait
            waits = not overdue and self._is_waited_for(session, study_id)
            task = None if waits else self._task(session, row)
        if task is None:
            with self._sessions.begin() as session:
                row = session.get_one(StudySummary, study_id, with_for_update=True)
                row.next_attempt_at = now + timedelta(seconds=max(1.0, self._settings.study_quiet_s / 4))
        return task

    def _task(self, session: Session, row: StudySummary) -> _Task:
        study = session.get_one(Study, row.study_id)
        earlier = session.scalars(
            select(Output)
            .where(Output.study_id == study.id, Output.kind == OutputKind.STUDY_SUMMARY)
            .order_by(Output.id)
        ).all()
        return _Task(
            study,
            row.changes,
            row.attempts,
            read_study(session, study),
            tuple(self._source.sources(session, study.id)),
            tuple(Reference(each.sop_class_uid, each.sop_instance_uid, each.series_instance_uid) for each in earlier),
        )

    def _is_waited_for(self, session: Session, study_id: int) -> bool:
        of_study = select(Instance.id).join(Series, Series.id == Instance.series_id).where(Series.study_id == study_id)
        if session.scalar(select(of_study.where(Instance.state.in_(WAITING)).exists())):
            return True
        arrived = select(
            Instance.calling_ae_title, func.min(Instance.received_at), func.max(Instance.received_at)
        ).join(Series, Series.id == Instance.series_id)
        about = timedelta(seconds=self._settings.study_quiet_s)
        senders = session.execute(
            arrived.where(
                Series.study_id == study_id, Instance.reason.is_distinct_from(Reason.OWN_OUTPUT.value)
            ).group_by(Instance.calling_ae_title)
        ).all()
        near = [
            and_(Instance.calling_ae_title == sender, Instance.received_at.between(first - about, last + about))
            for sender, first, last in senders
        ]
        came_back = exists(select(Output.id).where(Output.sop_instance_uid == Instance.sop_instance_uid))
        unplaced = select(Instance.id).where(
            Instance.state.in_(WAITING), Instance.series_id.is_(None), or_(*near), ~came_back
        )
        return bool(near) and session.scalar(unplaced.limit(1)) is not None

    # Making it

    def _make(self, task: _Task) -> WrittenOutput | None:
        """Write the summary to the outbox; None when nothing has the patient any more, or there is nothing to tell."""
        # Not before it is needed: highdicom takes a third of a second to load.
        from worker.outputs.study_summary_report import SummaryOrder, summary_uid, write_study_summary

        if not task.facts.instances:
            return None
        header = self._source.header(task.sources, task.study)
        if header is None:
            return None
        uid = summary_uid(task.facts)
        # One whose file is made again has the predecessor that it had.
        known = [each.sop_instance_uid for each in task.earlier]
        before = task.earlier[: known.index(uid)] if uid in known else task.earlier
        order = SummaryOrder(header, task.facts, before[-1] if before else None, len(before) + 1)
        written = write_study_summary(order, self._source.outbox.root)
        self._source.outbox.publish([written.file_name])
        return written

    def _finish(self, task: _Task, written: WrittenOutput | None) -> str:
        """Write down what became of it, unless the study has changed; say it in a word."""
        with self._sessions.begin() as session:
            row = session.scalars(
                select(StudySummary).where(StudySummary.study_id == task.study.id).with_for_update()
            ).one()
            if row.changes != task.changes:
                row.next_attempt_at = utc_now()
                return "overtaken"
            row.attempts = 0
            row.state = SummaryState.MADE if written else SummaryState.SKIPPED
            row.reason = None if written or not task.facts.instances else Reason.SOURCE_NOT_KEPT.value
            if written is None:
                return SummaryState.SKIPPED.value
            made = MadeOutput(OutputKind.STUDY_SUMMARY, written)
            return "made" if record_output(session, made, self._recipients, study_id=task.study.id) else "known"

    def _put_off(self, task: _Task, error: Exception) -> None:
        reason = Reason.OUT_OF_SPACE if isinstance(error, OSError) else Reason.INTERNAL_ERROR
        reason = error.reason if isinstance(error, Transient) else reason
        first, longest = self._settings.delivery_first_retry_s, self._settings.delivery_longest_retry_s
        wait = min(first * 2.0 ** min(task.attempts, 30), longest)
        with self._sessions.begin() as session:
            row = session.get_one(StudySummary, task.study.id, with_for_update=True)
            row.attempts += 1
            row.reason = reason.value
            row.next_attempt_at = utc_now() + timedelta(seconds=wait)
        self._metrics.summaries.labels(outcome="failed").inc()
        log.error(
            "study_summary_failed",
            study_instance_uid=task.study.study_instance_uid,
            reason=reason.value,
            attempts=task.attempts + 1,
            exc_info=error,
        )
