"""Storage commitment of our outputs, in the records: what is to be asked for, and what reports mean."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydicom.uid import generate_uid
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from models.commitment_reports import CommitmentReport
from models.errors import Reason
from models.queues import chunks
from models.records.base import utc_now
from models.records.dicom import Instance
from models.records.outputs import CommitmentRequest, Delivery, DeliveryState, Output
from worker.settings import WorkerSettings

REQUEST_SIZE: Final = 500
"""Outputs in one request at most."""
UUID_ROOT: Final = "2.25."
GROUP: Final = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to be sent: SOP class and instance UIDs of the outputs it names."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a report changed.

    Attributes:
        destination: that it is from; None when the transaction is none of ours.
    """

    destination: str | None = None
    committed: int = 0
    sent_again: int = 0
    given_up: int = 0


class CommitmentRecords:
    """Reads and writes the commitment columns of deliveries."""

    def __init__(self, sessions: sessionmaker[Session], settings: WorkerSettings) -> None:
        self._sessions = sessions
        self._settings = settings

    def claim(self, destination: str) -> Asked | None:
        """Make a request for the outputs that are due; None when none are.

        The request is recorded before it is sent: a report may come on another connection before its response. What
        brings no report is due again after `commitment_timeout_s`, in another request.
        """
        now = utc_now()
        with self._sessions.begin() as session:
            rows = session.execute(
                select(Delivery.id, Output.sop_class_uid, Output.sop_instance_uid)
                .join(Output, Output.id == Delivery.output_id)
                .where(
                    Delivery.destination == destination,
                    Delivery.state == DeliveryState.DELIVERED,
                    Delivery.commitment_due_at <= now,
                )
                .order_by(Delivery.commitment_due_at, Delivery.id)
                .limit(REQUEST_SIZE)
                .with_for_update(skip_locked=True, of=Delivery)
            ).all()
            if not rows:
                return None
            asked = Asked(str(generate_uid(UUID_ROOT)), tuple((row[1], row[2]) for row in rows))
            session.add(CommitmentRequest(transaction_uid=asked.transaction_uid, destination=destination, asked_at=now))
            session.execute(
                update(Delivery)
                .where(Delivery.id.in_([row.id for row in rows]))
                .values(
                    commitment_uid=asked.transaction_uid,
                    commitment_attempts=Delivery.commitment_attempts + 1,
                    commitment_due_at=now + timedelta(seconds=self._settings.commitment_timeout_s),
                )
            )
        return asked

    def put_off(self, transaction_uid: str, reason: Reason, wait_s: float) -> None:
        """Ask for the outputs of a request again after `wait_s`, because it was not taken."""
        due = utc_now() + timedelta(seconds=wait_s)
        with self._sessions.begin() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.commitment_uid == transaction_uid, Delivery.commitment_due_at.is_not(None))
                .values(commitment_due_at=due, reason=reason.value)
            )

    def give_up_old(self, destination: str) -> int:
        """Make dead what was delivered and not committed for `commitment_give_up_s`; say how many."""
        now = utc_now()
        limit = now - timedelta(seconds=self._settings.commitment_give_up_s)
        with self._sessions.begin() as session:
            ids = session.scalars(
                select(Delivery.id)
                .where(
                    Delivery.destination == destination,
                    Delivery.state == DeliveryState.DELIVERED,
                    Delivery.commitment_due_at <= now,
                    Delivery.delivered_at <= limit,
                )
                .limit(GROUP)
            ).all()
            if ids:
                gone = {"state": DeliveryState.DEAD, "commitment_due_at": None}
                # What it failed of last is known where a request was refused; else no report came.
                reason = func.coalesce(Delivery.reason, Reason.COMMITMENT_TIMEOUT.value)
                session.execute(update(Delivery).where(Delivery.id.in_(ids)).values(reason=reason, **gone))
        return len(ids)

    def record(self, report: CommitmentReport) -> Recorded:
        """Write what a report says. Doing it twice changes nothing more."""
        with self._sessions.begin() as session:
            request = session.scalars(
                select(CommitmentRequest).where(CommitmentRequest.transaction_uid == report.transaction_uid)
            ).one_or_none()
            if request is None:
                return Recorded()
            now = utc_now()
            request.answered_at = now
            committed = self._commit(session, request.destination, report.committed, now)
            failures = dict(report.failed)
            failed = self._failed(session, request, failures)
            for delivery, uid in failed:
                self._fail(delivery, failures[uid], now)
            session.flush()
            dead = sum(delivery.state is DeliveryState.DEAD for delivery, _ in failed)
            return Recorded(request.destination, committed, len(failed) - dead, dead)

    def _commit(self, session: Session, destination: str, uids: Sequence[str], now: datetime) -> int:
        count = 0
        instances: set[int] = set()
        for group in chunks(list(uids), GROUP):
            # A late report on an earlier request counts as well: what the archive keeps, it keeps.
            for delivery, instance_id in session.execute(
                select(Delivery, Output.instance_id)
                .join(Output, Output.id == Delivery.output_id)
                .where(
                    Delivery.destination == destination,
                    Delivery.state == DeliveryState.DELIVERED,
                    Delivery.committed_at.is_(None),
                    Output.sop_instance_uid.in_(group),
                )
            ):
                delivery.committed_at = now
                delivery.commitment_due_at = None
                delivery.reason = None
                count += 1
                if instance_id is not None:
                    instances.add(instance_id)
        session.flush()
        note_committed(session, instances)
        return count

    def _failed(
        self, session: Session, request: CommitmentRequest, failures: Collection[str]
    ) -> list[tuple[Delivery, str]]:
        found: list[tuple[Delivery, str]] = []
        for group in chunks(list(failures), GROUP):
            # Only of the last request: what failed before may have been sent again since.
            statement = (
                select(Delivery, Output.sop_instance_uid)
                .join(Output, Output.id == Delivery.output_id)
                .where(
                    Delivery.commitment_uid == request.transaction_uid,
                    Delivery.state == DeliveryState.DELIVERED,
                    Delivery.committed_at.is_(None),
                    Output.sop_instance_uid.in_(group),
                )
            )
            found += [(delivery, uid) for delivery, uid in session.execute(statement)]
        return found

    def _fail(self, delivery: Delivery, failure_reason: int, now: datetime) -> None:
        delivery.commitment_failures += 1
        delivery.commitment_due_at = None
        delivery.last_status = failure_reason
        delivery.reason = Reason.COMMITMENT_FAILED.value
        if delivery.commitment_failures >= self._settings.commitment_max_failures:
            delivery.state = DeliveryState.DEAD
            return
        delivery.state = DeliveryState.PENDING
        delivery.attempts = 0
        delivery.delivered_at = None
        delivery.requested_at = now
        delivery.next_attempt_at = now + timedelta(seconds=self._settings.delivery_first_retry_s)


def note_committed(session: Session, instance_ids: Collection[int]) -> None:
    """Write `committed_at` of the instances whose deliveries have all arrived, and are committed where asked for."""
    for group in chunks(list(instance_ids), GROUP):
        open_ones = (
            select(Output.instance_id)
            .join(Delivery, Delivery.output_id == Output.id)
            .where(
                Output.instance_id.in_(group),
                (Delivery.state != DeliveryState.DELIVERED) | Delivery.commitment_due_at.is_not(None),
            )
        )
        still_open = set(session.scalars(open_ones))
        whole = [instance_id for instance_id in group if instance_id not in still_open]
        if whole:
            session.execute(update(Instance).where(Instance.id.in_(whole)).values(committed_at=utc_now()))
