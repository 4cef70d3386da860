"""Studies of any age with a row in every table that belongs to one, and what a database holds, to be compared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from stand_in_records import Records

from models.records.base import Base
from models.records.dicom import Instance, InstanceState
from models.records.outputs import Delivery, DeliveryState, Output, OutputKind
from models.records.spine import HeightFinding, Landmark, SlipFinding, VertebraFinding
from models.records.summaries import StudySummary, SummaryState
from models.spine.measures import Part
from models.spine.schemas import Corner
from models.spine.slips import SlipKind
from models.tasks import Task
from models.zones import HeartFailureClass

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CR = "1.2.840.10008.5.1.4.1.1.1"


def days_ago(days: float) -> datetime:
    """A moment before `NOW`."""
    return NOW - timedelta(days=days)


class Planter:
    """Plants studies in one session; the caller commits."""

    def __init__(self, session: Session) -> None:
        self.records = Records(session)
        self.session = session

    def study(
        self,
        uid: str,
        age_days: float,
        *,
        state: InstanceState = InstanceState.DONE,
        delivery: DeliveryState = DeliveryState.DELIVERED,
        commitment_due_at: datetime | None = None,
        summary: SummaryState = SummaryState.MADE,
    ) -> None:
        """A study of two instances and a summary, received and answered so long ago."""
        received = days_ago(age_days)
        series = self.records.series(uid, f"{uid}.1")
        self.records.study(uid).patient_id = f"P{uid}"
        for number in (1, 2):
            instance = self.records.instance(
                f"{uid}.1.{number}", series, state if number == 1 else InstanceState.DONE, received_at=received
            )
            instance.sop_class_uid = CR
            self._answers(instance, received)
            self._output(f"{uid}.9.{number}", received, delivery, commitment_due_at, instance_id=instance.id)
        study_id = self.records.study(uid).id
        self._output(f"{uid}.9.3", received, DeliveryState.DELIVERED, None, study_id=study_id)
        times = {"changed_at": received, "waiting_since": received, "next_attempt_at": received}
        self.records.add(StudySummary(study_id=study_id, state=summary, changes=1, attempts=0, **times))

    def loose(self, uid: str, age_days: float, state: InstanceState = InstanceState.FAILED) -> Instance:
        """An instance that belongs to no study, with a report that it was not analysed."""
        received = days_ago(age_days)
        instance = self.records.instance(uid, None, state, received_at=received)
        self._output(f"{uid}.9", received, DeliveryState.DELIVERED, None, instance_id=instance.id)
        return instance

    def _answers(self, instance: Instance, at: datetime) -> None:
        records = self.records
        records.finding(instance, 0.75, inferred_at=at)
        records.congestion(instance, [0, 1, 2, 3, 0, None], 1.2, next(iter(HeartFailureClass)).value, inferred_at=at)
        records.spine(instance, [20.0, 10.0], inferred_at=at)
        records.shadow(instance, agrees=True, inferred_at=at)
        spine = records.inference(instance, "6.0", Task.LANDMARKS, at)
        key: dict[str, Any] = {"inference_id": spine.id}
        records.add(VertebraFinding(**key, vertebra="L1", confidence=0.5, review=False))
        records.add(Landmark(**key, vertebra="L1", corner=next(iter(Corner)), confidence=0.5, spread=1.0))
        pair = {"upper_vertebra": "L1", "lower_vertebra": "L2"}
        records.add(HeightFinding(**key, **pair, part=Part.DISC, left_px=1.0, right_px=1.0))
        slip = {"percent": 0.0, "offset_px": 0.0, "angle_degrees": 0.0}
        records.add(SlipFinding(**key, **pair, kind=next(iter(SlipKind)), **slip))

    def _output(
        self, uid: str, at: datetime, state: DeliveryState, commitment_due_at: datetime | None, **of: int
    ) -> None:
        output = Output(
            kind=OutputKind.STUDY_SUMMARY if "study_id" in of else OutputKind.STRUCTURED_REPORT,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
            sop_instance_uid=uid,
            series_instance_uid=f"{uid}.0",
            file_name=f"{uid}.dcm",
            created_at=at,
            **of,
        )
        self.records.add(output)
        self.records.add(
            Delivery(
                output_id=output.id,
                destination="archive",
                state=state,
                requested_at=at,
                next_attempt_at=at,
                last_attempt_at=at,
                delivered_at=at if state is DeliveryState.DELIVERED else None,
                commitment_due_at=commitment_due_at,
            )
        )


def contents(sessions: sessionmaker[Session]) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, in the order of their keys."""
    with sessions() as session:
        return {
            name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))]
            for name, table in Base.metadata.tables.items()
        }
