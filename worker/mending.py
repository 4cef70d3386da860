"""Mends what `worker.reconciliation` found, as the sweeper, `requeue` and `redeliver` would; tells what it cannot.

Each case is read again under a lock of its record before anything is changed, so that mending twice, or while the
feed is at it, does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session, sessionmaker

from models.any_spool import AnySpool
from models.errors import Reason, Unprocessable
from models.queues import Queues
from models.records.dicom import SETTLED_STATES, Instance, InstanceState
from models.records.ledger import DuplicatePolicy, mark_queued, register
from models.records.outputs import Delivery, DeliveryState, Output
from models.records.summaries import forget_summary
from models.requests import job_id_for
from models.spool_places import SpoolPlace
from worker.commands import add_missing_deliveries, make_due
from worker.disagreements import Case, Disagreement, kept_place, key_of, unqueued
from worker.outbox import AnyOutbox
from worker.settings import Recipient
from worker.settlement import forget_outcome

NOTHING_LEFT: Final = "agrees by now"


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of a case; one of the two is given.

    Attributes:
        done: what was done.
        left: what only a person can do.
    """

    done: str | None = None
    left: str | None = None


PLANS: Final = {
    Disagreement.NOT_IN_LEDGER: "registers and queues it",
    Disagreement.IN_NO_QUEUE: "queues it",
    Disagreement.NOT_TAKEN_BACK: "takes the file back and queues it",
    Disagreement.SPOOL_FILE_LEFT: "finishes the file",
    Disagreement.JOB_WITHOUT_INSTANCE: "removes the job",
    Disagreement.OUTPUTS_MISSING: "infers it again, from the file that is kept",
    Disagreement.DELIVERY_MISSING: "sends it",
    Disagreement.OUTPUT_FILE_MISSING: "infers its instance again, from the file that is kept",
    Disagreement.DELIVERY_DEAD: "sends it again",
    Disagreement.NOT_AT_PACS: "sends it again",
}
"""What `--mend` does, for a report without it."""


