"""Records an output and its way to those who want it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from models.records.base import insert_ignoring, utc_now
from models.records.outputs import Delivery, DeliveryState, Output
from worker.rendering import MadeOutput


def record_output(
    session: Session,
    made: MadeOutput,
    recipients: Iterable[str],
    *,
    instance_id: int | None = None,
    study_id: int | None = None,
    version_id: int | None = None,
) -> bool:
    """Record an output and its deliveries; where it is known already it is the same object, and on its way or there.

    Args:
        session: of the caller's transaction.
        made: the output.
        recipients: names of the destinations that it goes to.
        instance_id: that it is of; None where it is of a whole study.
        study_id: that it is of; None where it is of an instance.
        version_id: model version that answered; None where none did.

    Returns:
        False where it was known.
    """
    written = made.written
    statement = insert_ignoring(session, Output).values(
        instance_id=instance_id,
        study_id=study_id,
        model_version_id=version_id,
        kind=made.kind,
        sop_class_uid=written.sop_class_uid,
        sop_instance_uid=written.sop_instance_uid,
        series_instance_uid=written.series_instance_uid,
        file_name=written.file_name,
        created_at=utc_now(),
    )
    output_id = session.scalar(statement.returning(Output.id))
    if output_id is None:
        return False
    record_deliveries(session, output_id, recipients)
    return True


def record_deliveries(session: Session, output_id: int, recipients: Iterable[str]) -> None:
    """Let an output go to destinations, from now on, in the caller's transaction."""
    now = utc_now()
    session.add_all(
        Delivery(
            output_id=output_id,
            destination=destination,
            state=DeliveryState.PENDING,
            attempts=0,
            requested_at=now,
            next_attempt_at=now,
        )
        for destination in recipients
    )
