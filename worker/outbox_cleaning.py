"""Which files of the outbox nobody needs any more, and their removal."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.records.base import utc_now
from models.records.outputs import Delivery, DeliveryState, Output
from worker.outbox import AnyOutbox

CLEANING_GROUP: Final = 500


def clean_outbox(sessions: sessionmaker[Session], outbox: AnyOutbox, keep_days: float) -> int:
    """Remove files older than `keep_days` unless they wait, are given up, or arrived since; say how many.

    Files that no record knows go, too: their worker died before it settled, and whoever worked again made its own.
    """
    outbox.discard_unfinished((utc_now() - timedelta(days=keep_days)).timestamp())
    going = removable_outputs(sessions, outbox, keep_days)
    for name in going:
        outbox.discard(name)
    return len(going)


def removable_outputs(sessions: sessionmaker[Session], outbox: AnyOutbox, keep_days: float) -> list[str]:
    """List the files that `clean_outbox` removes."""
    limit = utc_now() - timedelta(days=keep_days)
    old = outbox.file_names(limit.timestamp())
    going: list[str] = []
    for start in range(0, len(old), CLEANING_GROUP):
        group = old[start : start + CLEANING_GROUP]
        statement = (
            select(Output.file_name)
            .join(Delivery, Delivery.output_id == Output.id)
            .where(Output.file_name.in_(group))
            .where(
                (Delivery.state != DeliveryState.DELIVERED)
                | (Delivery.delivered_at > limit)
                | Delivery.commitment_due_at.is_not(None)  # it may have to be sent again
            )
        )
        with sessions.begin() as session:
            session.connection(execution_options={"read_only": True})
            needed = set(session.scalars(statement))
        going += set(group) - needed
    return going