class Mender:
    """Mends one case after the other.

    Args:
        policy: as the SCP's registrar has it.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        spool: AnySpool,
        queues: Queues,
        outbox: AnyOutbox,
        destinations: Sequence[Recipient],
        policy: DuplicatePolicy,
    ) -> None:
        self._sessions = sessions
        self._spool = spool
        self._queues = queues
        self._outbox = outbox
        self._destinations = {to.name: to for to in destinations}
        self._policy: DuplicatePolicy = policy
        self._ways: dict[Disagreement, Callable[[Case, str], Mended]] = {
            Disagreement.NOT_IN_LEDGER: self._take_in,
            Disagreement.IN_NO_QUEUE: self._take_in,
            Disagreement.NOT_TAKEN_BACK: self._take_back,
            Disagreement.SPOOL_FILE_LEFT: self._finish,
            Disagreement.JOB_WITHOUT_INSTANCE: self._discard_job,
            Disagreement.OUTPUTS_MISSING: self._do_again,
            Disagreement.OUTPUT_FILE_MISSING: self._make_file_again,
        }
        self._of_deliveries = {Disagreement.DELIVERY_DEAD, Disagreement.NOT_AT_PACS}

    def plan(self, case: Case) -> Mended:
        """Say what `mend` would do, or what only a person can do; change nothing."""
        left = self._for_a_person(case)
        if left is None and case.disagreement is Disagreement.OUTPUT_FILE_MISSING and case.spool_key is None:
            return Mended(done="makes the summary of its study again")
        return Mended(left=left) if left else Mended(done=PLANS[case.disagreement])

    def mend(self, case: Case) -> Mended:
        """Mend a case.

        Raises:
            SQLAlchemyError: the database is away, or refuses it.
            OSError: the spool cannot be written.
        """
        left = self._for_a_person(case)
        if left:
            return Mended(left=left)
        try:
            if case.disagreement is Disagreement.DELIVERY_MISSING:
                return self._add_delivery(case)
            if case.disagreement in self._of_deliveries:
                return self._deliver_again(case)
            return self._ways[case.disagreement](case, case.spool_key or "")
        except RedisError:
            return Mended(left="see that Redis runs, then run this again")

    # What nobody here can mend

    def _for_a_person(self, case: Case) -> str | None:
        needs_bytes = case.disagreement in {Disagreement.OUTPUTS_MISSING, Disagreement.OUTPUT_FILE_MISSING}
        if case.disagreement is Disagreement.BYTES_LOST:
            what = f"study {case.study_instance_uid}" if case.study_instance_uid else "this instance"
            return f"have {case.sender} send {what} again"
        if case.disagreement is Disagreement.UNREADABLE:
            return "look at the file, and remove it or send it to the SCP"
        if case.disagreement is Disagreement.DESTINATION_UNKNOWN:
            return f"set {case.destination} in RADSTREAM_WORKER_DESTINATIONS again, or let its deliveries be given up"
        if case.disagreement is Disagreement.JOB_WITHOUT_INSTANCE and case.spool_key is None:
            return "see what put it into our queue; a worker refuses it"
        if needs_bytes or (case.disagreement is Disagreement.NOT_AT_PACS and not self._has_file(case)):
            return self._without_bytes(case)
        return None

    def _without_bytes(self, case: Case) -> str | None:
        if case.spool_key is None:
            return None  # the summary of a study, which is made of the records
        if kept_place(self._spool, case.spool_key) is None and case.spool_key not in self._spool:
            return (
                "the bytes of its instance are not kept (see RADSTREAM_SPOOL_ARCHIVE_DAYS), so it cannot be made "
                "again; its findings are in the records, and `backfill --deliver` of another version makes outputs"
            )
        return None

    def _has_file(self, case: Case) -> bool:
        with self._sessions() as session:
            session.connection(execution_options={"read_only": True})
            name = session.scalar(select(Output.file_name).where(Output.id == case.output_id))
        return name is not None and name in self._outbox

    # Up to the result

    def _take_in(self, case: Case, key: str) -> Mended:
        """Register and queue a pending file, as the sweeper does."""
        try:
            request = self._spool.request_for(key)
        except Unprocessable as error:
            if error.reason is Reason.SPOOL_FILE_MISSING:
                return Mended(done=NOTHING_LEFT)
            self._spool.set_aside(key)
            location = self._spool.location_of(key, SpoolPlace.SET_ASIDE)
            return Mended(left=f"set aside, its header is not the SCP's: look at {location}")
        with self._sessions.begin() as session:
            known = register(session, [request], self._policy)[key]
        if not known.to_be_queued:
            self._spool.finish(key)
            return Mended(done=f"file finished: {known.name.lower()}")
        orphans = frozenset(unqueued(self._queues, [request.job_id]))
        queued = self._queues.enqueue([request], orphans)
        if not queued:
            return Mended(done=NOTHING_LEFT)
        with self._sessions.begin() as session:
            mark_queued(session, [request.sop_instance_uid])
        return Mended(done=f"queued in {request.lane.value}")

    def _take_back(self, case: Case, key: str) -> Mended:
        with self._sessions.begin() as session:
            row = self._locked(session, key)
            if row is None or row.state in SETTLED_STATES:
                return Mended(done=NOTHING_LEFT)
            self._spool.restore(key)
        return self._take_in(case, key)

    def _finish(self, case: Case, key: str) -> Mended:
        with self._sessions.begin() as session:
            row = self._locked(session, key)
            if row is None or row.state not in SETTLED_STATES:
                return Mended(done=NOTHING_LEFT)
            if row.state is InstanceState.FAILED:
                self._spool.set_aside(key)
                return Mended(done="file set aside, for `requeue`")
            self._spool.finish(key, keep=row.state is InstanceState.DONE)
        return Mended(done="file finished")

    def _discard_job(self, case: Case, key: str) -> Mended:
        with self._sessions.begin() as session:
            if self._locked(session, key) is not None or key in self._spool:
                return Mended(done=NOTHING_LEFT)
        return Mended(done="job removed" if self._queues.discard(job_id_for(key)) else NOTHING_LEFT)

    # From the result on

    def _do_again(self, case: Case, key: str) -> Mended:
        """Forget what was found in an instance that is done, and queue it; what it gives has the same UIDs."""
        with self._sessions.begin() as session:
            row = self._locked(session, key)
            if row is None or row.state is not InstanceState.DONE:
                return Mended(done=NOTHING_LEFT)
            forget_outcome(session, row)
        return self._queue_again(case, key)

    def _make_file_again(self, case: Case, key: str) -> Mended:
        """Forget an output whose file is gone, so that its instance, inferred again, gives it anew."""
        if case.spool_key is None:
            return self._make_summary_again(case)
        with self._sessions.begin() as session:
            row = self._locked(session, key)
            if row is None or self._has_file(case):
                return Mended(done=NOTHING_LEFT)
            session.execute(delete(Delivery).where(Delivery.output_id == case.output_id))
            session.execute(delete(Output).where(Output.id == case.output_id))
            if row.state not in SETTLED_STATES:  # another output of the instance was mended before
                return Mended(done="is about to be inferred again")
            forget_outcome(session, row)
        return self._queue_again(case, key)

    def _make_summary_again(self, case: Case) -> Mended:
        if case.output_id is None or self._has_file(case):
            return Mended(done=NOTHING_LEFT)
        with self._sessions.begin() as session:
            forget_summary(session, case.output_id)
        return Mended(done="the summary of its study is about to be made again")

    def _queue_again(self, case: Case, key: str) -> Mended:
        # After the record: a sweep in between finds nothing to do rather than a settled instance whose file it removes.
        self._spool.restore(key)
        done = self._take_in(case, key)
        return Mended(done=f"to be inferred again, {done.done}") if done.done else done

    def _deliver_again(self, case: Case) -> Mended:
        dead = case.disagreement is Disagreement.DELIVERY_DEAD
        if not dead and not self._has_file(case):
            return self._make_file_again(case, case.spool_key or "")
        expected = DeliveryState.DEAD if dead else DeliveryState.DELIVERED
        with self._sessions.begin() as session:
            row = session.scalars(
                select(Delivery).where(Delivery.id == case.delivery_id).with_for_update()
            ).one_or_none()
            if row is None or row.state is not expected:
                return Mended(done=NOTHING_LEFT)
            make_due(session, [row.id])
        return Mended(done=f"to be sent to {case.destination} again")

    def _add_delivery(self, case: Case) -> Mended:
        with self._sessions.begin() as session:
            chosen = select(Output.id).where(Output.id == case.output_id)
            add_missing_deliveries(session, chosen, self._destinations[str(case.destination)])
        return Mended(done=f"to be sent to {case.destination}")

    def _locked(self, session: Session, key: str) -> Instance | None:
        """Give the record of these very bytes, locked; None where there is none."""
        uid = key.partition("_")[0]
        row = session.scalars(select(Instance).where(Instance.sop_instance_uid == uid).with_for_update()).one_or_none()
        return row if row is not None and key_of(row) == key else None
