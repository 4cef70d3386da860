"""Delivery: sends outputs from the outbox to their destinations, again and again until they arrive or are given up.

The queue is the `delivery` table, so it survives whatever the results survive. A claim moves ``next_attempt_at``
ahead: two processes never send the same output at once, and the claim of a killed one runs out by itself. Each
destination has a thread and an association of its own, so a dead destination delays no other.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason, Transient
from models.records.base import utc_now
from models.records.dicom import Instance
from models.records.outputs import Delivery, DeliveryState, Output
from models.records.sessions import is_outage
from models.telemetry import get_logger
from worker.audit import DeliveryAudit
from worker.commitment_records import note_committed
from worker.metrics import DeliveryMetrics
from worker.outbox import AnyOutbox
from worker.outbox_cleaning import clean_outbox
from worker.sender import OutputSender, SendResult
from worker.settings import WorkerSettings

log = get_logger("worker.delivery")

CLAIM_SIZE: Final = 16
CLEANING_INTERVAL_S: Final = 3600.0
MEASURE_INTERVAL_S: Final = 5.0
"""Counting goes over every delivery ever made, so it is not done at each turn."""
DATABASE_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Claim:
    delivery_id: int
    output_id: int
    file_name: str
    sop_instance_uid: str
    attempts: int
    pending_for_s: float
    received_at: float


class DestinationQueue:
    """Works off the deliveries to one destination."""

    def __init__(
        self,
        sender: OutputSender,
        sessions: sessionmaker[Session],
        outbox: AnyOutbox,
        settings: WorkerSettings,
        metrics: DeliveryMetrics,
        *,
        asks_commitment: bool = False,
        audit: DeliveryAudit | None = None,
    ) -> None:
        self.name = sender.name
        self._audit = audit
        self._asks_commitment = asks_commitment
        self._sender = sender
        self._sessions = sessions
        self._outbox = outbox
        self._settings = settings
        self._metrics = metrics
        self._database_up = True
        self._measure_due = 0.0
        self._pause_s = 0.0
        # An attempt may time out while connecting, associating and storing; others in hand are leased anew after it.
        self._lease = timedelta(seconds=3 * settings.longest_delivery_timeout_s)

    def run(self, stopping: threading.Event) -> None:
        """Send until told to stop."""
        while not stopping.is_set():
            try:
                sent = self._turn(stopping)
                self._say_database(up=True)
            except SQLAlchemyError as error:
                self._say_database(up=False, error=error)
                stopping.wait(DATABASE_RETRY_S)
                continue
            except Exception as error:
                # The thread must live on: nobody else delivers to this destination.
                log.error("delivery_failed", destination=self.name, exc_info=error)
                stopping.wait(DATABASE_RETRY_S)
                continue
            if not sent or self._pause_s:
                self._sender.release_idle()
                stopping.wait(max(self._settings.delivery_poll_interval_s, self._pause_s))
        self._sender.release()

    def _say_database(self, up: bool, error: SQLAlchemyError | None = None) -> None:
        if up != self._database_up:
            away = isinstance(error, DBAPIError) and is_outage(error)
            if up:
                log.info("database_back", destination=self.name)
            else:
                reason = Reason.DATABASE_UNAVAILABLE if away else Reason.INTERNAL_ERROR
                log.warning("delivery_waits", destination=self.name, reason=reason.value, exc_info=error)
        self._database_up = up

    def _turn(self, stopping: threading.Event) -> int:
        claims = self._claim()
        began = utc_now()
        ended: dict[DeliveryState, list[int]] = {state: [] for state in DeliveryState}
        done, is_away = 0, False
        for claim in claims:
            if stopping.is_set():
                break
            started = time.perf_counter()
            result = self._send(claim)
            self._metrics.send_seconds.observe(time.perf_counter() - started)
            done += 1
            ended[self._record(claim, result, claims[done:])].append(claim.output_id)
            is_away = result.stops_queue
            if is_away:
                break  # the others would fail the same way; they wait for this one's back-off
        if done:
            self._pace(is_away)
        if self._audit is not None:
            self._audit.begun([claim.output_id for claim in claims[:done] if not claim.attempts], began)
            self._audit.arrived(ended[DeliveryState.DELIVERED])
            self._audit.given_up(ended[DeliveryState.DEAD])
        self._release(claims[done:])
        self._measure()
        return done

    def _pace(self, is_away: bool) -> None:
        """Ask a destination that is away no more often the more outputs wait for it."""
        first, longest = self._settings.delivery_poll_interval_s, self._settings.delivery_first_retry_s
        self._pause_s = min(max(2 * self._pause_s, first), longest) if is_away else 0.0

    def _send(self, claim: _Claim) -> SendResult:
        try:
            path = self._outbox.fetch(claim.file_name)
        except Transient as error:
            return SendResult(reason=error.reason)
        try:
            return self._sender.send(path)
        finally:
            self._outbox.let_go(claim.file_name)

    def _claim(self) -> list[_Claim]:
        now = utc_now()
        with self._sessions.begin() as session:
            rows = session.execute(
                select(Delivery, Output, Instance.received_at)
                .join(Output, Output.id == Delivery.output_id)
                .outerjoin(Instance, Instance.id == Output.instance_id)
                .where(
                    Delivery.destination == self.name,
                    Delivery.state == DeliveryState.PENDING,
                    Delivery.next_attempt_at <= now,
                )
                .order_by(Delivery.next_attempt_at, Delivery.id)
                .limit(CLAIM_SIZE)
                .with_for_update(skip_locked=True, of=Delivery)
            ).all()
            claims = []
            for delivery, output, received_at in rows:
                delivery.next_attempt_at = now + self._lease
                claims.append(
                    _Claim(
                        delivery.id,
                        output.id,
                        output.file_name,
                        output.sop_instance_uid,
                        delivery.attempts,
                        (now - delivery.requested_at).total_seconds(),
                        (received_at or output.created_at).timestamp(),
                    )
                )
            return claims

    def _release(self, claims: Sequence[_Claim]) -> None:
        if not claims:
            return
        due = utc_now() + timedelta(seconds=self._settings.delivery_first_retry_s)
        with self._sessions.begin() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.id.in_([claim.delivery_id for claim in claims]))
                .values(next_attempt_at=due)
            )

    def _record(self, claim: _Claim, result: SendResult, still_claimed: Sequence[_Claim]) -> DeliveryState:
        """Write how an attempt ended, and give the state that it led to."""
        attempts = claim.attempts + 1
        state = self._state_after(claim, attempts, result)
        now = utc_now()
        with self._sessions.begin() as session:
            session.execute(
                update(Delivery)
                .where(Delivery.id.in_([other.delivery_id for other in still_claimed]))
                .values(next_attempt_at=now + self._lease)
            )
            delivery = session.get_one(Delivery, claim.delivery_id)
            if delivery.state is DeliveryState.DELIVERED and result.reason is not None:
                return DeliveryState.PENDING  # our lease ran out, and another process was luckier
            delivery.attempts = attempts
            delivery.state = state
            delivery.last_attempt_at = now
            delivery.last_status = result.status
            delivery.last_http_status = result.http_status
            delivery.reason = result.reason.value if result.reason else None
            if state is DeliveryState.DELIVERED:
                delivery.delivered_at = now
                if self._asks_commitment:
                    delivery.commitment_due_at = now + timedelta(seconds=self._settings.commitment_group_s)
                session.flush()
                _note_delivered(session, claim.output_id)
            elif state is DeliveryState.PENDING:
                delivery.next_attempt_at = now + self._back_off(attempts, result.retry_after_s or 0.0)
        outcome = "retry" if state is DeliveryState.PENDING else state.value
        self._metrics.attempts.labels(destination=self.name, outcome=outcome).inc()
        if state is DeliveryState.DELIVERED:
            self._metrics.latency.labels(destination=self.name).observe(max(0.0, time.time() - claim.received_at))
        level = log.info if state is DeliveryState.DELIVERED else log.warning
        level(
            "delivery_attempt",
            destination=self.name,
            outcome=outcome,
            sop_instance_uid=claim.sop_instance_uid,
            attempts=attempts,
            status=f"0x{result.status:04x}" if result.status is not None else None,
            http_status=result.http_status,
            reason=result.reason.value if result.reason else None,
        )
        return state

    def _state_after(self, claim: _Claim, attempts: int, result: SendResult) -> DeliveryState:
        if result.reason is None:
            return DeliveryState.DELIVERED
        refused = result.permanent and attempts >= self._settings.delivery_max_refusals
        expired = claim.pending_for_s >= self._settings.delivery_give_up_s
        gone = result.reason is Reason.OUTPUT_FILE_MISSING
        return DeliveryState.DEAD if refused or expired or gone else DeliveryState.PENDING

    def _back_off(self, attempts: int, asked_s: float = 0.0) -> timedelta:
        longest = self._settings.delivery_longest_retry_s
        wait = min(self._settings.delivery_first_retry_s * 2.0 ** min(attempts - 1, 30), longest)
        return timedelta(seconds=max(wait * random.uniform(0.8, 1.2), min(asked_s, longest)))

    def _measure(self) -> None:
        if time.monotonic() < self._measure_due:
            return
        self._measure_due = time.monotonic() + MEASURE_INTERVAL_S
        with self._sessions.begin() as session:
            session.connection(execution_options={"read_only": True})
            counted = session.execute(
                select(Delivery.state, func.count()).where(Delivery.destination == self.name).group_by(Delivery.state)
            )
            counts = {state: count for state, count in counted}
            oldest = session.scalar(
                select(func.min(Delivery.requested_at)).where(
                    Delivery.destination == self.name, Delivery.state == DeliveryState.PENDING
                )
            )
        self._metrics.pending.labels(destination=self.name).set(counts.get(DeliveryState.PENDING, 0))
        self._metrics.dead.labels(destination=self.name).set(counts.get(DeliveryState.DEAD, 0))
        age = (utc_now() - oldest).total_seconds() if oldest else 0.0
        self._metrics.oldest.labels(destination=self.name).set(age)


def _note_delivered(session: Session, output_id: int) -> None:
    """Write the instance's `delivered_at` when the last of its deliveries arrived."""
    instance_id = session.scalars(select(Output.instance_id).where(Output.id == output_id)).one()
    if instance_id is None:
        return  # of a study, which has no such time
    open_deliveries = session.scalar(
        select(func.count())
        .select_from(Delivery)
        .join(Output, Output.id == Delivery.output_id)
        .where(Output.instance_id == instance_id, Delivery.state != DeliveryState.DELIVERED)
    )
    if open_deliveries:
        return
    session.execute(update(Instance).where(Instance.id == instance_id).values(delivered_at=utc_now()))
    committed = select(Delivery.id).join(Output, Output.id == Delivery.output_id)
    committed = committed.where(Output.instance_id == instance_id, Delivery.committed_at.is_not(None)).limit(1)
    if session.scalar(committed) is not None:
        note_committed(session, [instance_id])  # this was the last, at a destination that is not asked


