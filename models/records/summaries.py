"""Which studies are to be summarised: settling notes a study here, and whoever makes summaries takes it from here.

The note is written in the transaction that settles an instance, so that no crash comes between the two. Studies that
settled while no destination wanted summaries have no row, and get none when one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, case, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from models.errors import Reason
from models.records.base import Base, UtcDateTime, text_enum, utc_now
from models.records.dicom import Instance, Series, Study
from models.records.outputs import Delivery, Output


class SummaryState(StrEnum):
    """What became of the summary of a study."""

    DUE = "due"
    MADE = "made"
    SKIPPED = "skipped"


class StudySummary(Base):
    """The summary of one study; the objects themselves are rows of `output`, one for each time that it changed.

    Attributes:
        reason: a `models.errors.Reason`: why it is skipped, or why the last attempt failed.
        changes: how often instances of the study were settled; who made a summary of fewer begins again.
        changed_at: when that was last.
        waiting_since: when it was first, of those that no summary tells yet.
        next_attempt_at: not to be looked at before; a claim moves it ahead, so that two processes never make one
            summary at once, and that of a killed one runs out by itself.
        attempts: that failed.
    """

    __tablename__ = "study_summary"
    __table_args__ = (Index("ix_study_summary_state_next_attempt_at", "state", "next_attempt_at"),)

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    state: Mapped[SummaryState] = mapped_column(text_enum(SummaryState))
    reason: Mapped[str | None] = mapped_column(String(64))
    changes: Mapped[int]
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    waiting_since: Mapped[datetime] = mapped_column(UtcDateTime)
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int]

    study: Mapped[Study] = relationship()


def note_changes(session: Session, sop_instance_uids: Sequence[str]) -> None:
    """Note that the studies of settled instances have changed, within the caller's transaction, and last in it.

    Outputs of ours that came back change nothing: a summary of its own summary would never end.
    """
    studies = (
        select(Series.study_id)
        .join(Instance, Instance.series_id == Series.id)
        .where(
            Instance.sop_instance_uid.in_(sop_instance_uids),
            Instance.reason.is_distinct_from(Reason.OWN_OUTPUT.value),
        )
        .distinct()
    )
    note_studies(session, session.scalars(studies).all())


def note_studies(session: Session, study_ids: Sequence[int]) -> None:
    """Note that studies have changed, likewise."""
    if not study_ids:
        return
    postgres = session.get_bind().dialect.name == "postgresql"
    insert = postgresql.insert(StudySummary) if postgres else sqlite.insert(StudySummary)
    now = utc_now()
    # One order for all, or two transactions with the same studies could wait for each other.
    rows = [
        {
            "study_id": study_id,
            "state": SummaryState.DUE,
            "changes": 1,
            "changed_at": now,
            "waiting_since": now,
            "next_attempt_at": now,
            "attempts": 0,
        }
        for study_id in sorted(study_ids)
    ]
    # One that is due stays as it is, with the claim of who is at it; that one sees the change when it ends.
    still_due = StudySummary.state == SummaryState.DUE
    anew = {
        "state": SummaryState.DUE,
        "changes": StudySummary.changes + 1,
        "changed_at": insert.excluded.changed_at,
        "reason": case((still_due, StudySummary.reason), else_=None),
        "waiting_since": case((still_due, StudySummary.waiting_since), else_=insert.excluded.waiting_since),
        "next_attempt_at": case((still_due, StudySummary.next_attempt_at), else_=insert.excluded.next_attempt_at),
        "attempts": case((still_due, StudySummary.attempts), else_=0),
    }
    session.execute(insert.values(rows).on_conflict_do_update(index_elements=["study_id"], set_=anew))


def forget_summary(session: Session, output_id: int) -> None:
    """Forget a summary whose file is gone, with its deliveries, so that it is made again; the same UID if the same."""
    study_id = session.scalar(select(Output.study_id).where(Output.id == output_id))
    if study_id is None:
        return
    session.execute(delete(Delivery).where(Delivery.output_id == output_id))
    session.execute(delete(Output).where(Output.id == output_id))
    note_studies(session, [study_id])
