"""What the status page reads of deliveries: what waits for each destination, and when one last took something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, literal, select
from sqlalchemy.orm import Session

from models.records.outputs import Delivery, DeliveryState
from worker.status_page.facts import MOST_COUNTED, DestinationFacts

MOST_DESTINATIONS: Final = 50
SAMPLE: Final = 20


def read_destinations(session: Session, names: Sequence[str]) -> Iterator[DestinationFacts]:
    """Read every destination that is set, in that order, then those that only records name and that want something."""
    for name in names:
        yield _destination(session, name, is_set=True)
    for name in _recorded(session):
        if name not in names:
            facts = _destination(session, name, is_set=False)
            if facts.waiting or facts.dead:
                yield facts


def _recorded(session: Session) -> Iterator[str]:
    # From one name to the next by the index; DISTINCT would read all of it.
    name = ""
    for _ in range(MOST_DESTINATIONS):
        following = session.scalar(select(func.min(Delivery.destination)).where(Delivery.destination > name))
        if following is None:
            return
        name = following
        yield name


def _destination(session: Session, name: str, is_set: bool) -> DestinationFacts:
    waiting, oldest_at, due_at = session.execute(
        select(func.count(), func.min(Delivery.requested_at), func.min(Delivery.next_attempt_at)).where(
            Delivery.destination == name, Delivery.state == DeliveryState.PENDING
        )
    ).one()
    dead = _of(name, DeliveryState.DEAD, literal(1)).limit(MOST_COUNTED + 1).subquery()
    return DestinationFacts(
        name=name,
        is_set=is_set,
        waiting=waiting,
        dead=session.scalar(select(func.count()).select_from(dead)) or 0,
        oldest_at=oldest_at,
        due_at=due_at,
        delivered_at=_last_delivered(session, name),
        reason=_last_reason(session, name) if waiting else None,
    )


def _of(name: str, state: DeliveryState, *columns: Any) -> Select[Any]:
    return select(*columns).where(Delivery.destination == name, Delivery.state == state)


def _last_delivered(session: Session, name: str) -> datetime | None:
    # `next_attempt_at`, which the index is ordered by, stays where the claim before the last attempt put it.
    newest = _of(name, DeliveryState.DELIVERED, Delivery.delivered_at)
    rows = session.execute(newest.order_by(Delivery.next_attempt_at.desc()).limit(SAMPLE))
    times = [at for (at,) in rows if isinstance(at, datetime)]
    return max(times, default=None)


def _last_reason(session: Session, name: str) -> str | None:
    waiting = _of(name, DeliveryState.PENDING, Delivery.last_attempt_at, Delivery.reason)
    # What was tried waits for its back-off, so it is among the last; unless it is due right now.
    ends = (Delivery.next_attempt_at.desc(), Delivery.next_attempt_at)
    rows = [row for end in ends for row in session.execute(waiting.order_by(end).limit(SAMPLE))]
    tried = [(at, reason) for at, reason in rows if isinstance(at, datetime) and isinstance(reason, str)]
    return max(tried)[1] if tried else None