class Queue(Protocol):
    """What `Deliverer` runs in a thread of its own."""

    @property
    def name(self) -> str:
        """Of the thread."""

    def run(self, stopping: threading.Event) -> None:
        """Work until told to stop."""


class Deliverer:
    """All destinations together, and the cleaning of the outbox."""

    def __init__(
        self,
        queues: Sequence[Queue],
        sessions: sessionmaker[Session],
        outbox: AnyOutbox,
        keep_days: float,
    ) -> None:
        self._queues = queues
        self._sessions = sessions
        self._outbox = outbox
        self._keep_days = keep_days
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Finish the sends under way and return from `run`."""
        self._stopping.set()

    def run(self) -> None:
        """Deliver until `stop`."""
        threads = [
            threading.Thread(target=queue.run, args=[self._stopping], name=f"deliver-{queue.name}", daemon=True)
            for queue in self._queues
        ]
        for thread in threads:
            thread.start()
        while not self._stopping.is_set():
            try:
                removed = clean_outbox(self._sessions, self._outbox, self._keep_days)
                if removed:
                    log.info("outbox_cleaned", removed=removed)
            except (SQLAlchemyError, OSError) as error:
                log.warning("outbox_not_cleaned", exc_info=error)
            self._stopping.wait(CLEANING_INTERVAL_S)
        for thread in threads:
            thread.join(60)
