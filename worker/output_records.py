"""Records an output and its way to those who want it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.records.base import utc_now
from models.records.outputs import Delivery, DeliveryState, Output
from worker.rendering import MadeOutput


def record_output(
    session: Session, instance_id: int, version_id: int | None, made: MadeOutput, recipients: Iterable[str]
) -> None:
    """Record an output and its deliveries; where it is known already it is the same object, and on its way or there.

    Args:
        session: of the caller's transaction.
        instance_id: that it is of.
        version_id: model version that answered; None where none did.
        made: the output.
        recipients: names of the destinations that it goes to.
    """
    written = made.written
    known = select(Output.id).where(Output.sop_instance_uid == written.sop_instance_uid)
    if session.scalar(known) is not None:
        return
    now = utc_now()
    output = Output(
        instance_id=instance_id,
        model_version_id=version_id,
        kind=made.kind,
        sop_class_uid=written.sop_class_uid,
        sop_instance_uid=written.sop_instance_uid,
        series_instance_uid=written.series_instance_uid,
        file_name=written.file_name,
        created_at=now,
    )
    session.add(output)
    session.flush()
    session.add_all(
        Delivery(
            output_id=output.id,
            destination=destination,
            state=DeliveryState.PENDING,
            attempts=0,
            requested_at=now,
            next_attempt_at=now,
        )
        for destination in recipients
    )
